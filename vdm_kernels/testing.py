"""What tests of the ops share: tolerances, poisoned memory, and the proof of which backend ran.

The rule for results: against the reference in float64, an implementation's largest error may be twice that of the
reference itself in the same dtype, plus a few units in the last place of the largest value.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vdm_kernels import native
from vdm_kernels.op import RECORDERS, Op, use_backend

_ULPS = 16.0
_DETERMINISTIC: Any = torch.utils.deterministic


@dataclass(frozen=True)
class Sample:
    """One call of a public function, by keyword.

    Attributes:
        name: says what is special about it.
        arguments: of the public function.
        gradients: whether gradients are compared (not where they are ambiguous, as with ties).
        large: whether it is too slow for an interpreter.
    """

    name: str
    arguments: dict[str, Any]
    gradients: bool = True
    large: bool = False

    def differentiable(self, op: Op) -> list[str]:
        """The arguments that are given and have a gradient."""
        return [name for name in op.differentiable if isinstance(self.arguments.get(name), Tensor)]

    def to_float64(self, op: Op) -> Sample:
        """The same call in double precision; constants such as logsnr keep their dtype."""
        double: dict[str, Any] = {name: self.arguments[name].double() for name in self.differentiable(op)}
        if "dtype" in self.arguments:
            double["dtype"] = torch.float64
        return replace(self, arguments={**self.arguments, **double})


@dataclass(frozen=True)
class Result:
    """The outputs of a call, and the gradients of its differentiable arguments by name."""

    outputs: tuple[Tensor, ...]
    gradients: dict[str, Tensor] = field(default_factory=dict)


def tensors(dtype: torch.dtype, device: torch.device | str, seed: int = 0) -> Callable[..., Tensor]:
    """A function of sizes that gives standard normal tensors: the same numbers for every dtype and device."""
    generator = torch.Generator("cpu").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cpu").to(device=device, dtype=dtype)

    return normal


def run(
    op: Op,
    function: Callable[..., Any],
    sample: Sample,
    *,
    backend: str | None = None,
    gradients: Sequence[str] | None = None,
) -> Result:
    """Calls `function` on a backend and differentiates a fixed random projection of its first output.

    Args:
        op: of the function.
        function: the public function, or a compiled one that calls it.
        sample: its arguments.
        backend: None for the one that the op chooses.
        gradients: the arguments to differentiate; None for all that can be.
    """
    arguments = dict(sample.arguments)
    names = sample.differentiable(op) if gradients is None else gradients
    names = names if sample.gradients else []
    for name in names:
        arguments[name] = _leaf(arguments[name])
    with contextlib.nullcontext() if backend is None else use_backend(backend):
        results = function(**arguments)
    outputs = results if isinstance(results, tuple) else (results,)
    values = tuple(output.detach() for output in outputs)
    if not names:
        return Result(values)
    # The same cotangent for every dtype; rounded to the narrowest, so that it is the same number in all.
    cotangent = tensors(torch.bfloat16, values[0].device, seed=1)(*values[0].shape).to(values[0].dtype)
    leaves = [arguments[name] for name in names]
    found = torch.autograd.grad(outputs[0], leaves, cotangent, materialize_grads=True)
    return Result(values, dict(zip(names, found)))


def _leaf(value: Tensor) -> Tensor:
    # detach keeps the strides, also those of a non-contiguous view.
    return value.detach().requires_grad_()


def assert_close(actual: Tensor, expected: Tensor, low: Tensor, what: str, truncates: bool = False) -> None:
    """Raises AssertionError where `actual` is further from `expected` than the rule allows.

    Args:
        actual: the result under test.
        expected: the reference's result in float64.
        low: the reference's result in the dtype of `actual`.
        what: heads the message.
        truncates: the backend truncates to bfloat16 where it should round, as Triton's interpreter does.
    """
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    assert actual.dtype == low.dtype, f"{what}: dtype {actual.dtype}, not {low.dtype}"
    dtype = actual.dtype
    actual, expected, low = actual.double(), expected.double(), low.double()
    finite = expected.isfinite()
    assert torch.equal(actual[~finite].nan_to_num(), expected[~finite].nan_to_num()), (
        f"{what}: wrong inf or NaN"
    )
    if not finite.any():
        return
    actual, expected, low = actual[finite], expected[finite], low[finite]
    scale = max(1.0, expected.abs().max().item())
    allowed = 2.0 * (low - expected).abs().max().item() + _ULPS * torch.finfo(torch.float32).eps * scale
    if truncates and dtype == torch.bfloat16:
        allowed += torch.finfo(dtype).eps * expected.abs().max().item()
    error = (actual - expected).abs().max().item()
    assert error <= allowed, f"{what}: error {error:.3g} where {allowed:.3g} is allowed"


def assert_results_close(
    actual: Result, expected: Result, low: Result, what: str, truncates: bool = False
) -> None:
    """`assert_close` for every output and every gradient."""
    for i, (a, e, r) in enumerate(zip(actual.outputs, expected.outputs, low.outputs)):
        assert_close(a, e, r, f"{what}: output {i}", truncates)
    assert actual.gradients.keys() == expected.gradients.keys()
    for name, gradient in actual.gradients.items():
        assert_close(
            gradient, expected.gradients[name], low.gradients[name], f"{what}: gradient of {name}", truncates
        )


@contextlib.contextmanager
def poisoned_empty() -> Iterator[None]:
    """Memory from `torch.empty` and its siblings is NaN (or the largest integer), so that a gap cannot hide."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = _DETERMINISTIC.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    _DETERMINISTIC.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        _DETERMINISTIC.fill_uninitialized_memory = fill


@contextlib.contextmanager
def record_backends() -> Iterator[list[tuple[str, str]]]:
    """Gives a list that fills with (op, backend) as ops run, forward and backward, also in compiled functions.

    Only a reference that a compiler has traced into leaves no entry: it is no op there.
    """
    record: list[tuple[str, str]] = []
    RECORDERS.append(record)
    try:
        yield record
    finally:
        RECORDERS[:] = [recorder for recorder in RECORDERS if recorder is not record]


def cpu_isas() -> Sequence[str]:
    """The instruction sets for which the native CPU kernels can run here, the best first."""
    if native.C is None:
        return ()
    best = native.C.cpu_isa()
    order = ("avx512", "avx2", "baseline")
    return order[order.index(best) :]


@contextlib.contextmanager
def cpu_isa(name: str) -> Iterator[None]:
    """Native CPU kernels use one instruction set."""
    assert native.C is not None
    before = native.C.cpu_isa()
    native.C.set_cpu_isa(name)
    try:
        yield
    finally:
        native.C.set_cpu_isa(before)

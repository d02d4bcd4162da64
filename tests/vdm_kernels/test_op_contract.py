"""What every op promises, on every backend of this machine, for every dtype: see each test's name.

The calls are those of `samples.py` in each op's folder. A backend that this machine or an op lacks is skipped with
its reason. "native" runs with every instruction set that the CPU has.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager
from torch._subclasses import FakeTensorMode

import vdm_kernels
from vdm_kernels.op import OPS, Op
from vdm_kernels.testing import (
    Sample,
    assert_results_close,
    cpu_isa,
    cpu_isas,
    poisoned_empty,
    record_backends,
    run,
)

NAMES = sorted(name for name in OPS if not name.endswith("_bwd"))
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# What a compiler or a dispatcher sees of an op does not depend on the values, so that one call of each stands for all.
TYPICAL = {
    "abs_quantile": "median",
    "ancestral_step": "guided_thresholded",
    "channel_statistics": "video",
    "ddim_step": "guided_thresholded",
    "group_norm_silu": "modulated",
    "group_norm_silu_conv": "residual_block",
    "langevin_step": "guided_thresholded",
    "philox_normal": "odd",
    "q_sample": "odd",
    "spatial_attention": "bias",
    "spatial_attention_block": "bias",
    "temporal_attention": "segments_bias",
    "temporal_attention_block": "segments_bias",
}


def _targets() -> Iterator[Any]:
    for device in DEVICES:
        yield pytest.param((device, "reference", None), id=f"{device}-reference")
        isas = cpu_isas() if device == "cpu" else ()
        for isa in isas or (None,):
            yield pytest.param((device, "native", isa), id="-".join(filter(None, (device, "native", isa))))
        yield pytest.param((device, "triton", None), id=f"{device}-triton")


@pytest.fixture(params=_targets())
def target(request: pytest.FixtureRequest, name: str) -> Iterator[tuple[str, str]]:
    """A device and a backend that can run the op `name` there."""
    device, backend, isa = request.param
    reason = OPS[name].why_not(backend)
    if reason is None:
        reason = OPS[name].unsupported(backend, _op_arguments(name, _samples(name, torch.float32, device)[0]))
    if reason is not None:
        pytest.skip(reason)
    with contextlib.nullcontext() if isa is None else cpu_isa(isa):
        yield device, backend


def _samples(name: str, dtype: torch.dtype, device: str, backend: str = "reference") -> list[Sample]:
    found = importlib.import_module(f"vdm_kernels.ops.{name}.samples").samples(dtype, device)
    interpreted = backend == "triton" and device == "cpu"
    return [sample for sample in found if not (interpreted and sample.large)]


def _typical(name: str, device: str, dtype: torch.dtype = torch.float32) -> Sample:
    return next(sample for sample in _samples(name, dtype, device) if sample.name == TYPICAL[name])


def _function(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(vdm_kernels, name)
    return function


def _op_arguments(name: str, sample: Sample) -> tuple[Any, ...]:
    """What the public function hands to the op."""
    seen: list[tuple[Any, ...]] = []

    def select(self: Op, args: tuple[Any, ...], prefer: str | None = None) -> str:
        seen.append(args)
        return "reference"

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Op, "select", select)
        _function(name)(**sample.arguments)
    return seen[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_float64_reference(name: str, target: tuple[str, str], dtype: torch.dtype) -> None:
    device, backend = target
    op, function = OPS[name], _function(name)
    for sample in _samples(name, dtype, device, backend):
        sample = _of_the_op(op, sample)
        expected = run(op, function, sample.to_float64(op), backend="reference")
        low = run(op, function, sample, backend="reference")
        with poisoned_empty(), record_backends() as record:
            actual = run(op, function, sample, backend=backend)
        interpreted = (device, backend) == ("cpu", "triton")
        assert_results_close(actual, expected, low, f"{name} {sample.name} on {backend}", interpreted)
        assert _passes(record, name)[0] == (name, backend)


def _of_the_op(op: Op, sample: Sample) -> Sample:
    """Without gradients where those are of the operators in the reference, which are run for them."""
    return sample if op.backward is not None else replace(sample, gradients=False)


def _passes(record: list[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    """What ran of the op's two passes: statistics that the backward pass needs are an op before them."""
    return [entry for entry in record if entry[0] in (name, f"{name}_bwd")]


@pytest.mark.parametrize("name", NAMES)
def test_backward_runs_on_the_backend_of_forward(name: str, target: tuple[str, str]) -> None:
    device, backend = target
    op = OPS[name]
    if op.backward is None or backend == "reference":
        pytest.skip("the reference is differentiated by PyTorch, philox_normal is not")
    sample = _typical(name, device)
    with record_backends() as record:
        run(op, _function(name), sample, backend=backend)
    expected = backend if op.backward.why_not(backend) is None else "reference"
    assert _passes(record, name) == [(name, backend), (op.backward.name, expected)]


@pytest.mark.parametrize("name", NAMES)
def test_the_default_device_does_not_count(name: str, target: tuple[str, str]) -> None:
    device, backend = target
    op, sample = OPS[name], _typical(name, device)
    expected = run(op, _function(name), sample, backend=backend)
    with torch.device("meta"):
        actual = run(op, _function(name), sample, backend=backend)
    assert_results_close(actual, expected, expected, f"{name} on {backend}")


@pytest.mark.parametrize("name", NAMES)
def test_each_gradient_alone_is_the_same(name: str, target: tuple[str, str]) -> None:
    device, backend = target
    op, sample = OPS[name], _typical(name, device)
    every = run(op, _function(name), sample, backend=backend)
    for argument in sample.differentiable(op):
        alone = run(op, _function(name), sample, backend=backend, gradients=[argument])
        torch.testing.assert_close(alone.gradients[argument], every.gradients[argument])


@pytest.mark.parametrize("name", NAMES)
def test_fake_has_the_layout_of_the_result(name: str, target: tuple[str, str]) -> None:
    device, backend = target
    op = OPS[name]
    interpreted = (device, backend) == ("cpu", "triton")
    for sample in [_typical(name, device)] if interpreted else _samples(name, torch.float32, device):
        args = _op_arguments(name, sample)
        real = op.overload(*args, backend)
        mode = FakeTensorMode()
        fake_args = [mode.from_tensor(arg) if isinstance(arg, Tensor) else arg for arg in args]
        with mode:
            fake = op.overload(*fake_args, backend)
        for r, f in zip(_tuple(real), _tuple(fake)):
            what = f"{name} {sample.name}"
            assert (f.shape, f.dtype, f.device) == (r.shape, r.dtype, r.device), what
            assert _significant_strides(f) == _significant_strides(r), what


def _significant_strides(tensor: Tensor) -> list[int]:
    if tensor.numel() == 0:
        return []
    return [stride for size, stride in zip(tensor.shape, tensor.stride()) if size > 1]


def _tuple(results: Any) -> tuple[Tensor, ...]:
    return tuple(results) if isinstance(results, tuple | list) else (results,)


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str, target: tuple[str, str]) -> None:
    device, backend = target
    op, sample = OPS[name], _typical(name, device)
    args = _op_arguments(name, sample)
    leaves = [
        arg.detach().requires_grad_(op.backward is not None and i in op.positions)
        if isinstance(arg, Tensor)
        else arg
        for i, arg in enumerate(args)
    ]
    torch.library.opcheck(op.overload, (*leaves, backend))
    if op.backward is not None:
        dout = torch.ones_like(_tuple(op.overload(*args, backend))[0])
        needs = [isinstance(args[i], Tensor) for i in op.positions]
        call = (dout, *args, needs)
        if op.backward.unsupported(backend, call) is None:
            torch.library.opcheck(op.backward.overload, (*call, backend))


@pytest.mark.parametrize("name", NAMES)
def test_compiles_to_one_graph(name: str, target: tuple[str, str]) -> None:
    device, backend = target
    op, sample = OPS[name], _of_the_op(OPS[name], _typical(name, device))
    graphs: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    compiled = torch.compile(_function(name), fullgraph=True, backend=compiler)
    expected = run(op, _function(name), sample, backend=backend)
    with record_backends() as record:
        actual = run(op, compiled, sample, backend=backend)
    assert_results_close(actual, expected, expected, f"compiled {name} on {backend}")
    assert len(graphs) == 1
    nodes = [str(node.target) for node in graphs[0].graph.nodes if "vdm_kernels" in str(node.target)]
    if backend == "reference":
        assert nodes == []
        assert record == []
    else:
        before = ["vdm_kernels.channel_statistics.default"] if op.prepare else []
        assert nodes == [*before, f"vdm_kernels.{name}.default"]
        assert _passes(record, name)[0] == (name, backend)


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_named(name: str) -> None:
    for sample in importlib.import_module(f"vdm_kernels.ops.{name}.samples").bad_samples("cpu"):
        with pytest.raises(ValueError, match=rf"^{name}: .*\b{sample.name}\b.*, got ") as error:
            _function(name)(**sample.arguments)
        assert "\n" not in str(error.value)


JUNK = [
    None,
    True,
    -1,
    3,
    0.5,
    math.nan,
    "video",
    (),
    (2, -3),
    [1.0],
    torch.bool,
    torch.ones(()),
    torch.ones(2),
    torch.ones(2, 3),
    torch.ones(2, 3, 4, 5, 6),
    torch.ones(2, 3, 4, 5, 6, 7),
    torch.ones(2, dtype=torch.complex64),
    torch.ones(2, 16, 2, 8, 8, dtype=torch.int8),
    torch.ones(2, device="meta"),
    torch.ones(2, 3, 4, 6, 6, device="meta"),
]


@pytest.mark.parametrize("name", NAMES)
def test_junk_is_refused_or_has_a_meaning(name: str) -> None:
    sample = _typical(name, "cpu")
    optional = inspect.signature(_function(name)).parameters
    for argument in {*sample.arguments, *optional}:
        for junk in JUNK:
            refusal = _refusal(name, {**sample.arguments, argument: junk})
            assert refusal is None or refusal.startswith(f"{name}: "), (argument, junk)


def _refusal(name: str, arguments: dict[str, Any]) -> str | None:
    try:
        _function(name)(**arguments)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", NAMES)
def test_meta_tensors_give_shapes(name: str) -> None:
    sample = _typical(name, "cpu")
    real = _tuple(_function(name)(**sample.arguments))
    meta = {
        key: value.to("meta") if isinstance(value, Tensor) else value
        for key, value in sample.arguments.items()
    }
    for r, m in zip(real, _tuple(_function(name)(**meta))):
        assert m.device.type == "meta"
        assert (m.shape, m.dtype) == (r.shape, r.dtype)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_inductor_runs_a_step(backend: str) -> None:
    op, name = OPS["ddim_step"], "ddim_step"
    if op.why_not(backend):
        pytest.skip(str(op.why_not(backend)))
    sample = _typical(name, "cpu")
    sample.arguments["eta"] = 0.0  # without noise, so that there is little to compile
    torch._dynamo.reset()
    expected = run(op, vdm_kernels.ddim_step, sample.to_float64(op), backend="reference")
    low = run(op, vdm_kernels.ddim_step, sample, backend="reference")
    actual = run(op, torch.compile(vdm_kernels.ddim_step, fullgraph=True), sample, backend=backend)
    assert_results_close(actual, expected, low, f"inductor on {backend}")

"""What a row runs: one op on one set of inputs, its baselines, and the least work it has to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CompileOptions = dict[str, str | int | bool | Callable[..., Any]]  # as torch.compile takes them
Function = Callable[..., Tensor | tuple[Tensor, ...]]

# Greatest accepted ||result - expected|| / ||expected||. This is a guard against timing a wrong result; the
# precision of the ops is the tests' business.
RELATIVE_ERROR = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Work:
    """The bytes that have to move (each input read once, each output written once), and the FLOP."""

    num_bytes: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True)
class Workload:
    """One op on one set of inputs. Every function takes the tensors of `inputs`, in order, and nothing else.

    Args:
        call: the op's public function; under `use_backend("reference")` it is also the expected result.
        plain: the same as a user writes it in PyTorch: the `eager` row, and what `torch.compile` is given.
        inputs: those to differentiate require a gradient.
        activations: the positions of those that came from the layers before: a `dx` row differentiates them alone.
        work: the least work, by direction.
        libraries: per name in the table, another call that a user could make, or why there is none here.
        random: the baselines draw noise of their own, so that they agree with `call` in mean and spread only.
        other_models: libraries that compute something else of the same shape: a peer's network.
        compile_options: `options` of `torch.compile` in the full run; `--quick` takes its defaults.
        compiled: options -> what the `compile` row runs, where that is not `torch.compile(plain)`.
        memory: also report the peak memory of a call.
    """

    call: Function
    plain: Function
    inputs: tuple[Tensor, ...]
    activations: tuple[int, ...] = (0,)
    work: Mapping[str, Work] = field(default_factory=dict)
    libraries: Mapping[str, Function | str] = field(default_factory=dict)
    random: bool = False
    other_models: tuple[str, ...] = ()
    compile_options: CompileOptions = field(default_factory=lambda: {"max_autotune": True})
    compiled: Callable[[CompileOptions], Function] | None = None
    memory: bool = False


def size_in_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def relative_error(result: Tensor, expected: Tensor) -> float:
    """`||result - expected|| / ||expected||`, in float64; infinite where a value is not finite."""
    difference = torch.linalg.vector_norm(result.double() - expected.double())
    error = (difference / torch.linalg.vector_norm(expected.double()).clamp_min(1e-30)).item()
    return error if error == error else float("inf")


def spread_error(result: Tensor, expected: Tensor) -> float:
    """How far mean and standard deviation are apart, in standard deviations of `expected`."""
    spread = expected.double().std().clamp_min(1e-30)
    mean_apart = (result.double().mean() - expected.double().mean()).abs() / spread
    spread_apart = (result.double().std() / spread - 1).abs()
    return float(torch.maximum(mean_apart, spread_apart))

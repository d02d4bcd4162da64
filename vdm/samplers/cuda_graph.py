"""A function of tensors as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def check_cuda_graph(where: str, device: torch.device) -> None:
    """Raises ValueError where no CUDA graph can be made: on any other device."""
    if device.type != "cuda":
        raise ValueError(f"{where}: cuda_graph must be False without a CUDA device, got True on {device}")


def capture_cuda_graph(
    function: Callable[[], Result], device: torch.device
) -> tuple[Result, Callable[[], object]]:
    """Record `function` without running it: (what it will return, a call that computes it)."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        result = function()
    return result, graph.replay


class CudaGraphed(Generic[Result]):
    """`function` as a CUDA graph, captured at the second call and replayed from then on.

    The first call runs it as it is: kernels are compiled and libraries initialised there, which a capture does
    not allow. A replay works on copies of the arguments and writes to the same memory every time, so that what
    a call returned holds until the next one.

    Args:
        where: the caller, for the error message.
        function: of tensors, whose shapes stay; it must read none of them on the host.

    Raises:
        ValueError: (at the second call) the function cannot be captured.
    """

    def __init__(self, where: str, function: Callable[..., Result]) -> None:
        self._where, self._function = where, function
        self._arguments: tuple[Tensor, ...] | None = None
        self._captured: tuple[Result, Callable[[], object]] | None = None

    def __call__(self, *arguments: Tensor) -> Result:
        if self._arguments is None:
            self._arguments = tuple(argument.clone() for argument in arguments)
            return self._function(*self._arguments)
        for kept, argument in zip(self._arguments, arguments, strict=True):
            kept.copy_(argument)
        if self._captured is None:
            self._captured = self._record(self._arguments)
        result, replay = self._captured
        replay()
        return result

    def _record(self, arguments: tuple[Tensor, ...]) -> tuple[Result, Callable[[], object]]:
        try:
            return capture_cuda_graph(lambda: self._function(*arguments), arguments[0].device)
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0]
            raise ValueError(
                f"{self._where}: cuda_graph=True needs a denoiser that never reads a tensor on the host,"
                f" got: {reason}"
            ) from error

"""`group_norm_silu` in C++ and CUDA C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, launch_in_workspace, pointer, unsupported
from vdm_kernels.ops.channel_statistics.native import channel_statistics, joint_statistics


class NormTensors(NamedTuple):
    """The tensors of a modulated GroupNorm as the kernels read them, contiguous; float32 but for the statistics."""

    statistics: Tensor | None  # (B, F, C, 2) float64; None where a CUDA kernel computes them
    weight: Tensor  # (C,)
    bias: Tensor  # (C,)
    scale: Tensor | None  # (B, C) or (B, F, C), as shift
    shift: Tensor | None

    @property
    def modulation_frames(self) -> int:
        """How many frames scale and shift tell apart."""
        modulation = self.shift if self.scale is None else self.scale
        return modulation.shape[1] if modulation is not None and modulation.dim() == 3 else 1

    def arguments(
        self, x: Tensor, num_groups: int, norm_scope: str, eps: float
    ) -> tuple[int | float | bool, ...]:
        """Those of `group_norm` in csrc/bindings.h, for a norm of `x`, or of x and what follows its channels."""
        sizes = (x.shape[0], x.shape[2], self.weight.shape[0], num_groups, self.modulation_frames)
        return (*map(pointer, self), *sizes, norm_scope == "video", eps)


def norm_tensors(
    statistics: Tensor | None, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None
) -> NormTensors:
    """Converts what is not float32."""
    scale, shift = None if scale is None else _float32(scale), None if shift is None else _float32(shift)
    if scale is not None and shift is not None and scale.dim() != shift.dim():
        rows = (t if t.dim() == 3 else t.unsqueeze(1) for t in (scale, shift))
        scale, shift = (t.contiguous() for t in torch.broadcast_tensors(*rows))
    return NormTensors(statistics, _float32(weight), _float32(bias), scale, shift)


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()


def supports_group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> str | None:
    """None, or why the extension cannot run this call."""
    affine = [tensor.dtype for tensor in (weight, bias, scale, shift) if tensor is not None]
    if torch.float64 in affine:
        return "the native kernels compute in float32, and a parameter is float64"
    return unsupported(x.device, x.dtype, *affine)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> Tensor:
    """See `vdm_kernels.group_norm_silu`; x is channels-last, scale and shift are (B, C) or (B, F, C)."""
    if x.is_cuda:
        return activation(x, None, weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)
    statistics = channel_statistics(x) if statistics is None else statistics
    norm = norm_tensors(statistics, weight, bias, scale, shift)
    y = torch.empty_like(x)
    pixels = x.shape[3] * x.shape[4]
    of_x = (x.data_ptr(), y.data_ptr(), DTYPE_CODES[x.dtype], pixels)
    launch("group_norm_silu", x.device, *of_x, *norm.arguments(x, num_groups, norm_scope, eps))
    return y


def activation(
    x: Tensor,
    x2: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> Tensor:
    """`group_norm_silu` of the concatenation of x and x2 on a GPU."""
    norm = norm_tensors(statistics, weight, bias, scale, shift)
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    launch_in_workspace(
        "group_norm_silu",
        x.device,
        *map(pointer, (x, x2, y)),
        DTYPE_CODES[x.dtype],
        x.shape[3] * x.shape[4],
        x.shape[1],
        norm.arguments(x, num_groups, norm_scope, eps),
    )
    return y


def supports_group_norm_silu_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
    needs: Sequence[bool],
) -> str | None:
    """None, or why the extension cannot run this call."""
    return supports_group_norm_silu(x, weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)


def group_norm_silu_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (x, weight, bias, scale, shift), empty where not needed; dout is channels-last."""
    norm = (weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)
    return input_gradients(dout, x, None, *norm, (*needs, False))[:5]


def input_gradients(
    dout: Tensor,
    x: Tensor,
    x2: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
    needs: Sequence[bool],
    convolution: tuple[Any, ...] = (),
) -> list[Tensor]:
    """Gradients of (x, weight, bias, scale, shift, x2), empty where not needed.

    The norm is over the channels of x and x2 together, which are those of `dout`. On the CPU, `dout` may have another
    dtype than x and x2, or be the gradient behind a convolution: that of `winograd_input_gradient` in
    csrc/bindings.cpp, whose other arguments these are. All are channels-last.
    """
    arguments, empty = (x, weight, bias, scale, shift, x2), x.new_empty(0)
    if dout.numel() == 0:
        return [torch.zeros_like(a) if need and a is not None else empty for a, need in zip(arguments, needs)]
    statistics = joint_statistics(x, x2) if statistics is None else statistics
    norm = norm_tensors(statistics, weight, bias, scale, shift)
    read = (x, norm.weight, norm.bias, norm.scale, norm.shift, x2)
    gradients = [torch.empty_like(t) if need and t is not None else None for t, need in zip(read, needs)]
    dx, *affine, dx2 = gradients
    pointers = [pointer(t) for t in (dout, x, x2, dx, dx2, *affine)]
    sizes = (DTYPE_CODES[x.dtype], x.shape[3] * x.shape[4], x.shape[1])
    of_norm = norm.arguments(x, num_groups, norm_scope, eps)
    if x.is_cuda:
        launch_in_workspace("group_norm_silu_bwd", x.device, *pointers, *sizes, of_norm)
    else:
        gradient: tuple[Any, ...] = (*pointers, DTYPE_CODES[dout.dtype], *sizes, of_norm)
        launch(
            "winograd_input_gradient" if convolution else "group_norm_silu_bwd",
            x.device,
            *convolution,
            gradient,
        )
    return [
        empty if argument is None or gradient is None else _like(argument, gradient)
        for argument, gradient in zip(arguments, gradients)
    ]


def _like(argument: Tensor, gradient: Tensor) -> Tensor:
    # A shift that all frames share meets a scale of each its own.
    if gradient.shape != argument.shape:
        gradient = gradient.sum(1)
    return gradient if gradient.dtype == argument.dtype else gradient.to(argument.dtype)

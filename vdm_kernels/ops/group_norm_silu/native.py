"""`group_norm_silu` in C++ and CUDA C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, launch_in_workspace, pointer, unsupported
from vdm_kernels.ops.channel_statistics.native import channel_statistics, joint_statistics

# statistics, weight, bias, scale, shift
NormTensors: TypeAlias = tuple[Tensor | None, Tensor, Tensor, Tensor | None, Tensor | None]


def kernel_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> tuple[tuple[float, ...], NormTensors]:
    """GroupNormArgs of csrc/bindings.h, for a norm of `x`, or of x and what follows its channels.

    Args:
        statistics: None where the kernel computes them.

    Returns:
        The arguments, and the tensors that they point to: contiguous, and float32 but for the statistics.
    """
    weight, bias = float32(weight), float32(bias)
    scale, shift = None if scale is None else float32(scale), None if shift is None else float32(shift)
    if scale is not None and shift is not None and scale.dim() != shift.dim():
        rows = (t if t.dim() == 3 else t.unsqueeze(1) for t in (scale, shift))
        scale, shift = (t.contiguous() for t in torch.broadcast_tensors(*rows))
    modulation = shift if scale is None else scale
    frames = modulation.shape[1] if modulation is not None and modulation.dim() == 3 else 1
    tensors = (statistics, weight, bias, scale, shift)
    sizes = (x.shape[0], x.shape[2], weight.shape[0], num_groups, frames)
    return (*map(pointer, tensors), *sizes, norm_scope == "video", eps), tensors


def float32(tensor: Tensor) -> Tensor:
    """The tensor contiguous in float32."""
    if tensor.dtype == torch.float32 and tensor.is_contiguous():
        return tensor  # without a call of what converts, which the caches do not hold
    return tensor.float().contiguous()


def unsupported_norm(x: Tensor, *affine: Tensor | None) -> str | None:
    """Why the extension cannot run a norm of x with these parameters; None where it can."""
    dtypes = []
    for tensor in affine:
        if tensor is not None:
            dtypes.append(tensor.dtype)
    if torch.float64 in dtypes:
        return "the native kernels compute in float32, and a parameter is float64"
    return unsupported(x.device, x.dtype, *dtypes)


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
    return unsupported_norm(x, weight, bias, scale, shift)


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
    norm, _held = kernel_norm(x, weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)
    y = torch.empty_like(x)
    pixels = x.shape[3] * x.shape[4]
    launch("group_norm_silu", x.device, x.data_ptr(), y.data_ptr(), DTYPE_CODES[x.dtype], pixels, *norm)
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
    norm, _held = kernel_norm(x, weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    launch_in_workspace(
        "group_norm_silu",
        x.device,
        *map(pointer, (x, x2, y)),
        DTYPE_CODES[x.dtype],
        x.shape[3] * x.shape[4],
        x.shape[1],
        norm,
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
) -> list[Tensor | None]:
    """Gradients of (x, weight, bias, scale, shift), None where not needed; dout is channels-last."""
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
) -> list[Tensor | None]:
    """Gradients of (x, weight, bias, scale, shift, x2), None where not needed.

    The norm is over the channels of x and x2 together, which are those of `dout`. On the CPU, `dout` may have another
    dtype than x and x2, or be the gradient behind a convolution: that of `winograd_input_gradient` in
    csrc/bindings.cpp, whose other arguments these are. All are channels-last.
    """
    arguments = (x, weight, bias, scale, shift, x2)
    if dout.numel() == 0:
        return [torch.zeros_like(a) if need and a is not None else None for a, need in zip(arguments, needs)]
    statistics = joint_statistics(x, x2) if statistics is None else statistics
    of_norm, tensors = kernel_norm(x, weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)
    read = (x, *tensors[1:], x2)
    gradients = [torch.empty_like(t) if need and t is not None else None for t, need in zip(read, needs)]
    dx, *affine, dx2 = gradients
    pointers = [pointer(t) for t in (dout, x, x2, dx, dx2, *affine)]
    sizes = (DTYPE_CODES[x.dtype], x.shape[3] * x.shape[4], x.shape[1])
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
        None if argument is None or gradient is None else _like(argument, gradient)
        for argument, gradient in zip(arguments, gradients)
    ]


def _like(argument: Tensor, gradient: Tensor) -> Tensor:
    # A shift that all frames share meets a scale of each its own.
    if gradient.shape != argument.shape:
        gradient = gradient.sum(1)
    return gradient if gradient.dtype == argument.dtype else gradient.to(argument.dtype)

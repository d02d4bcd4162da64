"""`group_norm_silu_conv` on a GPU: one fused CUDA C++ kernel where that is faster, elsewhere kernels around cuDNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch_in_workspace, pointer
from vdm_kernels.ops.channel_statistics.native import channel_statistics, joint_statistics
from vdm_kernels.ops.group_norm_silu.native import activation, input_gradients, kernel_norm

# The most channels, in and out, with which the fused kernel is used, by the major compute capability. Up to there the
# passes that it saves (over the activated tensor, for the residual, for the next norm's statistics) cost more than what
# cuDNN's convolution is faster by: 64 channels in bfloat16 on an H200 are 0.2 ns a pixel for 0.3, 128 are 0.75 for
# 0.85, by arithmetic.
FUSED_CHANNELS = {8: (192, 128), 9: (192, 128)}
# The share of the fused kernel's tiles that must lie in the image: small images leave them empty.
FUSED_LEAST_SHARE = 0.5
_TILE = 16


class Norm(NamedTuple):
    """The arguments of the norm before a convolution."""

    weight: Tensor
    bias: Tensor
    scale: Tensor | None
    shift: Tensor | None
    statistics: Tensor | None
    num_groups: int
    norm_scope: str
    eps: float


def norm_of(
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> Norm | None:
    """The norm of these arguments, where there is one."""
    if weight is None or bias is None:
        return None
    return Norm(weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)


def group_norm_silu_conv(
    x: Tensor,
    x2: Tensor | None,
    norm: Norm | None,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    upsample: bool,
    stride: int,
    return_statistics: bool,
) -> tuple[Tensor, Tensor]:
    """See `vdm_kernels.group_norm_silu_conv`; videos are channels-last."""
    if norm is not None and stride == 1 and not upsample and prefers_fused(x, x2, weight, residual):
        return fused(x, x2, norm, weight, bias, residual, return_statistics)
    images = _activated(x, x2, norm, upsample)
    y = _video(F.conv2d(images, weight, bias, stride=stride, padding=weight.shape[-1] // 2), x)
    if residual is not None:
        y += residual
    return y, channel_statistics(y) if return_statistics else x.new_empty(0, dtype=torch.float64)


def group_norm_silu_conv_bwd(
    dout: Tensor,
    x: Tensor,
    x2: Tensor | None,
    norm: Norm | None,
    weight: Tensor,
    bias: Tensor | None,
    upsample: bool,
    stride: int,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of (x, weight, bias, norm_weight, norm_bias, scale, shift, x2), None where not needed."""
    need_x, need_weight, need_bias, *need_affine, need_x2 = needs
    need_input = need_x or need_x2 or any(need_affine)
    da, dweight, dbias = torch.ops.aten.convolution_backward(
        _frames(dout),
        _activated(x, x2, norm, upsample),
        weight,
        None if bias is None else bias.shape,
        [stride, stride],
        [weight.shape[-1] // 2] * 2,
        [1, 1],
        False,
        [0, 0],
        1,
        [need_input, need_weight, need_bias],
    )
    dx: Tensor | None = None
    dx2: Tensor | None = None
    daffine: list[Tensor | None] = [None] * 4
    if need_input:
        da = _video(F.avg_pool2d(da, 2, divisor_override=1) if upsample else da, x)
        if norm is not None:
            dx, *daffine, dx2 = input_gradients(da, x, x2, *norm, (need_x, *need_affine, need_x2))
        elif x2 is None:
            dx = da
        else:
            parts = da.split((x.shape[1], x2.shape[1]), dim=1)
            dx, dx2 = (part.contiguous(memory_format=torch.channels_last_3d) for part in parts)
    if need_weight and dweight.stride() != weight.stride():
        dweight = torch.empty_like(weight).copy_(dweight)
    gradients = (dx, dweight, dbias, *daffine, dx2)
    return [gradient if need else None for gradient, need in zip(gradients, needs)]


def prefers_fused(x: Tensor, x2: Tensor | None, weight: Tensor, residual: Tensor | None) -> bool:
    """Whether the fused kernel can take this convolution after a norm, and is the faster choice."""
    out_channels, channels = weight.shape[:2]
    height, width = x.shape[3:]
    most_in, most_out = FUSED_CHANNELS.get(torch.cuda.get_device_capability(x.device)[0], (0, 0))
    tiles = -(-height // _TILE) * -(-width // _TILE)
    return (
        channels <= most_in
        and out_channels <= most_out
        and height * width >= FUSED_LEAST_SHARE * tiles * _TILE**2
        and why_not_fused(x, x2, weight, residual) is None
    )


def why_not_fused(x: Tensor, x2: Tensor | None, weight: Tensor, residual: Tensor | None) -> str | None:
    """Why the fused kernel cannot take this convolution after a norm; None where it can."""
    if x.dtype == torch.float32:
        return "tensor cores would round float32 to 10 bits"
    if weight.shape[-1] != 3:
        return "it is a 3x3 convolution"
    videos = [video for video in (x, x2, residual) if video is not None]
    if weight.shape[0] % 8 or any(video.shape[1] % 8 or video.data_ptr() % 16 for video in videos):
        return "it accesses 16 bytes, 8 channels, at a time"
    return None


def fused(
    x: Tensor,
    x2: Tensor | None,
    norm: Norm,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    return_statistics: bool,
) -> tuple[Tensor, Tensor]:
    """The fused kernel, for what `why_not_fused` accepts."""
    if norm.statistics is None:
        norm = norm._replace(statistics=joint_statistics(x, x2))
    of_norm, _held = kernel_norm(x, *norm)
    batch, _, frames, height, width = x.shape
    shape = (batch, weight.shape[0], frames, height, width)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    rows = (batch, frames, weight.shape[0], 2) if return_statistics else (0,)
    y_statistics = x.new_empty(rows, dtype=torch.float64)
    launch_in_workspace(
        "fused_conv",
        x.device,
        *map(pointer, (x, x2, weight, bias, residual, y, y_statistics if return_statistics else None)),
        DTYPE_CODES[x.dtype],
        height,
        width,
        x.shape[1],
        weight.shape[0],
        weight.stride(),
        of_norm,
    )
    return y, y_statistics


def _activated(x: Tensor, x2: Tensor | None, norm: Norm | None, upsample: bool) -> Tensor:
    """What the convolution reads, (B F, C, H, W) channels-last."""
    if norm is not None:
        video = activation(x, x2, *norm)
    else:
        video = x if x2 is None else torch.cat([x, x2], dim=1)
    images = _frames(video)
    return F.interpolate(images, scale_factor=2.0, mode="nearest") if upsample else images


def _frames(video: Tensor) -> Tensor:
    """(B, C, F, H, W) to (B F, C, H, W): a view of channels-last memory."""
    return video.transpose(1, 2).flatten(0, 1)


def _video(images: Tensor, x: Tensor) -> Tensor:
    """(B F, C, H, W) to channels-last (B, C, F, H, W), with the batch and the frames of x."""
    video = images.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    return video.contiguous(memory_format=torch.channels_last_3d)

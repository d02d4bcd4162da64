"""Plain PyTorch definition of `group_norm_silu_conv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_kernels.op import recomputed_gradients
from vdm_kernels.ops.channel_statistics.reference import channel_statistics
from vdm_kernels.ops.group_norm_silu.reference import group_norm_silu


def group_norm_silu_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x2: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    upsample: bool,
    stride: int,
    norm_scope: str,
    eps: float,
    precision: str,
    return_statistics: bool,
) -> tuple[Tensor, Tensor]:
    """See `vdm_kernels.group_norm_silu_conv`; scale, shift are (B, C) or (B, F, C); num_groups 0 is no norm.

    `statistics` is what x and x2 say anyway, so it is not read; there is one precision.
    """
    if x2 is not None:
        x = torch.cat([x, x2], dim=1)
    if norm_weight is not None and norm_bias is not None:
        x = group_norm_silu(x, norm_weight, norm_bias, scale, shift, None, num_groups, norm_scope, eps)
    batch, frames = x.shape[0], x.shape[2]
    # (B, C, F, H, W) -> (B F, C, H, W): a view of channels-last memory. A 3D convolution would be slower.
    images = x.transpose(1, 2).flatten(0, 1)
    if upsample:
        images = F.interpolate(images, scale_factor=2.0, mode="nearest")
    images = F.conv2d(images, weight, bias, stride=stride, padding=weight.shape[-1] // 2)
    y = images.unflatten(0, (batch, frames)).transpose(1, 2)
    if residual is not None:
        y = y + residual
    y = y.contiguous(memory_format=torch.channels_last_3d)
    if return_statistics:
        return y, channel_statistics(y.detach())
    return y, y.new_empty(0, dtype=torch.float64)


def group_norm_silu_conv_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x2: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    upsample: bool,
    stride: int,
    norm_scope: str,
    eps: float,
    precision: str,
    return_statistics: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (x, weight, bias, norm_weight, norm_bias, scale, shift, x2); that of residual is dout."""

    rest: tuple[Any, ...] = (None, None, num_groups, upsample, stride, norm_scope, eps, precision, False)
    tensors = (x, weight, bias, norm_weight, norm_bias, scale, shift, x2)
    return recomputed_gradients(
        lambda *tensors: group_norm_silu_conv(*tensors, *rest)[0], tensors, range(8), dout, needs
    )

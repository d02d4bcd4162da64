"""Plain PyTorch definition of `group_norm_silu`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_kernels.op import recomputed_gradients


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
    """See `vdm_kernels.group_norm_silu`; scale and shift are (B, C) or (B, F, C).

    `statistics` is what x says anyway, so it is not read: kernels save a pass with it.
    """
    batch, frames = x.shape[0], x.shape[2]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x.contiguous(memory_format=torch.channels_last_3d)
    # (B F, C, H, W) or (B, C, F H, W): channels-last views, which PyTorch normalizes without a copy.
    images = x.transpose(1, 2).flatten(0, 1) if norm_scope == "frame" else x.flatten(2, 3)
    images = images.to(dtype)
    # PyTorch's channels-last statistics are wrong where mean >> std; normalization does not see the shift.
    images = images - _group_mean(images.detach(), num_groups)
    # PyTorch's channels-last backward crashes where the affine parameters need a gradient and the input none.
    affine_only = (weight.requires_grad or bias.requires_grad) and not images.requires_grad
    modulated = scale is not None or shift is not None or (torch.is_grad_enabled() and affine_only)
    gain, offset = weight.to(dtype), bias.to(dtype)
    y = torch.group_norm(images, num_groups, None if modulated else gain, None if modulated else offset, eps)
    y = y.unflatten(0, (batch, frames)).transpose(1, 2) if norm_scope == "frame" else y.view_as(x)
    if modulated:
        if scale is not None:
            factor = 1.0 + _rows(scale).to(dtype)
            gain, offset = gain * factor, offset * factor
        if shift is not None:
            offset = offset + _rows(shift).to(dtype)
        y = torch.addcmul(_per_channel(offset), y, _per_channel(gain))
    return F.silu(y).to(x.dtype).contiguous(memory_format=torch.channels_last_3d)


def _group_mean(images: Tensor, num_groups: int) -> Tensor:
    """The mean of each image's groups, repeated for their channels: (N, C, H, W) to (N, C, 1, 1)."""
    channels = images.permute(0, 2, 3, 1).flatten(1, 2).mean(1)
    groups = channels.unflatten(1, (num_groups, -1)).mean(2, keepdim=True)
    return groups.expand(-1, -1, images.shape[1] // num_groups).flatten(1)[:, :, None, None]


def _rows(modulation: Tensor) -> Tensor:
    """(B, C) as (B, 1, C), for all frames the same; (B, F, C) as it is."""
    return modulation.unsqueeze(1) if modulation.dim() == 2 else modulation


def _per_channel(affine: Tensor) -> Tensor:
    """(C,), (B, 1, C) or (B, F, C) to broadcast against (B, C, F, H, W)."""
    rows = affine.expand(1, 1, -1) if affine.dim() == 1 else affine
    return rows.mT[..., None, None]


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
    """Gradients of (x, weight, bias, scale, shift)."""
    args = (x, weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)
    return recomputed_gradients(group_norm_silu, args, range(5), dout, needs)

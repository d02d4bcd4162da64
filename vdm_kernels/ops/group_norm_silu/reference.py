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
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> Tensor:
    """See `vdm_kernels.group_norm_silu`; scale and shift are (B, F, C) or (B, 1, C)."""
    batch, channels, frames, height, width = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    # (B, F, HW, G, C/G): the bytes of channels-last memory, so that this is a view.
    pixels = x.permute(0, 2, 3, 4, 1).reshape(batch, frames, height * width, num_groups, -1).to(dtype)
    dims = (2, 4) if norm_scope == "frame" else (1, 2, 4)
    # Two passes over the data: right also where the mean is far larger than the standard deviation.
    var, mean = torch.var_mean(pixels, dim=dims, correction=0, keepdim=True)
    gain = weight.to(dtype).view(num_groups, -1)
    offset = bias.to(dtype).view(num_groups, -1)
    if scale is not None:
        gain = gain * (1.0 + scale.to(dtype)).view(batch, -1, 1, num_groups, channels // num_groups)
        offset = offset * (1.0 + scale.to(dtype)).view(batch, -1, 1, num_groups, channels // num_groups)
    if shift is not None:
        offset = offset + shift.to(dtype).view(batch, -1, 1, num_groups, channels // num_groups)
    y = F.silu((pixels - mean) * (torch.rsqrt(var + eps) * gain) + offset).to(x.dtype)
    return y.view(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)


def group_norm_silu_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (x, weight, bias, scale, shift)."""
    args = (x, weight, bias, scale, shift, num_groups, norm_scope, eps)
    return recomputed_gradients(group_norm_silu, args, range(5), dout, needs)

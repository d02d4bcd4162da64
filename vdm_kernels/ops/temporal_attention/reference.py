"""Plain PyTorch definition of `temporal_attention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_kernels.op import recomputed_gradients

_MAX_SEQUENCES = 65535


def temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """See `vdm_kernels.temporal_attention`."""
    batch, frames, pixels, _, heads, width = qkv.shape
    # (3, B S, heads, F, d): a view where B = 1, one copy elsewhere.
    qkv = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    mask = _mask(qkv, bias, segment_ids)
    shared = mask is None or mask.shape[0] == 1
    if mask is not None and not shared:
        mask = mask[:, None].expand(-1, pixels, -1, -1, -1).flatten(0, 1)
    # PyTorch's GPU kernels put batch and heads on grid axes of at most 65535 blocks.
    step = _MAX_SEQUENCES // heads
    parts = []
    for start in range(0, max(batch * pixels, 1), step):
        q, k, v = qkv[:, start : start + step]
        part = mask if mask is None or shared else mask[start : start + step]
        parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=part))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.view(batch, pixels, heads, frames, width).permute(0, 3, 1, 2, 4).contiguous()


def _mask(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> Tensor | None:
    """What is added to the scores: (1, heads or 1, F, F), or (B, heads or 1, F, F)."""
    mask = None
    if bias is not None:
        mask = bias.to(qkv.dtype) if bias.dim() == 4 else bias[None].to(qkv.dtype)
    if segment_ids is not None:
        apart = (segment_ids[:, :, None] != segment_ids[:, None, :])[:, None]
        zero = qkv.new_zeros(()) if mask is None else mask
        mask = torch.where(apart, -torch.inf, zero)
    return mask


def temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> list[Tensor]:
    """Gradients of (qkv, bias)."""
    return recomputed_gradients(temporal_attention, (qkv, bias, segment_ids), (0, 1), dout, needs)

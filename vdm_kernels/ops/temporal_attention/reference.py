"""Plain PyTorch definition of `temporal_attention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.op import recomputed_gradients


def temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """See `vdm_kernels.temporal_attention`."""
    q, k, v = qkv.unbind(3)
    scores = torch.einsum("bishd,bjshd->bshij", q, k) * qkv.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + (bias if bias.dim() == 3 else bias[:, None])
    if segment_ids is not None:
        same = segment_ids[:, :, None] == segment_ids[:, None, :]
        scores = scores.masked_fill(~same[:, None, None], -torch.inf)
    return torch.einsum("bshij,bjshd->bishd", scores.softmax(-1).to(v.dtype), v)


def temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> list[Tensor]:
    """Gradients of (qkv, bias)."""
    return recomputed_gradients(temporal_attention, (qkv, bias, segment_ids), (0, 1), dout, needs)

"""Plain PyTorch definition of `temporal_attention_block`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_kernels.op import recomputed_gradients
from vdm_kernels.ops.temporal_attention import temporal_attention


def temporal_attention_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    bias: Tensor | None,
    segment_ids: Tensor | None,
    heads: int,
    eps: float,
) -> Tensor:
    """See `vdm_kernels.temporal_attention_block`; x is channels-last."""
    tokens = x.permute(0, 2, 3, 4, 1)
    b, f, h, w, c = tokens.shape
    normed = F.layer_norm(tokens, (c,), norm_weight, norm_bias, eps)
    qkv = F.linear(normed, qkv_weight).view(b, f, h * w, 3, heads, c // heads)
    attended = temporal_attention(qkv, bias, segment_ids).reshape(b, f, h, w, c)
    out = x + F.linear(attended, out_weight, out_bias).permute(0, 4, 1, 2, 3)
    return out.contiguous(memory_format=torch.channels_last_3d)


def temporal_attention_block_bwd(
    dout: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    bias: Tensor | None,
    segment_ids: Tensor | None,
    heads: int,
    eps: float,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, bias)."""
    args = (x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, bias, segment_ids, heads, eps)
    return recomputed_gradients(temporal_attention_block, args, range(7), dout, needs)

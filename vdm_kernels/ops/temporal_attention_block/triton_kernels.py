"""`temporal_attention_block` in Triton: one kernel where `is_fused`, else, and backward, with its attention alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vdm_kernels.ops.temporal_attention import triton_kernels as attention
from vdm_kernels.ops.temporal_attention_block.composed import composed, composed_bwd, like_qkv
from vdm_kernels.ops.temporal_attention_block.launch import is_fused
from vdm_kernels.ops.temporal_attention_block.triton_fused import fused


def supports_temporal_attention_block(
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
) -> str | None:
    """None, or why Triton cannot run this call."""
    return attention.supports_temporal_attention(like_qkv(x, heads), bias, segment_ids)


def supports_temporal_attention_block_bwd(dout: Tensor, *args: Any) -> str | None:
    """None, or why Triton cannot run this call."""
    return supports_temporal_attention_block(*args[:-1])


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
    settings = (bias, segment_ids, heads, eps)
    if is_fused(x.shape[2], x.shape[1], heads, x.element_size()):
        return fused(x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, *settings)
    return composed("triton", x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, *settings)


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
    weights = (norm_weight, norm_bias, qkv_weight, out_weight, out_bias)
    return composed_bwd("triton", dout, x, *weights, bias, segment_ids, heads, eps, needs)

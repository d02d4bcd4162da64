"""`spatial_attention_block`: norm, attention over pixels and residual sum of a channels-last video."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.op import Op, forced_backend
from vdm_kernels.ops.attention.arguments import block_arguments
from vdm_kernels.ops.spatial_attention import bias_table_argument
from vdm_kernels.ops.spatial_attention_block import reference


def _fake(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    bias_table: Tensor | None,
    heads: int,
    eps: float,
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last_3d)


SPATIAL_ATTENTION_BLOCK = Op(
    reference.spatial_attention_block,
    fake=_fake,
    package=__name__,
    differentiable=("x", "norm_weight", "norm_bias", "qkv_weight", "out_weight", "out_bias", "bias_table"),
)


def spatial_attention_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None = None,
    bias_table: Tensor | None = None,
    *,
    heads: int,
    eps: float = 1e-5,
) -> Tensor:
    """The spatial attention block of a video U-Net (Ho et al. 2022, Video Diffusion Models, section 3).

        y = x + W_out spatial_attention(W_qkv layer_norm(x), bias_table) + out_bias

    with LayerNorm (Ba et al. 2016) over the channels of each token: mean and variance in float32 (float64 for a
    float64 x), accurately also for mean >> std. Gradients of every tensor: where one is asked for, the block is
    computed by the operators that it is made of, which save what their backward passes read; attention over so many
    pixels is too much to be computed again.

    Args:
        x: (B, C, F, H, W), channels-last in memory (`torch.channels_last_3d`); another layout is converted.
        norm_weight, norm_bias: (C,), in x's dtype, as everything but `bias_table`.
        qkv_weight: (3 C, C): queries, keys and values, each of `heads` heads.
        out_weight: (C, C).
        out_bias: (C,), or None.
        bias_table: (heads, 2 Hmax - 1, 2 Wmax - 1) with Hmax >= H and Wmax >= W; any floating dtype.
        heads: divides C.
        eps: is added to the variance.

    Returns:
        (B, C, F, H, W), channels-last, in x's dtype; under autocast in the autocast dtype.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype, device or range.
    """
    op = "spatial_attention_block"
    x, weights = block_arguments(op, x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, heads, eps)
    height, width = x.shape[3:]
    bias_table = bias_table_argument(op, bias_table, heads, height, width, x.device)
    needs_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, *weights, bias_table)
    )
    # Its parts have Triton kernels, the block has none.
    composed = needs_grad or forced_backend() == "triton"
    block = reference.spatial_attention_block if composed else SPATIAL_ATTENTION_BLOCK
    y: Tensor = block(x, *weights, bias_table, heads, float(eps))
    return y

"""`temporal_attention_block`: norm, attention over frames and residual sum of a channels-last video."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.attention.arguments import block_arguments
from vdm_kernels.ops.temporal_attention import bias_argument, segments_argument
from vdm_kernels.ops.temporal_attention_block import reference


def _fake(
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
    return torch.empty_like(x, memory_format=torch.channels_last_3d)


def _fake_bwd(
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
    return fake_gradients(x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, bias, needs=needs)


TEMPORAL_ATTENTION_BLOCK_BWD = Op(reference.temporal_attention_block_bwd, fake=_fake_bwd, package=__name__)
TEMPORAL_ATTENTION_BLOCK = Op(
    reference.temporal_attention_block,
    fake=_fake,
    package=__name__,
    backward=TEMPORAL_ATTENTION_BLOCK_BWD,
    differentiable=("x", "norm_weight", "norm_bias", "qkv_weight", "out_weight", "out_bias", "bias"),
    memory_format=torch.channels_last_3d,
)


def temporal_attention_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None = None,
    bias: Tensor | None = None,
    segment_ids: Tensor | None = None,
    *,
    heads: int,
    eps: float = 1e-5,
) -> Tensor:
    """The temporal attention block of a video U-Net (Ho et al. 2022, Video Diffusion Models, section 3).

        y = x + W_out temporal_attention(W_qkv layer_norm(x), bias, segment_ids) + out_bias

    with LayerNorm (Ba et al. 2016) over the channels of each token: mean and variance in float32 (float64 for a
    float64 x), accurately also for mean >> std. Gradients of every floating-point tensor.

    Args:
        x: (B, C, F, H, W), channels-last in memory (`torch.channels_last_3d`); another layout is converted.
        norm_weight, norm_bias: (C,), in x's dtype, as everything but `bias`.
        qkv_weight: (3 C, C): queries, keys and values, each of `heads` heads.
        out_weight: (C, C).
        out_bias: (C,), or None.
        bias: (heads, F, F), or (B, heads, F, F) for each sample its own; any floating dtype.
        segment_ids: (B, F), an integer dtype: a frame attends to frames of the same id only.
        heads: divides C.
        eps: is added to the variance.

    Returns:
        (B, C, F, H, W), channels-last, in x's dtype; under autocast in the autocast dtype.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype, device or range.
    """
    op = "temporal_attention_block"
    x, weights = block_arguments(op, x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, heads, eps)
    batch, _, frames, *_ = x.shape
    bias = bias_argument(op, bias, batch, heads, frames, x.device)
    segment_ids = segments_argument(op, segment_ids, batch, frames, x.device)
    y: Tensor = TEMPORAL_ATTENTION_BLOCK(x, *weights, bias, segment_ids, heads, float(eps))
    return y

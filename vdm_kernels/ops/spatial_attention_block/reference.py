"""Definition of `spatial_attention_block`: the operators that it is made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vdm_kernels.ops.group_norm_silu_conv import group_norm_silu_conv
from vdm_kernels.ops.spatial_attention import spatial_attention


def spatial_attention_block(
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
    """See `vdm_kernels.spatial_attention_block`; x is channels-last."""
    tokens = x.permute(0, 2, 3, 4, 1)
    b, f, h, w, c = tokens.shape
    normed = F.layer_norm(tokens, (c,), norm_weight, norm_bias, eps).permute(0, 4, 1, 2, 3)
    # A linear layer over channels is a 1x1 convolution, which a CPU runs faster.
    qkv = group_norm_silu_conv(normed, qkv_weight[:, :, None, None]).permute(0, 2, 3, 4, 1)
    attended = spatial_attention(qkv.reshape(b * f, h, w, 3, heads, c // heads), bias_table)
    attended = attended.reshape(b, f, h, w, c).permute(0, 4, 1, 2, 3)
    return group_norm_silu_conv(attended, out_weight[:, :, None, None], out_bias, residual=x)

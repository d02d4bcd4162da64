"""`spatial_attention_block` in C++, on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, pointer, unsupported
from vdm_kernels.ops.group_norm_silu_conv import native as conv
from vdm_kernels.ops.spatial_attention import native as attention


def supports_spatial_attention_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    bias_table: Tensor | None,
    heads: int,
    eps: float,
) -> str | None:
    """None, or why the extension cannot run this call."""
    if x.is_cuda:
        return "the native kernel of spatial_attention_block runs on the CPU"
    return unsupported(x.device, x.dtype, *(() if bias_table is None else (bias_table.dtype,)))


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
    batch, channels, frames, height, width = x.shape
    out = torch.empty_like(x, memory_format=torch.channels_last_3d)
    bias_table = attention.table_as_the_kernel_reads(bias_table, height, width)
    norm_weight, norm_bias = norm_weight.float().contiguous(), norm_bias.float().contiguous()
    out_bias = None if out_bias is None else out_bias.float().contiguous()
    qkv_packed, out_packed = conv.packed_linear(qkv_weight), conv.packed_linear(out_weight)
    launch(
        "spatial_attention_block",
        x.device,
        x.data_ptr(),
        out.data_ptr(),
        DTYPE_CODES[x.dtype],
        (batch * frames, *attention.as_the_kernel_counts(height, width), heads, channels // heads),
        norm_weight.data_ptr(),
        norm_bias.data_ptr(),
        qkv_packed.data_ptr(),
        out_packed.data_ptr(),
        pointer(out_bias),
        pointer(bias_table),
        eps,
    )
    return out

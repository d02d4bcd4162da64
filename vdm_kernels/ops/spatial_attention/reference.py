"""Plain PyTorch definition of `spatial_attention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_kernels.op import recomputed_gradients


def relative_bias(bias_table: Tensor, height: int, width: int) -> Tensor:
    """bias[h, i, j] = bias_table[h, y_i - y_j + Hmax - 1, x_i - x_j + Wmax - 1], of shape (heads, HW, HW)."""
    row_zero, column_zero = bias_table.shape[1] // 2, bias_table.shape[2] // 2
    y = torch.arange(height, device=bias_table.device)
    x = torch.arange(width, device=bias_table.device)
    rows = (y[:, None] - y[None, :] + row_zero)[:, None, :, None]
    columns = (x[:, None] - x[None, :] + column_zero)[None, :, None, :]
    return bias_table[:, rows, columns].flatten(3, 4).flatten(1, 2)


def spatial_attention(qkv: Tensor, bias_table: Tensor | None) -> Tensor:
    """See `vdm_kernels.spatial_attention`."""
    _, height, width = qkv.shape[:3]
    q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
    bias = None if bias_table is None else relative_bias(bias_table, height, width).to(qkv.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(1, 2).unflatten(1, (height, width)).contiguous()


def spatial_attention_bwd(
    dout: Tensor, qkv: Tensor, bias_table: Tensor | None, needs: Sequence[bool]
) -> list[Tensor]:
    """Gradients of (qkv, bias_table)."""
    return recomputed_gradients(spatial_attention, (qkv, bias_table), (0, 1), dout, needs)

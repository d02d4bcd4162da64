"""`spatial_attention` in C++."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, pointer, unsupported
from vdm_kernels.op import fake_gradients


def supports_spatial_attention(qkv: Tensor, bias_table: Tensor | None) -> str | None:
    """None, or why the extension cannot run this call."""
    if qkv.is_cuda:
        return "the native kernel of spatial_attention runs on the CPU"
    return unsupported(qkv.device, qkv.dtype, *(() if bias_table is None else (bias_table.dtype,)))


def supports_spatial_attention_bwd(
    dout: Tensor, qkv: Tensor, bias_table: Tensor | None, needs: Sequence[bool]
) -> str | None:
    """None, or why the extension cannot run this call."""
    return supports_spatial_attention(qkv, bias_table)


def spatial_attention(qkv: Tensor, bias_table: Tensor | None) -> Tensor:
    """See `vdm_kernels.spatial_attention`; both are contiguous."""
    out = qkv.new_empty((*qkv.shape[:3], *qkv.shape[4:]))
    if qkv.numel() == 0:
        return out
    table = table_as_the_kernel_reads(bias_table, *qkv.shape[1:3])
    launch(
        "spatial_attention",
        qkv.device,
        qkv.data_ptr(),
        pointer(table),
        out.data_ptr(),
        DTYPE_CODES[qkv.dtype],
        _sizes(qkv),
    )
    return out


def spatial_attention_bwd(
    dout: Tensor, qkv: Tensor, bias_table: Tensor | None, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of (qkv, bias_table), None where not needed."""
    if qkv.numel() == 0:
        return [gradient.zero_() for gradient in fake_gradients(qkv, bias_table, needs=needs)]
    table = table_as_the_kernel_reads(bias_table, *qkv.shape[1:3])
    dqkv = torch.empty_like(qkv) if needs[0] else None
    dtable = torch.empty_like(table) if table is not None and needs[1] else None
    launch(
        "spatial_attention_bwd",
        qkv.device,
        dout.data_ptr(),
        qkv.data_ptr(),
        pointer(table),
        pointer(dqkv),
        pointer(dtable),
        DTYPE_CODES[qkv.dtype],
        _sizes(qkv),
    )
    if bias_table is None or dtable is None:
        return [dqkv, None]
    dbias_table = torch.zeros_like(bias_table)
    _used(dbias_table, *qkv.shape[1:3]).copy_(dtable)
    return [dqkv, dbias_table]


def table_as_the_kernel_reads(bias_table: Tensor | None, height: int, width: int) -> Tensor | None:
    """The part of a table that images of this size use, contiguous in float32."""
    return None if bias_table is None else _used(bias_table, height, width).float().contiguous()


def as_the_kernel_counts(height: int, width: int) -> tuple[int, int]:
    """Height and width; one column is the same memory as one row, which the kernels are made for."""
    return (1, height) if width == 1 else (height, width)


def _used(bias_table: Tensor, height: int, width: int) -> Tensor:
    """The part (heads, 2 H - 1, 2 W - 1) of a table that images of this size use."""
    _, rows, columns = bias_table.shape
    row, column = rows // 2 + 1 - height, columns // 2 + 1 - width
    return bias_table[:, row : row + 2 * height - 1, column : column + 2 * width - 1]


def _sizes(qkv: Tensor) -> tuple[int, ...]:
    images, height, width, _, heads, channels = qkv.shape
    return (images, *as_the_kernel_counts(height, width), heads, channels)

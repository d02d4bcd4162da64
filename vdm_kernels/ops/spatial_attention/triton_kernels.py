"""`spatial_attention` on Triton: flash kernels with a relative bias (attention/triton_flash.py).

Without a bias the reference is used, which is PyTorch's own flash kernels on views of the packed projection, forward
and backward.

The gradient of the table has two stages: sums of dscores over images for every pair of columns and every distance of
rows, (splits, heads, 2 H - 1, W, W) in float32, where the scores themselves would be (N, heads, H W, H W); then sums
along its diagonals, which are the table. Nothing is atomic.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.op import fake_gradients
from vdm_kernels.ops.attention.launch import Sequences
from vdm_kernels.ops.attention.triton_flash import (
    bias_gradient,
    flash_attention,
    flash_attention_bwd,
    unsupported,
)
from vdm_kernels.ops.spatial_attention import reference
from vdm_kernels.ops.step.triton_block import on_device

_BLOCK_ROWS = 16
_BLOCK_COLUMNS = 64


@triton.jit
def sum_diagonals_kernel(
    partial_ptr,
    out_ptr,
    splits,
    planes,
    offsets,
    columns,
    table_rows,
    table_columns,
    blocks,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Sums of (splits, planes, columns, columns) over the splits and each diagonal, to the middle of a table.

    A plane is one head and one of `offsets` distances of rows; diagonal dx has the elements x_i - x_j = dx.
    """
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    dx = tl.program_id(0) % blocks * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS) - (columns - 1)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for split in range(splits):
        for start in range(0, columns, BLOCK_ROWS):
            i = start + tl.arange(0, BLOCK_ROWS)[:, None]
            j = i - dx[None, :]
            mask = (i < columns) & (j >= 0) & (j < columns)
            place = ((tl.cast(split, tl.int64) * planes + plane) * columns + i) * columns + j
            total += tl.load(partial_ptr + place, mask=mask, other=0.0)
    row = plane // offsets * table_rows + plane % offsets + (table_rows - offsets) // 2
    place = row * table_columns + table_columns // 2 + dx
    tl.store(out_ptr + place, tl.sum(total, 0).to(out_ptr.dtype.element_ty), mask=dx < columns)


def _sequences(qkv: Tensor, bias_table: Tensor) -> Sequences:
    images, height, columns, _, heads, width = qkv.shape
    table_rows, table_columns = bias_table.shape[1:]
    return Sequences(
        count=images,
        length=height * columns,
        inner=1,
        heads=heads,
        width=width,
        columns=columns,
        bias_columns=table_columns,
        bias_plane=table_rows * table_columns,
        origin=table_rows // 2 * table_columns + table_columns // 2,
        relative=True,
    )


def spatial_attention(qkv: Tensor, bias_table: Tensor | None) -> Tensor:
    """See `vdm_kernels.spatial_attention`."""
    if bias_table is None:
        return reference.spatial_attention(qkv, None)
    out = qkv.new_empty((*qkv.shape[:3], *qkv.shape[4:]))
    if out.numel():
        flash_attention(qkv, bias_table, None, out, _sequences(qkv, bias_table))
    return out


def spatial_attention_bwd(
    dout: Tensor, qkv: Tensor, bias_table: Tensor | None, needs: Sequence[bool]
) -> list[Tensor]:
    """Gradients of (qkv, bias_table); empty where `needs` is False."""
    if bias_table is None:
        return reference.spatial_attention_bwd(dout, qkv, None, needs)
    gradients = fake_gradients(qkv, bias_table, needs=needs)
    if needs[1]:
        gradients[1].zero_()  # also where the table is larger than these images
    if not qkv.numel():
        return gradients
    sequences = _sequences(qkv, bias_table)
    statistics = flash_attention_bwd(
        dout, qkv, bias_table, None, gradients[0] if needs[0] else None, sequences
    )
    if needs[1]:
        partial = bias_gradient(dout, qkv, bias_table, None, statistics, sequences, 1)
        _sum_diagonals(partial[0], gradients[1])
    return gradients


def _sum_diagonals(partial: Tensor, table: Tensor) -> None:
    splits, heads, offsets, columns, _ = partial.shape
    blocks = -(-(2 * columns - 1) // _BLOCK_COLUMNS)
    with on_device(partial):
        sum_diagonals_kernel[(heads * offsets * blocks,)](
            partial,
            table,
            splits,
            heads * offsets,
            offsets,
            columns,
            table.shape[1],
            table.shape[2],
            blocks,
            BLOCK_ROWS=_BLOCK_ROWS,
            BLOCK_COLUMNS=_BLOCK_COLUMNS,
        )


def supports_spatial_attention(qkv: Tensor, bias_table: Tensor | None) -> str | None:
    """None, or why this call cannot run."""
    return None if bias_table is None else unsupported(qkv, bias_table)


def supports_spatial_attention_bwd(
    dout: Tensor, qkv: Tensor, bias_table: Tensor | None, needs: Sequence[bool]
) -> str | None:
    """None, or why this call cannot run."""
    return None if bias_table is None else unsupported(qkv, bias_table)

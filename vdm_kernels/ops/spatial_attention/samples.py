"""Calls of `spatial_attention` that tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def qkv(images: int, height: int, width: int, heads: int, channels: int) -> Tensor:
        return normal(images, height, width, 3, heads, channels)

    def sample(name: str, projected: Tensor, *, large: bool = False, **changes: object) -> Sample:
        return Sample(name, {"qkv": projected, **changes}, large=large)

    return [
        sample("plain", qkv(2, 8, 8, 2, 32)),
        sample("bias", qkv(2, 8, 8, 2, 32), bias_table=normal(2, 15, 15)),
        sample("bias_of_larger_images", qkv(2, 4, 6, 2, 8), bias_table=normal(2, 15, 13)),
        sample("float32_bias", qkv(2, 4, 6, 2, 8), bias_table=normal(2, 7, 11).float()),
        sample("odd", qkv(1, 7, 5, 3, 20), bias_table=normal(3, 13, 9)),
        sample("one_row", qkv(2, 1, 6, 2, 8), bias_table=normal(2, 1, 11)),
        sample("one_element", qkv(1, 1, 1, 1, 1), bias_table=normal(1, 1, 1)),
        sample("one_column", qkv(2, 6, 1, 2, 16), bias_table=normal(2, 13, 1)),
        # More than a block of keys and of queries, both ragged; image rows that cross the blocks.
        sample("blocks", qkv(1, 9, 17, 2, 16), bias_table=normal(2, 19, 35), large=True),
        sample("wide", qkv(1, 3, 5, 2, 128), bias_table=normal(2, 5, 9)),
        sample("large_scores", 8.0 * qkv(2, 8, 8, 2, 16), bias_table=normal(2, 15, 15)),
        sample("empty_batch", qkv(0, 4, 3, 2, 8)),
        sample("empty_batch_bias", qkv(0, 4, 3, 2, 8), bias_table=normal(2, 7, 5)),
        sample("sliced", qkv(2, 6, 6, 2, 8)[:, ::2], bias_table=normal(2, 5, 11)),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    qkv = torch.zeros(2, 4, 6, 3, 2, 8, device=device)
    table = torch.zeros(2, 7, 11, device=device)

    def bad(name: str, value: object) -> Sample:
        return Sample(name, {"qkv": qkv, "bias_table": table, name: value})

    return [
        bad("qkv", qkv[0]),
        bad("qkv", qkv[:, :, :, :2]),
        bad("qkv", qkv.int()),
        bad("bias_table", table[:1]),
        bad("bias_table", table[:, :5]),
        bad("bias_table", torch.zeros(2, 8, 11, device=device)),
        bad("bias_table", table[0]),
        bad("bias_table", table.int()),
    ]

"""Calls of `temporal_attention` that tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def qkv(batch: int, frames: int, pixels: int, heads: int, width: int) -> Tensor:
        return normal(batch, frames, pixels, 3, heads, width)

    def sample(name: str, projected: Tensor, **changes: object) -> Sample:
        return Sample(name, {"qkv": projected, **changes})

    # Four video frames, then two images that are alone.
    ids = torch.tensor([[0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 1, -5]], device=device)
    images = torch.arange(18, device=device).sub(13).clamp(min=0)[None]  # beside a video of 14 frames
    alone = torch.arange(3, device=device).expand(2, 3)
    return [
        sample("plain", qkv(2, 16, 5, 2, 32)),
        sample("bias", qkv(2, 16, 5, 2, 32), bias=normal(2, 16, 16)),
        sample("bias_per_sample", qkv(2, 5, 3, 2, 8), bias=normal(2, 2, 5, 5)),
        sample("float32_bias", qkv(2, 5, 3, 2, 8), bias=normal(2, 5, 5).float()),
        sample("segments", qkv(2, 6, 4, 2, 8), segment_ids=ids),
        sample("segments_bias", qkv(2, 6, 4, 2, 8), bias=normal(2, 6, 6), segment_ids=ids.int()),
        sample("segments_bias_per_sample", qkv(2, 6, 4, 2, 8), bias=normal(2, 2, 6, 6), segment_ids=ids),
        sample("images", qkv(1, 18, 3, 2, 16), bias=normal(2, 18, 18), segment_ids=images),
        sample("frames_alone", qkv(2, 3, 4, 2, 8), bias=normal(2, 3, 3), segment_ids=alone),
        sample("one_frame", qkv(2, 1, 7, 2, 8), bias=normal(2, 1, 1)),
        sample("one_element", qkv(1, 1, 1, 1, 1)),
        sample("odd", qkv(1, 7, 3, 3, 20), bias=normal(3, 7, 7)),
        sample("empty_batch", qkv(0, 4, 3, 2, 8)),
        sample("sliced", qkv(2, 8, 3, 2, 8)[:, ::2], bias=normal(2, 4, 4)),
        sample("large_scores", 8.0 * qkv(1, 8, 3, 2, 8)),
        sample("many_frames", qkv(1, 70, 2, 2, 16), bias=normal(2, 70, 70)),
        sample("wide", qkv(1, 24, 8, 2, 64), bias=normal(2, 24, 24)),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    qkv = torch.zeros(2, 6, 4, 3, 2, 8, device=device)
    bias = torch.zeros(2, 6, 6, device=device)
    ids = torch.zeros(2, 6, dtype=torch.int64, device=device)

    def bad(name: str, value: object) -> Sample:
        return Sample(name, {"qkv": qkv, "bias": bias, "segment_ids": ids, name: value})

    return [
        bad("qkv", qkv[0]),
        bad("qkv", qkv[:, :, :, :2]),
        bad("qkv", qkv.int()),
        bad("qkv", None),
        bad("bias", bias[:1]),
        bad("bias", bias[:, :5]),
        bad("bias", bias.expand(3, -1, -1, -1)),
        bad("bias", 0.0),
        bad("segment_ids", ids[:, :3]),
        bad("segment_ids", ids.float()),
        bad("segment_ids", [0]),
    ]

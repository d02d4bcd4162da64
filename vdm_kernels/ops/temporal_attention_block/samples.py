"""Calls of `temporal_attention_block` that tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def video(batch: int, channels: int, frames: int, height: int, width: int) -> Tensor:
        tokens = normal(batch, frames, height, width, channels)
        return tokens.permute(0, 4, 1, 2, 3)

    def sample(name: str, x: Tensor, heads: int, *, large: bool = False, **changes: object) -> Sample:
        channels = x.shape[1]
        arguments = {
            "x": x,
            "norm_weight": 1.0 + 0.3 * normal(channels),
            "norm_bias": 0.3 * normal(channels),
            "qkv_weight": normal(3 * channels, channels) * channels**-0.5,
            "out_weight": normal(channels, channels) * channels**-0.5,
            "out_bias": normal(channels),
            "heads": heads,
        }
        return Sample(name, {**arguments, **changes}, large=large)

    # Four video frames, then two images that are alone.
    ids = torch.tensor([[0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 1, -5]], device=device)
    alone = torch.arange(3, device=device).expand(2, 3)
    return [
        sample("plain", video(1, 32, 16, 3, 5), 1, out_bias=None),
        sample("bias", video(2, 32, 7, 3, 3), 2, bias=normal(2, 7, 7)),
        sample("bias_per_sample", video(2, 16, 5, 2, 3), 2, bias=normal(2, 2, 5, 5)),
        sample("float32_bias", video(2, 16, 5, 2, 3), 2, bias=normal(2, 5, 5).float()),
        sample("segments", video(2, 16, 6, 2, 2), 2, segment_ids=ids),
        sample("segments_bias", video(2, 16, 6, 2, 2), 2, bias=normal(2, 6, 6), segment_ids=ids.int()),
        sample("frames_alone", video(2, 16, 3, 2, 2), 2, bias=normal(2, 3, 3), segment_ids=alone),
        sample("one_frame", video(2, 16, 1, 1, 7), 2, bias=normal(2, 1, 1)),
        sample("one_channel", video(2, 1, 3, 1, 2), 1, eps=0.1),
        sample("odd", video(1, 60, 5, 1, 7), 3, bias=normal(3, 5, 5)),
        sample("empty_batch", video(0, 16, 4, 1, 3), 2),
        sample("no_pixels", video(1, 16, 4, 0, 3), 2),
        sample("contiguous", video(2, 16, 4, 3, 3).contiguous(), 2, bias=normal(2, 4, 4)),
        sample("sliced", video(2, 32, 8, 3, 3)[:, ::2, ::2], 2),
        sample("many_frames", video(1, 32, 40, 2, 2), 2, bias=normal(2, 40, 40), large=True),
        sample("wide", video(1, 128, 16, 4, 4), 2, bias=normal(2, 16, 16), large=True),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    arguments: dict[str, object] = {
        "x": torch.zeros(2, 8, 6, 2, 2, device=device),
        "norm_weight": torch.zeros(8, device=device),
        "norm_bias": torch.zeros(8, device=device),
        "qkv_weight": torch.zeros(24, 8, device=device),
        "out_weight": torch.zeros(8, 8, device=device),
        "out_bias": torch.zeros(8, device=device),
        "bias": torch.zeros(2, 6, 6, device=device),
        "segment_ids": torch.zeros(2, 6, dtype=torch.int64, device=device),
        "heads": 2,
        "eps": 1e-5,
    }

    def bad(name: str, value: object) -> Sample:
        return Sample(name, {**arguments, name: value})

    return [
        bad("x", torch.zeros(2, 8, 6, 2, device=device)),
        bad("x", None),
        bad("norm_weight", torch.zeros(7, device=device)),
        bad("norm_bias", torch.zeros(8, device=device, dtype=torch.float64)),
        bad("qkv_weight", torch.zeros(8, 24, device=device)),
        bad("qkv_weight", torch.zeros(24, 8, device=device, dtype=torch.bfloat16)),
        bad("out_weight", 1.0),
        bad("out_bias", torch.zeros(1, device=device)),
        bad("bias", torch.zeros(1, 6, 6, device=device)),
        bad("bias", 0.0),
        bad("segment_ids", torch.zeros(2, 3, dtype=torch.int64, device=device)),
        bad("segment_ids", torch.zeros(2, 6, device=device)),
        bad("heads", 3),
        bad("heads", True),
        bad("eps", -1.0),
    ]

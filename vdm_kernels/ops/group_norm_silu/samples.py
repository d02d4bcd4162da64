"""Calls of `group_norm_silu` that tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.ops.channel_statistics.reference import channel_statistics
from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def sample(name: str, x: Tensor, num_groups: int, **changes: object) -> Sample:
        channels = x.shape[1]
        arguments = {
            "x": x,
            "weight": 1.0 + 0.3 * normal(channels),
            "bias": 0.3 * normal(channels),
            "num_groups": num_groups,
        }
        return Sample(name, {**arguments, **changes})

    def channels_last(*shape: int) -> Tensor:
        return normal(*shape).contiguous(memory_format=torch.channels_last_3d)

    given = channels_last(2, 8, 3, 4, 6)
    return [
        sample("video", channels_last(2, 16, 3, 8, 8), 4),
        sample("video_scope", channels_last(2, 16, 3, 8, 8), 4, norm_scope="video"),
        sample("modulated", channels_last(2, 8, 3, 4, 6), 2, scale=normal(2, 8), shift=normal(2, 8)),
        sample(
            "modulated_frames", channels_last(2, 8, 3, 4, 6), 2, scale=normal(2, 3, 8), shift=normal(2, 3, 8)
        ),
        sample(
            "modulated_video_scope",
            channels_last(2, 8, 3, 4, 6),
            8,
            scale=normal(2, 3, 8),
            norm_scope="video",
        ),
        sample("shift_alone", channels_last(2, 8, 3, 4, 6), 2, shift=normal(2, 8)),
        sample("odd", channels_last(1, 15, 1, 7, 5), 3),
        sample("one_channel_groups", channels_last(2, 6, 2, 5, 3), 6),
        sample("one_group", channels_last(2, 6, 2, 5, 3), 1),
        sample("one_pixel", channels_last(2, 8, 3, 1, 1), 2),
        sample("one_element", normal(1, 1, 1, 1, 1), 1),
        sample("empty_batch", normal(0, 8, 3, 4, 4), 2, scale=normal(0, 8)),
        sample("mean_over_std", channels_last(2, 16, 2, 8, 8) + 1000.0, 4),
        sample("mean_over_std_video_scope", channels_last(2, 16, 2, 8, 8) - 1000.0, 4, norm_scope="video"),
        sample("contiguous", normal(2, 8, 3, 4, 6), 4),
        sample("sliced", normal(2, 12, 3, 4, 6)[:, 2:10], 4),
        sample("other_eps", 1e-3 * channels_last(2, 8, 3, 4, 6), 4, eps=1e-2),
        sample("given_statistics", given, 4, statistics=channel_statistics(given)),
        sample("wide", channels_last(1, 64, 2, 16, 16), 32),
        sample(
            "modulated_both_ways", channels_last(2, 8, 3, 4, 6), 2, scale=normal(2, 3, 8), shift=normal(2, 8)
        ),
        sample("frames_as_channels", channels_last(2, 4, 4, 3, 3), 2, scale=normal(2, 4), shift=normal(2, 4)),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    good = samples(torch.float32, device)[2].arguments
    x, weight, scale = good["x"], good["weight"], good["scale"]

    def bad(name: str, value: object) -> Sample:
        return Sample(name, {**good, name: value})

    return [
        bad("x", x[0]),
        bad("x", x.long()),
        bad("x", None),
        bad("weight", weight[:3]),
        bad("weight", None),
        bad("bias", weight[None]),
        bad("num_groups", 3),
        bad("num_groups", 0),
        bad("num_groups", 2.0),
        bad("scale", scale[:1]),
        bad("scale", 0.5),
        bad("shift", scale[:, :, None]),
        bad("norm_scope", "clip"),
        bad("statistics", channel_statistics(x)[:, :1]),
        bad("statistics", channel_statistics(x).float()),
    ]

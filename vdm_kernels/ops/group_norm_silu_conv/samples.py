"""Calls of `group_norm_silu_conv` that tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.ops.channel_statistics.reference import channel_statistics
from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def sample(
        name: str, x: Tensor, out_channels: int, *, kernel: int = 3, num_groups: int = 0, **changes: object
    ) -> Sample:
        second = changes.get("x2")
        channels = x.shape[1] + (second.shape[1] if isinstance(second, Tensor) else 0)
        arguments: dict[str, object] = {
            "x": x,
            "weight": normal(out_channels, channels, kernel, kernel) / (kernel * channels**0.5),
            "bias": normal(out_channels),
        }
        if num_groups:
            arguments["norm_weight"] = 1.0 + 0.3 * normal(channels)
            arguments["norm_bias"] = 0.3 * normal(channels)
            arguments["num_groups"] = num_groups
        return Sample(name, {**arguments, **changes})

    def channels_last(*shape: int) -> Tensor:
        return normal(*shape).contiguous(memory_format=torch.channels_last_3d)

    first, second = channels_last(2, 8, 2, 6, 4), channels_last(2, 4, 2, 6, 4)
    both = torch.cat([channel_statistics(first), channel_statistics(second)], dim=2)
    return [
        sample("plain", channels_last(2, 3, 2, 8, 8), 16),
        sample("plain_pointwise", channels_last(2, 8, 2, 5, 6), 6, kernel=1),
        sample("no_bias", channels_last(2, 8, 2, 5, 6), 6, bias=None),
        sample("norm", channels_last(2, 16, 3, 8, 8), 16, num_groups=4),
        sample("norm_video_scope", channels_last(2, 8, 3, 5, 6), 6, num_groups=4, norm_scope="video"),
        sample("norm_pointwise", channels_last(2, 8, 3, 5, 6), 6, num_groups=4, kernel=1),
        sample(
            "residual_block",
            channels_last(2, 16, 2, 8, 8),
            8,
            num_groups=4,
            scale=normal(2, 16),
            shift=normal(2, 16),
            residual=channels_last(2, 8, 2, 8, 8),
        ),
        sample(
            "modulated_frames",
            channels_last(2, 8, 3, 4, 5),
            8,
            num_groups=2,
            scale=normal(2, 3, 8),
            shift=normal(2, 3, 8),
        ),
        sample("skip", channels_last(2, 8, 2, 6, 4), 8, num_groups=6, x2=channels_last(2, 4, 2, 6, 4)),
        sample("given_statistics", first, 8, num_groups=3, x2=second, statistics=both),
        sample("returned_statistics", first, 8, num_groups=3, x2=second, return_statistics=True),
        sample("returned_statistics_odd", channels_last(1, 15, 1, 7, 5), 9, kernel=1, return_statistics=True),
        sample("skip_plain", channels_last(2, 5, 2, 6, 4), 8, x2=normal(2, 4, 2, 6, 4), kernel=1),
        sample("upsample", channels_last(2, 8, 2, 5, 4), 6, upsample=True),
        sample(
            "upsample_norm",
            channels_last(1, 8, 2, 5, 4),
            6,
            num_groups=2,
            upsample=True,
            residual=channels_last(1, 6, 2, 10, 8),
        ),
        sample("downsample", channels_last(2, 8, 2, 6, 8), 6, stride=2),
        sample("downsample_odd", channels_last(2, 8, 2, 7, 5), 6, stride=2, num_groups=4),
        sample("odd", channels_last(1, 15, 1, 7, 5), 9, num_groups=3),
        sample("one_pixel", channels_last(2, 8, 3, 1, 1), 4, num_groups=2),
        sample("empty_batch", normal(0, 8, 2, 4, 4), 4, num_groups=2),
        sample("contiguous", normal(2, 8, 2, 4, 6), 8, num_groups=4, residual=normal(2, 8, 2, 4, 6)),
        sample("mean_over_std", channels_last(1, 8, 2, 6, 6) + 1000.0, 4, num_groups=2),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    good = next(s for s in samples(torch.float32, device) if s.name == "residual_block").arguments
    x, weight, residual = good["x"], good["weight"], good["residual"]

    def bad(name: str, value: object, **others: object) -> Sample:
        return Sample(name, {**good, **others, name: value})

    return [
        bad("x", x[0]),
        bad("x", "x"),
        bad("weight", weight[:, :3]),
        bad("weight", weight[:, :, :2]),
        bad("weight", weight[:, :, :2, :2]),
        bad("weight", weight.half()),
        bad("weight", weight[0]),
        bad("bias", weight),
        bad("norm_weight", x),
        bad("norm_weight", None),
        bad("norm_bias", None),
        bad("num_groups", None),
        bad("num_groups", 5),
        bad("scale", x),
        bad("shift", x),
        bad("scale", good["scale"], norm_weight=None, norm_bias=None, num_groups=None, shift=None),
        bad("x2", x[:, :, :1]),
        bad("x2", x[:, 8:].half(), x=x[:, :8]),
        bad("residual", residual[:, :3]),
        bad("residual", residual, upsample=True),
        bad("residual", residual, stride=2),
        bad("residual", residual.half()),
        bad("stride", 3),
        bad("stride", 2, upsample=True),
        bad("norm_scope", None),
        bad("statistics", channel_statistics(x)[:, :1]),
        bad("return_statistics", 1),
    ]

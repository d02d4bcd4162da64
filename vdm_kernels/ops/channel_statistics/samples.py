"""Calls of `channel_statistics` that tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def sample(name: str, x: Tensor) -> Sample:
        return Sample(name, {"x": x})

    def channels_last(*shape: int) -> Tensor:
        return normal(*shape).contiguous(memory_format=torch.channels_last_3d)

    return [
        sample("video", channels_last(2, 16, 3, 8, 8)),
        sample("odd", channels_last(1, 15, 1, 7, 5)),
        sample("wide", channels_last(1, 65, 2, 16, 16)),
        sample("many_pixels", channels_last(1, 3, 1, 67, 59)),
        sample("one_pixel", channels_last(2, 8, 3, 1, 1)),
        sample("empty_batch", normal(0, 8, 3, 4, 4)),
        sample("mean_over_std", channels_last(2, 16, 2, 8, 8) + 1000.0),
        sample("contiguous", normal(2, 8, 3, 4, 6)),
        sample("sliced", normal(2, 12, 3, 4, 6)[:, 2:10]),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    x = samples(torch.float32, device)[0].arguments["x"]
    return [Sample("x", {"x": value}) for value in (x[0], x.long(), None)]

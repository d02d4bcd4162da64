"""Calls of `philox_normal` that tests share."""

from __future__ import annotations

import torch

from vdm_kernels.testing import Sample


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""

    def sample(name: str, shape: tuple[int, ...], draw: object = 0, large: bool = False) -> Sample:
        seed = torch.tensor([1, -7, 2**40 + 5, -(2**63), 0], device=device)[: shape[0]]
        arguments = {"shape": shape, "seed": seed, "draw": draw, "dtype": dtype}
        return Sample(name, arguments, large=large)

    return [
        sample("video", (2, 3, 4, 8, 8)),
        sample("odd", (3, 3, 1, 7, 5)),
        sample("one_element", (1, 1)),
        sample("three_elements", (5, 3)),
        sample("no_sample_dimensions", (2,)),
        sample("empty_batch", (0, 3, 2, 4, 4)),
        sample("empty_samples", (2, 0, 4)),
        sample("large_draw", (2, 37), draw=2**33 + 1),
        sample("negative_draw", (2, 37), draw=-3),
        sample("draw_tensor", (2, 37), draw=torch.tensor([9], device=device)),
        sample("blocks", (2, 3, 5, 17, 19)),
        sample("threads", (2, 3, 16, 65, 67), large=True),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    seed = torch.arange(2, device=device)
    good = {"shape": (2, 3), "seed": seed, "draw": 0}

    def bad(name: str, value: object) -> Sample:
        return Sample(name, {**good, name: value})

    return [
        bad("seed", 3),
        bad("seed", seed.int()),
        bad("seed", seed[:1]),
        bad("seed", seed[None]),
        bad("draw", 0.5),
        bad("draw", 2**63),
        bad("draw", True),
        bad("draw", seed),
        bad("draw", torch.zeros(())),
        bad("dtype", torch.int64),
        bad("shape", ()),
    ]

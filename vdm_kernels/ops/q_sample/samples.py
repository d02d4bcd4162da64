"""Calls of `q_sample` that tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def sample(name: str, x: Tensor, large: bool = False, **changes: object) -> Sample:
        batch = x.shape[0]
        arguments = {
            "x": x,
            "logsnr": torch.linspace(-3.0, 4.0, batch, device=device),
            "seed": torch.arange(batch, device=device) * 2**35 - 9,
            "draw": 0,
        }
        return Sample(name, {**arguments, **changes}, large=large)

    return [
        sample("video", normal(2, 3, 4, 8, 8)),
        sample("odd", normal(3, 3, 1, 7, 5)),
        sample("one_element", normal(1, 1)),
        sample("empty_batch", normal(0, 3, 2, 4, 4)),
        sample("non_contiguous", normal(2, 4, 5, 6, 3).movedim(-1, 1)),
        sample("expanded", normal(1, 3, 2, 4, 5).expand(3, -1, -1, -1, -1)),
        sample("extremes", normal(2, 3, 37), logsnr=torch.tensor([-20.0, 20.0], device=device)),
        sample(
            "variance_exploding",
            normal(2, 3, 37),
            logsnr=torch.tensor([-8.0, 8.0], device=device),
            variance_preserving=False,
        ),
        sample("draw_tensor", normal(2, 37), draw=torch.tensor(2**34, device=device)),
        sample("threads", normal(2, 3, 16, 65, 67), large=True),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    good = samples(torch.float32, device)[0].arguments
    logsnr, seed = good["logsnr"], good["seed"]

    def bad(name: str, value: object) -> Sample:
        return Sample(name, {**good, name: value})

    return [
        bad("x", 1.0),
        bad("x", good["x"].long()),
        bad("x", torch.zeros((), device=device)),
        bad("logsnr", 0.0),
        bad("logsnr", logsnr.double()),
        bad("logsnr", logsnr[:1]),
        bad("logsnr", logsnr[0]),
        bad("logsnr", logsnr.clone().requires_grad_()),
        bad("seed", seed.int()),
        bad("seed", seed[:1]),
        bad("draw", 1.5),
    ]

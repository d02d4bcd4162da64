"""Classifier-free guidance whose weight is high at first, then alternates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, ModelDenoiser, Schedule
from vdm.diffusion.checks import check_integer, check_number
from vdm.diffusion.schedules import MAX_STEPS
from vdm.guidance.classifier_free import classifier_free_guidance
from vdm.samplers.loop import time_grid


def oscillating_guidance(
    denoiser: ModelDenoiser,
    *,
    high: float,
    low: float,
    num_high_steps: int,
    schedule: Schedule,
    num_steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
) -> Denoiser:
    """Classifier-free guidance with a high weight for the first steps, then low, high, low, ...

        w = high at steps 0 .. k - 1;  low at k, k + 2, ...;  high at k + 1, k + 3, ...

    Ho et al. 2022 (Imagen Video, arXiv 2210.02303), section 2.6.1, with 15 and 1 for the weights. The step is that
    whose λ is nearest, so that the denoiser is a function of (z, λ): a corrector at the λ that a step has reached
    has the weight of the step that starts there.

    Args:
        denoiser: a network with its conditioning.
        high: w >= 0 of the first steps, and of every other one after them.
        low: w >= 0 of the steps in between.
        num_high_steps: k >= 0, the number of steps before the weight alternates.
        schedule: the sampler's λ(t).
        num_steps: the sampler's number of steps on a uniform grid; or give `times`.
        times: the sampler's grid.

    Returns:
        The guided denoiser.

    Raises:
        ValueError: an argument is not as above.
    """
    where = "oscillating_guidance"
    check_number(where, "high", high, minimum=0.0)
    check_number(where, "low", low, minimum=0.0)
    check_integer(where, "num_high_steps", num_high_steps, minimum=0, maximum=MAX_STEPS)
    if not isinstance(schedule, Schedule):
        raise ValueError(f"{where}: schedule must be a Schedule, got {type(schedule).__name__}")
    grid = schedule(time_grid(where, num_steps, times))
    between = 0.5 * (grid[1:] + grid[:-1])
    steps_since = torch.arange(len(grid)) - num_high_steps
    weights = torch.where((steps_since >= 0) & (steps_since % 2 == 0), float(low), float(high))

    @cache  # a CUDA graph cannot copy them from the host
    def table(device: torch.device) -> tuple[Tensor, Tensor]:
        return between.to(device), weights.to(device)

    def weight(logsnr: Tensor) -> Tensor:
        edges, weight_of_step = table(logsnr.device)
        return weight_of_step[torch.bucketize(logsnr.double(), edges)]

    return classifier_free_guidance(denoiser, weight)

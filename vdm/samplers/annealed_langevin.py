"""Annealed Langevin dynamics on a variance-exploding schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, Schedule
from vdm.diffusion.checks import check_integer, check_number
from vdm.diffusion.schedules import MAX_STEPS
from vdm.samplers.loop import Callback, Grid, Move, Seeds, denoise, sample_loop
from vdm.samplers.updates import langevin_update


def annealed_langevin(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    schedule: Schedule,
    seeds: Seeds,
    num_steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
    eta0: float = 1e-5,
    steps_per_level: int = 5,
    callback: Callback | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    cuda_graph: bool = False,
) -> Tensor:
    """Sample by Langevin dynamics at one noise level after the other.

        z ← z + η_i score(z, σ_i) + sqrt(2 η_i) ε,   η_i = η0 σ_i² / σ_min²,   score = -ε̂ / σ_i

    Song & Ermon 2019 (arXiv 1907.05600), algorithm 1. The levels σ_i are those of the schedule at all times of
    the grid, num_steps + 1 of them, σ_min being the last. In units of σ_i² the step is the same everywhere: it is
    `vdm_kernels.langevin_step` with δ = 2 η0 / σ_min². The result is x̂ after the last step (Jolicoeur-Martineau
    et al. 2021, 2009.05475); it costs one more call of the denoiser, (num_steps + 1) steps_per_level + 1 in all.

    Args:
        denoiser, shape, seeds, num_steps, times: as in `ancestral`.
        schedule: λ(t) of a variance-exploding process.
        eta0: η0, the step at σ_min, in (0, σ_min² / 2].
        steps_per_level: steps at each level.
        callback: called with a `SamplerStep` at every call of the denoiser.
        device, dtype, cuda_graph: as in `ancestral`.

    Returns:
        x (B, C, F, H, W). No gradient is recorded.

    Raises:
        ValueError: an argument is not as above (before the first step), or the denoiser returns anything else
            than a Prediction of z's shape (at its first call).
    """
    where = "annealed_langevin"
    check_number(where, "eta0", eta0, minimum=0.0, exclusive_minimum=True)
    check_integer(where, "steps_per_level", steps_per_level, minimum=1, maximum=MAX_STEPS)

    def plan(grid: Grid) -> list[Move]:
        if schedule.variance_preserving:
            raise ValueError(f"{where}: schedule must be variance exploding, got {type(schedule).__name__}")
        variance = math.exp(-grid.logsnr[-1])
        delta = 2.0 * eta0 / variance
        if delta > 1.0 + 1e-5:  # λ is rounded to float32: eta0 = σ_min² / 2 is within
            raise ValueError(f"{where}: eta0 must be at most σ_min²/2 = {0.5 * variance:g}, got {eta0}")
        update = langevin_update(min(delta, 1.0))
        moves = [Move(t, update, (at,)) for t, at in zip(grid.t, grid.logsnr) for _ in range(steps_per_level)]
        return [*moves, Move(grid.t[-1], denoise, grid.logsnr[-1:])]

    return sample_loop(
        "annealed_langevin",
        plan,
        denoiser,
        shape,
        schedule=schedule,
        num_steps=num_steps,
        times=times,
        seeds=seeds,
        callback=callback,
        device=device,
        dtype=dtype,
        cuda_graph=cuda_graph,
    )

"""The predictor-corrector sampler of VDM: ancestral steps, each followed by Langevin dynamics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, Schedule
from vdm.diffusion.checks import check_integer, check_number
from vdm.diffusion.schedules import MAX_STEPS
from vdm.samplers.loop import Callback, Grid, Move, Seeds, sample_loop
from vdm.samplers.updates import ancestral_update, langevin_update


def predictor_corrector(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    schedule: Schedule,
    seeds: Seeds,
    num_steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
    gamma: float = 0.0,
    delta: float = 0.1,
    corrector_steps: int = 1,
    callback: Callback | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    cuda_graph: bool = False,
) -> Tensor:
    """Sample by ancestral steps, each corrected at its new noise level.

        predictor  as `ancestral`, from z_t to z_s
        corrector  z_s ← z_s - (δ/2) σ_s ε̂(z_s) + sqrt(δ) σ_s ε

    Ho et al. 2022 (arXiv 2204.03458), section 3.2, after Song et al. 2021 (2011.13456), algorithm 3. The
    corrector calls the denoiser again, at λ_s, so that n steps cost n + (n - 1) corrector_steps calls: the last
    step lands on x̂ (see `ancestral`) and is not corrected. Every random draw is a new one.

    Args:
        denoiser, shape, schedule, seeds, num_steps, times: as in `ancestral`.
        gamma: γ of the predictor, in [0, 1].
        delta: δ, the corrector's step in units of σ_s², in [0, 1].
        corrector_steps: Langevin steps after each predictor step; 0 is `ancestral`.
        callback: called with a `SamplerStep` at every call of the denoiser.
        device, dtype, cuda_graph: as in `ancestral`.

    Returns:
        x (B, C, F, H, W). No gradient is recorded.

    Raises:
        ValueError: an argument is not as above (before the first step), or the denoiser returns anything else
            than a Prediction of z's shape (at its first call).
    """
    check_number("predictor_corrector", "gamma", gamma, minimum=0.0, maximum=1.0)
    check_number("predictor_corrector", "delta", delta, minimum=0.0, maximum=1.0)
    check_integer("predictor_corrector", "corrector_steps", corrector_steps, minimum=0, maximum=MAX_STEPS)

    def plan(grid: Grid) -> list[Move]:
        corrector = langevin_update(float(delta))
        predictors = grid.moves(
            ancestral_update(float(gamma)), last=ancestral_update(float(gamma), add_noise=False)
        )
        moves = predictors[:1]
        for predictor in predictors[1:]:
            moves += [Move(predictor.t, corrector, predictor.values[:1])] * corrector_steps + [predictor]
        return moves

    return sample_loop(
        "predictor_corrector",
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

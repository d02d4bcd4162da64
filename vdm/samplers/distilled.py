"""The stochastic sampler of distilled models: two steps of DDIM, one step of noise back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, Schedule, q_transition
from vdm.samplers.loop import Callback, Grid, Move, Seeds, denoise, sample_loop
from vdm.samplers.updates import ddim_and_renoise, ddim_update


def distilled(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    schedule: Schedule,
    seeds: Seeds,
    num_steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
    callback: Callback | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    cuda_graph: bool = False,
) -> Tensor:
    """Sample by DDIM steps of twice the length, each followed by one forward-process step back.

        z_u = α_u x̂(z_t) + σ_u ε̂(z_t),   z_s ~ q(z_s | z_u) = N((α_s/α_u) z_u, σ_{s|u}² I)

    t, s and u are neighbouring times of the grid, u < s < t. Meng et al. 2022 (arXiv 2210.03142), section 3.3,
    as used in Imagen Video (2210.02303). The last step has no room to come back and is one of DDIM, which at
    t = 0 returns x̂ itself. z_s has the scale of z at s whatever the model. Where t, s and u are equally far
    apart in λ, the step is that of `ancestral` at γ = 0; the share of fresh noise in z_s is larger where u is
    further from s than s from t. One call of the denoiser a step.

    Args:
        denoiser, shape, schedule, seeds, num_steps, times: as in `ancestral`.
        callback: called with a `SamplerStep` at every call of the denoiser.
        device, dtype, cuda_graph: as in `ancestral`.

    Returns:
        x (B, C, F, H, W). No gradient is recorded.

    Raises:
        ValueError: an argument is not as above (before the first step), or the denoiser returns anything else
            than a Prediction of z's shape (at its first call).
    """

    def plan(grid: Grid) -> list[Move]:
        preserving = schedule.variance_preserving
        moves = [
            Move(t, ddim_and_renoise, (at_t, at_u, renoise_logsnr(at_s, at_u, preserving)))
            for t, at_t, at_s, at_u in zip(grid.t, grid.logsnr, grid.logsnr[1:], grid.logsnr[2:])
        ]
        last = denoise if grid.ends_at_data else ddim_update(0.0)
        return [*moves, Move(grid.t[-2], last, grid.logsnr[-2:])]

    return sample_loop(
        "distilled",
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


def renoise_logsnr(logsnr_s: float, logsnr_u: float, variance_preserving: bool) -> float:
    """λ_{s|u} = log((α_s/α_u)² / σ_{s|u}²), at which the forward process is q(z_s | z_u); ∞ where λ_s = λ_u."""
    at_s, at_u = torch.tensor([logsnr_s, logsnr_u], dtype=torch.float64)
    ratio, variance = q_transition(at_s, at_u, variance_preserving=variance_preserving)
    return float(2.0 * torch.log(ratio) - torch.log(variance))

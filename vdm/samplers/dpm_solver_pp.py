"""DPM-Solver++(2M): a second-order multistep solver of the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, Schedule
from vdm.samplers.loop import Callback, Grid, Move, Seeds, sample_loop
from vdm.samplers.updates import dpm_solver_update


def dpm_solver_pp(
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
    """Sample by DPM-Solver++(2M), from t = 1 to t = 0; only the first z is random.

        z_s = (σ_s/σ_t) z_t + α_s (1 - e^{-h}) D,   D = (1 + w) x̂(z_t) - w x̂(z_r),   w = h / (2 h_r)

    Lu et al. 2022 (arXiv 2211.01095), algorithm 2, where h = (λ_s - λ_t)/2 and h_r are this and the previous
    step in half log-SNR, and z_r is the z before. One call of the denoiser a step; the error falls with the
    square of the step. The first step has no x̂ before it and the last, which is long in λ, keeps to its own:
    w = 0 in both, a DDIM step at η = 0. When the last lands on t = 0 it returns x̂ itself.

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
        moves = grid.moves(dpm_solver_update, last=dpm_solver_update)
        weights = [0.0, *(_weight(*grid.logsnr[i : i + 3]) for i in range(len(moves) - 2)), 0.0]
        return [replace(move, values=(*move.values, w)) for move, w in zip(moves, weights)]

    return sample_loop(
        "dpm_solver_pp",
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
        history=1,
    )


def _weight(logsnr_r: float, logsnr_t: float, logsnr_s: float) -> float:
    """w = h / (2 h_r) of the step from t to s after the one from r to t; 0 where that one stood still."""
    return (logsnr_s - logsnr_t) / (2.0 * (logsnr_t - logsnr_r)) if logsnr_t > logsnr_r else 0.0

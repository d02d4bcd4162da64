"""DDIM: a deterministic sampler at η = 0, the ancestral sampler's law at η = 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, Schedule
from vdm.diffusion.checks import check_number
from vdm.samplers.loop import Callback, Seeds, sample_loop
from vdm.samplers.updates import ddim_update


def ddim(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    schedule: Schedule,
    seeds: Seeds,
    num_steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
    eta: float = 0.0,
    callback: Callback | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    cuda_graph: bool = False,
) -> Tensor:
    """Sample by DDIM steps, from t = 1 to t = 0.

        z_s = α_s x̂ + sqrt(σ_s² - σ_η²) ε̂ + σ_η ε
        σ_η = η sqrt(1 - e^{λ_t-λ_s}) σ_s,   ε̂ = (z_t - α_t x̂) / σ_t

    Song et al. 2021 (arXiv 2010.02502), eq. 12. ε̂ is that of the guided and thresholded x̂. The last step adds
    no noise; when it lands on t = 0 it returns x̂ itself, on a grid that ends before, the step at η = 0. First
    noise, seeds and independence of the batch as in `ancestral`.

    Args:
        denoiser: (z, logsnr) -> Prediction; of the schedule's process.
        shape: (B, C, F, H, W) of the result.
        schedule: λ(t).
        seeds: one 64-bit seed per sample, as a sequence or a tensor; an int s stands for s, s + 1, ...
        num_steps: number of steps of a uniform grid from 1 to 0; or give `times`.
        times: the grid itself, strictly decreasing in [0, 1].
        eta: η in [0, 1]; at 0 only the first z is random, at 1 the law is that of `ancestral` with gamma = 0.
        callback: called with a `SamplerStep` at every step.
        device: where to sample; by default where the seeds are, the CPU where they are no tensor.
        dtype: of z and of the result.
        cuda_graph: capture a step, network included, and replay it: the same result without the time Python
            takes. The first step runs as it is. The denoiser must read no tensor on the host.

    Returns:
        x (B, C, F, H, W). No gradient is recorded.

    Raises:
        ValueError: an argument is not as above (before the first step), or the denoiser returns anything else
            than a Prediction of z's shape (at its first call).
    """
    check_number("ddim", "eta", eta, minimum=0.0, maximum=1.0)

    return sample_loop(
        "ddim",
        lambda grid: grid.moves(ddim_update(float(eta)), last=ddim_update(0.0)),
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

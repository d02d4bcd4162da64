"""The ancestral sampler of VDM, with an interpolated variance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, Schedule
from vdm.diffusion.checks import check_number
from vdm.samplers.loop import Callback, Seeds, sample_loop
from vdm.samplers.updates import ancestral_update


def ancestral(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    schedule: Schedule,
    seeds: Seeds,
    num_steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
    gamma: float = 0.0,
    callback: Callback | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    cuda_graph: bool = False,
) -> Tensor:
    """Sample by the posteriors q(z_s | z_t, x̂), from t = 1 to t = 0.

        z_s = e^{λ_t-λ_s} (α_s/α_t) z_t + (1 - e^{λ_t-λ_s}) α_s x̂ + sqrt((σ̃²)^{1-γ} (σ_{t|s}²)^γ) ε

    Ho et al. 2022 (arXiv 2204.03458), eq. 4. The first z is noise of the process's own scale at the start
    (1 where variance preserving, σ where exploding). The last step adds no noise. When it lands on t = 0, it
    returns x̂ itself, the limit of the step's mean as λ_s grows (for λ_0 = 20 the two differ by
    e^{λ_t-20} (z/α_t - x̂)); it is within [-1, 1] if the denoiser is thresholded. On a grid that ends before,
    it returns the step's mean. Nothing of a sample depends on the batch: the noise is a function of its own
    seed and the step.

    Args:
        denoiser: (z, logsnr) -> Prediction; of the schedule's process.
        shape: (B, C, F, H, W) of the result.
        schedule: λ(t).
        seeds: one 64-bit seed per sample, as a sequence or a tensor; an int s stands for s, s + 1, ...
        num_steps: number of steps of a uniform grid from 1 to 0; or give `times`.
        times: the grid itself, strictly decreasing in [0, 1].
        gamma: γ in [0, 1]; 0 is the posterior's variance, 1 the forward transition's.
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
    check_number("ancestral", "gamma", gamma, minimum=0.0, maximum=1.0)

    return sample_loop(
        "ancestral",
        lambda grid: grid.moves(
            ancestral_update(float(gamma)), last=ancestral_update(float(gamma), add_noise=False)
        ),
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

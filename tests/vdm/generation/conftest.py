"""A linear denoiser whose frames correlate, and what to draw with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from vdm.diffusion import CosineSchedule, Prediction, alpha_sigma
from vdm.generation import ConditionalSampler
from vdm.samplers import ddim


def correlated(z: Tensor, logsnr: Tensor) -> Prediction:
    """E[x | z] of frames that are a stationary process, x ~ N(0, 0.25 ρ^|i - j|), pixels independent."""
    frames = torch.arange(z.shape[2], device=z.device)
    covariance = 0.25 * 0.9 ** (frames[:, None] - frames).abs().double()
    alpha, sigma = alpha_sigma(logsnr[0].double())
    gain = alpha * torch.linalg.solve(alpha**2 * covariance + sigma**2 * torch.eye(len(frames)), covariance)
    return Prediction(torch.einsum("gf,bcfhw->bcghw", gain.to(z.dtype), z), "x")


@pytest.fixture
def how() -> Callable[..., ConditionalSampler]:
    """A ConditionalSampler with anything of it changed."""

    def make(**changed: object) -> ConditionalSampler:
        sampler = partial(ddim, schedule=CosineSchedule(), num_steps=6, eta=1.0)
        arguments = {"denoiser": correlated, "sampler": sampler, "weight": 1.0, **changed}
        return ConditionalSampler(**arguments)  # type: ignore[arg-type]

    return make

"""The samplers on Gaussian data, whose optimal denoiser is exact.

    x ~ N(μ, Σ) over frames, z = α x + σ ε   =>   E[x | z] = μ + α Σ (α² Σ + σ² I)^{-1} (z - α μ)

With this denoiser every step is affine. The steps are written out here from the equations, in float64, so
that every sample is checked element by element, and mean and covariance of the output are known in closed
form for any number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vdm.diffusion import (
    CosineSchedule,
    Denoiser,
    DiscreteLinearBetaSchedule,
    GeometricVESchedule,
    LinearBetaSchedule,
    Parameterization,
    Prediction,
    Schedule,
    times,
)
from vdm.samplers import ancestral, ddim
from vdm_kernels import philox_normal, use_backend

MEAN = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
# Neighbouring frames correlate: a stationary process of standard deviation 0.6.
COVARIANCE = 0.36 * 0.8 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
IDENTITY = torch.eye(4, dtype=torch.float64)


def moments(logsnr: Tensor, variance_preserving: bool) -> tuple[Tensor, Tensor]:
    """(α, σ) from the definition."""
    snr = logsnr.double().exp()
    if variance_preserving:
        return (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
    return torch.ones_like(snr), snr.rsqrt()


def optimal_map(logsnr: Tensor, variance_preserving: bool) -> tuple[Tensor, Tensor]:
    """(K, k) of E[x | z] = K z + k at one λ, over frames."""
    alpha, sigma = moments(logsnr, variance_preserving)
    gain = alpha * torch.linalg.solve(alpha**2 * COVARIANCE + sigma**2 * IDENTITY, COVARIANCE)
    return gain, MEAN - alpha * gain @ MEAN


@dataclass(frozen=True)
class OptimalDenoiser:
    """E[x | z] of (B, C, 4, H, W) videos, in any parameterization."""

    parameterization: Parameterization = "x"
    variance_preserving: bool = True

    def __call__(self, z: Tensor, logsnr: Tensor) -> Prediction:
        gain, offset = optimal_map(logsnr[0], self.variance_preserving)
        x = torch.einsum("gf,bcfhw->bcghw", gain, z.double()) + offset[:, None, None]
        alpha, sigma = moments(logsnr[0], self.variance_preserving)
        eps = (z - alpha * x) / sigma
        value = {"x": x, "eps": eps, "v": alpha * eps - sigma * x}[self.parameterization]
        return Prediction(
            value.to(z.dtype), self.parameterization, variance_preserving=self.variance_preserving
        )


@dataclass(frozen=True)
class Step:
    """z_s = matrix z_t + offset + std ε; the first z is a step from 0 with draw 0, step i has draw i + 1."""

    matrix: Tensor
    offset: Tensor
    std: Tensor


def sampler_steps(
    schedule: Schedule, grid: Tensor, *, gamma: float | None = None, eta: float | None = None
) -> Iterator[Step]:
    """The first z and the steps of `ancestral` (gamma) or `ddim` (eta), down to t = 0."""
    preserving = schedule.variance_preserving
    logsnr = schedule(grid).float().double()
    zero = torch.zeros(4, dtype=torch.float64)
    yield Step(0.0 * IDENTITY, zero, zero[0] + 1.0 if preserving else moments(logsnr[0], False)[1])
    for lambda_t, lambda_s in pairwise(logsnr[:-1]):
        alpha_t, sigma_t = moments(lambda_t, preserving)
        alpha_s, sigma_s = moments(lambda_s, preserving)
        shrink = (lambda_t - lambda_s).exp()
        if gamma is not None:
            on_z, on_x = shrink * alpha_s / alpha_t, (1 - shrink) * alpha_s
            std = (((1 - shrink) * sigma_s**2) ** (1 - gamma) * ((1 - shrink) * sigma_t**2) ** gamma).sqrt()
        else:
            assert eta is not None
            std = eta * (1 - shrink).sqrt() * sigma_s
            on_eps = (sigma_s**2 - std**2).sqrt()
            on_z, on_x = on_eps / sigma_t, alpha_s - on_eps * alpha_t / sigma_t
        gain, offset = optimal_map(lambda_t, preserving)
        yield Step(on_z * IDENTITY + on_x * gain, on_x * offset, std)
    gain, offset = optimal_map(logsnr[-2], preserving)
    yield Step(gain, offset, zero[0])


def law(steps: Iterator[Step]) -> tuple[Tensor, Tensor]:
    """Mean and covariance over frames of what the steps give."""
    mean, covariance = torch.zeros(4, dtype=torch.float64), 0.0 * IDENTITY
    for step in steps:
        mean = step.matrix @ mean + step.offset
        covariance = step.matrix @ covariance @ step.matrix.T + step.std**2 * IDENTITY
    return mean, covariance


def written_out(steps: Iterator[Step], shape: tuple[int, ...], seeds: list[int]) -> Tensor:
    """What the steps give with the samplers' own noise, of the backend that float64 runs on."""
    seed, z = torch.tensor(seeds), torch.zeros(shape, dtype=torch.float64)
    for draw, step in enumerate(steps):
        with use_backend("reference"):
            eps = philox_normal(shape, seed, draw).double()
        z = torch.einsum("gf,bcfhw->bcghw", step.matrix, z) + step.offset[:, None, None] + step.std * eps
    return z


SCHEDULES = [
    CosineSchedule(),
    CosineSchedule.for_size(256),
    LinearBetaSchedule(),
    DiscreteLinearBetaSchedule(),
    GeometricVESchedule(0.01, 50.0),
]
PREDICTED = [("cosine", "eps"), ("cosine", "x"), ("cosine", "v"), ("ve", "eps"), ("ve", "x")]
SHAPE = (2, 1, 4, 3, 5)
SEEDS = [7, -3]


@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_ancestral_is_its_equation(schedule: Schedule, gamma: float, num_steps: int) -> None:
    denoiser = OptimalDenoiser("x", schedule.variance_preserving)
    expected = written_out(sampler_steps(schedule, times(num_steps), gamma=gamma), SHAPE, SEEDS)
    x = ancestral(
        denoiser, SHAPE, schedule=schedule, num_steps=num_steps, seeds=SEEDS, gamma=gamma, dtype=torch.float64
    )
    torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-7)
    single = ancestral(denoiser, SHAPE, schedule=schedule, num_steps=num_steps, seeds=SEEDS, gamma=gamma)
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_ddim_is_its_equation(schedule: Schedule, eta: float, num_steps: int) -> None:
    denoiser = OptimalDenoiser("x", schedule.variance_preserving)
    expected = written_out(sampler_steps(schedule, times(num_steps), eta=eta), SHAPE, SEEDS)
    x = ddim(
        denoiser, SHAPE, schedule=schedule, num_steps=num_steps, seeds=SEEDS, eta=eta, dtype=torch.float64
    )
    torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-7)
    single = ddim(denoiser, SHAPE, schedule=schedule, num_steps=num_steps, seeds=SEEDS, eta=eta)
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("process", "parameterization"), PREDICTED)
def test_the_parameterization_does_not_matter(process: str, parameterization: Parameterization) -> None:
    schedule: Schedule = CosineSchedule() if process == "cosine" else GeometricVESchedule()
    denoiser: Denoiser = OptimalDenoiser(parameterization, schedule.variance_preserving)
    for sampler, option in [(ancestral, {"gamma": 0.3}), (ddim, {"eta": 0.5})]:
        x = sampler(
            denoiser, SHAPE, schedule=schedule, num_steps=9, seeds=SEEDS, dtype=torch.float64, **option
        )
        expected = written_out(sampler_steps(schedule, times(9), **option), SHAPE, SEEDS)
        torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_ddim_at_eta_1_is_ancestral_at_gamma_0(schedule: Schedule) -> None:
    """In law (equal maps), and, as the draws are the same, sample by sample."""
    by_eta, by_gamma = (sampler_steps(schedule, times(8), **o) for o in ({"eta": 1.0}, {"gamma": 0.0}))
    for left, right in zip(by_eta, by_gamma, strict=True):
        torch.testing.assert_close(left.matrix, right.matrix, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(left.offset, right.offset, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(left.std, right.std, rtol=1e-12, atol=0)
    denoiser = OptimalDenoiser("eps", schedule.variance_preserving)
    arguments = {"schedule": schedule, "num_steps": 8, "seeds": SEEDS}
    x_ddim = ddim(denoiser, SHAPE, eta=1.0, **arguments)
    x_ancestral = ancestral(denoiser, SHAPE, gamma=0.0, **arguments)
    torch.testing.assert_close(x_ddim, x_ancestral, rtol=1e-4, atol=1e-4)


OPTIONS = [{"gamma": 0.0}, {"gamma": 0.3}, {"gamma": 1.0}, {"eta": 0.0}, {"eta": 0.5}, {"eta": 1.0}]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@pytest.mark.parametrize("schedule", [CosineSchedule(), GeometricVESchedule(0.002, 5000.0)], ids=str)
def test_law_converges_to_the_data(schedule: Schedule, option: dict[str, float]) -> None:
    """Mean and covariance of the output approach μ and Σ at first order in 1 / steps."""
    errors = []
    for num_steps in (32, 128, 512):
        mean, covariance = law(sampler_steps(schedule, times(num_steps), **option))
        errors.append(max(float((mean - MEAN).abs().max()), float((covariance - COVARIANCE).abs().max())))
    assert all(fine < coarse / 3.0 for coarse, fine in pairwise(errors)), errors
    assert errors[-1] < 0.015, errors


@pytest.mark.parametrize("num_steps", [4, 64])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_samples_have_the_law(option: dict[str, float], num_steps: int) -> None:
    """Every pixel is an independent draw over frames: 16,384 of them, within five standard errors."""
    shape, n = (4, 1, 4, 64, 64), 4 * 64 * 64
    sampler = ancestral if "gamma" in option else ddim
    x = sampler(
        OptimalDenoiser("v"), shape, schedule=CosineSchedule(), num_steps=num_steps, seeds=123, **option
    )
    rows = x.double().permute(0, 1, 3, 4, 2).reshape(n, 4)
    mean, covariance = law(sampler_steps(CosineSchedule(), times(num_steps), **option))
    variance = covariance.diagonal()
    assert bool(((rows.mean(0) - mean).abs() <= 5 * (variance / n).sqrt()).all())
    bound = 5 * ((variance[:, None] * variance + covariance**2) / n).sqrt()
    assert bool(((rows.T.cov() - covariance).abs() <= bound).all())

"""How fast each sampler's law approaches that of the data, on Gaussian videos, where both are known exactly.

On a grid of constant step h in λ (a geometric variance-exploding schedule) a sampler gives the covariance
(1 + c) S, with one c for every S, in leading order (docs/exactness.md derives them):

    ancestral(γ)            c = (γ - 1/2) h
    ddim(η)                 c = -(1 + η²) h / 4
    distilled               c = -h / 2
    dpm_solver_pp           c = h² / 32
    predictor_corrector     c = ((1 + κ²/4) / (κ + 2) - (1 - γ)) h / (κ + 1),   κ = δ / h
    annealed_langevin       c = (1 + δ/4) / (κ - 1),   κ = M δ / h,   δ = 2 η0 / σ_min²,   M steps per level
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from gaussian_videos import SEED, Law, ar1_videos, sampled_law
from torch import Tensor

from vdm.diffusion import CosineSchedule, GeometricVESchedule, Schedule
from vdm.samplers import ancestral, annealed_langevin, ddim, distilled, dpm_solver_pp, predictor_corrector

FRAMES = 4
COVARIANCE = ar1_videos(FRAMES).covariance
WIDE = GeometricVESchedule(1e-3, 500.0)


def spacing(schedule: GeometricVESchedule, num_steps: int) -> float:
    """h, the constant step in λ."""
    return 2 * math.log(schedule.sigma_max / schedule.sigma_min) / num_steps


def law(
    sampler: Callable[..., Tensor], schedule: Schedule, num_steps: int, num_draws: int, **options: float
) -> Law:
    videos = ar1_videos(FRAMES, variance_preserving=schedule.variance_preserving)
    draw = partial(
        sampler, schedule=schedule, num_steps=num_steps, seeds=SEED, dtype=torch.float64, **options
    )
    result = sampled_law(lambda shape, _: draw(videos, shape), (FRAMES, 1, 1), range(num_draws))
    assert result.residual < 1e-10
    return result


Run = Callable[[Schedule, int], Law]
"""(schedule, num_steps) -> the law of a sampler."""


def stochastic(sampler: Callable[..., Tensor], **options: float) -> Run:
    return lambda schedule, n: law(sampler, schedule, n, n, **options)


def deterministic(sampler: Callable[..., Tensor]) -> Run:
    return lambda schedule, n: law(sampler, schedule, n, 1)


def corrected(gamma: float, kappa: float) -> Run:
    """δ = κ h: as much correction per unit of λ on every grid."""
    return lambda schedule, n: law(
        predictor_corrector, schedule, n, 2 * n - 1, gamma=gamma, delta=kappa * spacing(WIDE, n)
    )


def correction(gamma: float, kappa: float) -> float:
    return ((1 + kappa**2 / 4) / (kappa + 2) - (1 - gamma)) / (kappa + 1)


def order(coarse: float, fine: float) -> float:
    """Of an error that fell from `coarse` to `fine` when the steps were halved."""
    return math.log2(coarse / fine)


FIRST_ORDER: dict[str, tuple[Run, float]] = {
    "ancestral, gamma=0": (stochastic(ancestral, gamma=0.0), -1 / 2),
    "ancestral, gamma=0.3": (stochastic(ancestral, gamma=0.3), -1 / 5),
    "ancestral, gamma=0.5": (stochastic(ancestral, gamma=0.5), 0.0),
    "ancestral, gamma=1": (stochastic(ancestral, gamma=1.0), 1 / 2),
    "ddim, eta=0": (deterministic(ddim), -1 / 4),
    "ddim, eta=0.5": (stochastic(ddim, eta=0.5), -5 / 16),
    "ddim, eta=1": (stochastic(ddim, eta=1.0), -1 / 2),
    "distilled": (stochastic(distilled), -1 / 2),
}
MEANS = {
    **{name: run for name, (run, _) in FIRST_ORDER.items()},
    "dpm_solver_pp": deterministic(dpm_solver_pp),
    "predictor_corrector": lambda schedule, n: law(predictor_corrector, schedule, n, 2 * n - 1),
}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_first_order_error_is_the_predicted_one(name: str) -> None:
    """What is left of the covariance's error without its first-order term is of second order."""
    run, c = FIRST_ORDER[name]
    left = [run(WIDE, n).covariance_error((1 + c * spacing(WIDE, n)) * COVARIANCE) for n in (48, 96)]
    assert order(*left) == pytest.approx(2.0, abs=0.25), left


@pytest.mark.parametrize(("gamma", "kappa"), [(0.0, 0.5), (0.3, 2.0)])
def test_first_order_error_of_the_corrector(gamma: float, kappa: float) -> None:
    run, c = corrected(gamma, kappa), correction(gamma, kappa)
    left = [run(WIDE, n).covariance_error((1 + c * spacing(WIDE, n)) * COVARIANCE) for n in (64, 128)]
    assert order(*left) == pytest.approx(2.0, abs=0.3), left


def test_second_order_error_of_dpm_solver() -> None:
    """Without h²/32 of the covariance, the error is of third order."""
    left = []
    for n in (64, 128):
        found = law(dpm_solver_pp, WIDE, n, 1)
        assert 0.95 < found.covariance_error(COVARIANCE) / (spacing(WIDE, n) ** 2 / 32) < 1.05
        left.append(found.covariance_error((1 + spacing(WIDE, n) ** 2 / 32) * COVARIANCE))
    assert order(*left) > 2.6, left


@pytest.mark.parametrize(("levels", "steps_per_level"), [(16, 16), (64, 4)])
def test_annealed_langevin_is_of_first_order_in_all_its_steps(levels: int, steps_per_level: int) -> None:
    """(1 + δ/4) / (κ - 1): levels and steps at each of them count alike."""
    schedule, delta = GeometricVESchedule(0.005, 5.0), 0.5
    found = law(
        annealed_langevin,
        schedule,
        levels - 1,
        1 + levels * steps_per_level,
        eta0=0.5 * delta * schedule.sigma_min**2,
        steps_per_level=steps_per_level,
    )
    kappa = steps_per_level * delta / spacing(schedule, levels - 1)
    c = (1 + delta / 4) / (kappa - 1)
    assert found.covariance_error(COVARIANCE) == pytest.approx(c, rel=0.1)
    assert found.covariance_error((1 + c) * COVARIANCE) < 0.1 * c
    assert float((found.mean - 0.2).abs().max()) < 1e-6


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_error_halves_with_the_steps_on_the_cosine_schedule(name: str) -> None:
    run, _ = FIRST_ORDER[name]
    errors = [run(CosineSchedule(), n).covariance_error(COVARIANCE) for n in (64, 128)]
    assert order(*errors) == pytest.approx(1.0, abs=0.12), errors


def test_ddim_on_the_cosine_schedule() -> None:
    """A mode of variance S is off by -(π²/8) (sqrt(S) + 1/sqrt(S)) / N of its variance."""
    variances, modes = torch.linalg.eigh(COVARIANCE)
    first, second = (
        num_steps * ((modes.T @ covariance @ modes).diagonal() / variances - 1)
        for num_steps in (128, 256)
        for covariance in [law(ddim, CosineSchedule(), num_steps, 1).covariance]
    )
    limit = 2 * second - first  # the next order is gone
    torch.testing.assert_close(
        limit, -(math.pi**2) / 8 * (variances.sqrt() + variances.rsqrt()), rtol=1e-3, atol=0
    )


def test_dpm_solver_on_the_cosine_schedule_is_better_with_a_fourth_of_the_steps() -> None:
    for few in (16, 64):
        second = law(dpm_solver_pp, CosineSchedule(), few, 1).covariance_error(COVARIANCE)
        assert second < law(ddim, CosineSchedule(), 4 * few, 1).covariance_error(COVARIANCE)
    errors = [law(dpm_solver_pp, CosineSchedule(), n, 1).covariance_error(COVARIANCE) for n in (256, 512)]
    assert order(*errors) > 1.5, errors  # 2 where all steps are short; those next to t = 0 never are


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("num_steps", [1, 2, 16])
def test_mean_is_right_after_any_number_of_steps(name: str, num_steps: int) -> None:
    """A step with E[x | z] keeps E[z] = α μ. What is left is that of the first z: 0 instead of α_1 μ."""
    assert float((MEANS[name](CosineSchedule(), num_steps).mean - 0.2).abs().max()) < 2e-5


def test_distilled_is_ancestral_where_the_steps_are_even() -> None:
    """With λ_t, λ_s, λ_u equally far apart, DDIM to u and noise back to s is the posterior's step to s."""
    for schedule in (WIDE, GeometricVESchedule(0.01, 50.0)):
        videos = ar1_videos(FRAMES, variance_preserving=False)
        options = {"schedule": schedule, "num_steps": 20, "seeds": SEED, "dtype": torch.float64}
        shape = (1, 3, FRAMES, 1, 1)
        torch.testing.assert_close(
            distilled(videos, shape, **options), ancestral(videos, shape, **options), rtol=1e-6, atol=1e-6
        )

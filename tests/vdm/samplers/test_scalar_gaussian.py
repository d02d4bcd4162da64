"""The samplers made of several calls or steps, on scalar Gaussian data, written out in float64.

    x ~ N(m, s²), z = α x + σ ε   =>   E[x | z] = m + α s² / (α² s² + σ²) (z - α m)

Every step is then z <- a z + b + c ε: a sample is known element by element, the law of all of them by two
recursions, and the flow that ODE solvers approximate in closed form: (z_t - α_t m) / sqrt(α_t² s² + σ_t²) stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from vdm.diffusion import CosineSchedule, GeometricVESchedule, Prediction, Schedule, times
from vdm.samplers import (
    SamplerStep,
    ancestral,
    annealed_langevin,
    ddim,
    distilled,
    dpm_solver_pp,
    predictor_corrector,
)
from vdm.samplers.distilled import renoise_logsnr
from vdm_kernels import philox_normal, use_backend

MEAN, STD = 0.3, 0.6
SHAPE, SEEDS = (2, 1, 2, 3, 5), [7, -3]
PRESERVING, EXPLODING = CosineSchedule(), GeometricVESchedule(0.01, 20.0)
both_processes = pytest.mark.parametrize("schedule", [PRESERVING, EXPLODING], ids=["preserving", "exploding"])
Step = tuple[float, float, float]
"""(a, b, c) of z <- a z + b + c ε."""


def scales(logsnr: float, schedule: Schedule) -> tuple[float, float]:
    """(α, σ) from the definition."""
    if schedule.variance_preserving:
        return 1 / math.sqrt(1 + math.exp(-logsnr)), 1 / math.sqrt(1 + math.exp(logsnr))
    return 1.0, math.exp(-0.5 * logsnr)


def optimal(logsnr: float, schedule: Schedule) -> tuple[float, float]:
    """(K, k) of E[x | z] = K z + k."""
    alpha, sigma = scales(logsnr, schedule)
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return gain, MEAN - gain * alpha * MEAN


def denoiser(schedule: Schedule) -> Callable[[Tensor, Tensor], Prediction]:
    def optimal_denoiser(z: Tensor, logsnr: Tensor) -> Prediction:
        gain, offset = optimal(float(logsnr[0]), schedule)
        return Prediction(gain * z + offset, "x", variance_preserving=schedule.variance_preserving)

    return optimal_denoiser


def grid_logsnr(schedule: Schedule, num_steps: int) -> list[float]:
    found: list[float] = schedule(times(num_steps)).float().tolist()
    return found


def first(schedule: Schedule, num_steps: int) -> Step:
    """The first z from nothing."""
    sigma = scales(grid_logsnr(schedule, num_steps)[0], schedule)[1]
    return 0.0, 0.0, 1.0 if schedule.variance_preserving else sigma


def on_x(a: float, b: float, c: float, logsnr: float, schedule: Schedule) -> Step:
    """z <- a z + b x̂ + c ε with the optimal x̂."""
    gain, offset = optimal(logsnr, schedule)
    return a + b * gain, b * offset, c


def ancestral_step(at_t: float, at_s: float, gamma: float, schedule: Schedule) -> Step:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(at_t, schedule), scales(at_s, schedule)
    shrink = math.exp(at_t - at_s)
    std = math.sqrt((1 - shrink) * sigma_s ** (2 - 2 * gamma) * sigma_t ** (2 * gamma))
    return on_x(shrink * alpha_s / alpha_t, (1 - shrink) * alpha_s, std, at_t, schedule)


def langevin_step(at: float, delta: float, schedule: Schedule) -> Step:
    """z + η score + sqrt(2 η) ε with η = δ σ² / 2 and the score of N(α m, α² s² + σ²)."""
    alpha, sigma = scales(at, schedule)
    eta, variance = delta * sigma**2 / 2, alpha**2 * STD**2 + sigma**2
    return 1 - eta / variance, eta / variance * alpha * MEAN, math.sqrt(2 * eta)


def last(schedule: Schedule, num_steps: int) -> Step:
    return (*optimal(grid_logsnr(schedule, num_steps)[-2], schedule), 0.0)


def predictor_corrector_steps(
    schedule: Schedule, num_steps: int, gamma: float, delta: float, corrector_steps: int
) -> list[Step]:
    steps = [first(schedule, num_steps)]
    for at_t, at_s in pairwise(grid_logsnr(schedule, num_steps)[:-1]):
        steps += [ancestral_step(at_t, at_s, gamma, schedule)]
        steps += [langevin_step(at_s, delta, schedule)] * corrector_steps
    return [*steps, last(schedule, num_steps)]


def distilled_steps(schedule: Schedule, num_steps: int) -> list[Step]:
    steps, logsnr = [first(schedule, num_steps)], grid_logsnr(schedule, num_steps)
    for at_t, at_s, at_u in zip(logsnr, logsnr[1:], logsnr[2:]):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(at_t, schedule), scales(at_s, schedule)
        alpha_u, sigma_u = scales(at_u, schedule)
        back = alpha_s / alpha_u
        std = math.sqrt(sigma_s**2 - (back * sigma_u) ** 2)
        a, b = back * sigma_u / sigma_t, back * (alpha_u - sigma_u / sigma_t * alpha_t)
        steps.append(on_x(a, b, std, at_t, schedule))
    return [*steps, last(schedule, num_steps)]


def annealed_langevin_steps(
    schedule: Schedule, num_steps: int, eta0: float, steps_per_level: int
) -> list[Step]:
    logsnr = grid_logsnr(schedule, num_steps)
    variances = [scales(at, schedule)[1] ** 2 for at in logsnr]
    steps = [first(schedule, num_steps)]
    for at, variance in zip(logsnr, variances):
        eta = eta0 * variance / variances[-1]
        steps += [langevin_step(at, 2 * eta / variance, schedule)] * steps_per_level
    return [*steps, (*optimal(logsnr[-1], schedule), 0.0)]


def law(steps: list[Step]) -> tuple[float, float]:
    """Mean and standard deviation of what the steps give."""
    mean = variance = 0.0
    for a, b, c in steps:
        mean, variance = a * mean + b, a * a * variance + c * c
    return mean, math.sqrt(variance)


def error(steps: list[Step]) -> float:
    """The larger of the errors in mean and standard deviation."""
    mean, std = law(steps)
    return max(abs(mean - MEAN), abs(std - STD))


def written_out(steps: list[Step]) -> Tensor:
    """What the steps give with the samplers' own noise: step i has draw i."""
    z = torch.zeros(SHAPE, dtype=torch.float64)
    for draw, (a, b, c) in enumerate(steps):
        with use_backend("reference"):
            z = a * z + b + c * philox_normal(SHAPE, torch.tensor(SEEDS), draw).double()
    return z


def assert_sampler_is(
    sampler: Callable[..., Tensor], steps: list[Step], schedule: Schedule, num_steps: int, **options: Any
) -> None:
    """Element by element: in float64, in float32 and with every parameterization's rounding of the latter."""
    expected = written_out(steps)
    arguments = {"schedule": schedule, "num_steps": num_steps, "seeds": SEEDS, **options}
    calls: list[SamplerStep] = []
    x = sampler(denoiser(schedule), SHAPE, dtype=torch.float64, callback=calls.append, **arguments)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    assert len(calls) == len(steps) - 1  # one call of the denoiser for each step after the first z
    single = sampler(denoiser(schedule), SHAPE, **arguments)
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(single, sampler(denoiser(schedule), SHAPE, **arguments))


@both_processes
@pytest.mark.parametrize("num_steps", [1, 2, 9])
@pytest.mark.parametrize(("gamma", "corrector_steps"), [(0.0, 1), (0.3, 2)])
def test_predictor_corrector_is_its_equation(
    schedule: Schedule, num_steps: int, gamma: float, corrector_steps: int
) -> None:
    options = {"gamma": gamma, "delta": 0.1, "corrector_steps": corrector_steps}
    steps = predictor_corrector_steps(schedule, num_steps, gamma, 0.1, corrector_steps)
    assert_sampler_is(predictor_corrector, steps, schedule, num_steps, **options)


@both_processes
@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_distilled_is_its_equation(schedule: Schedule, num_steps: int) -> None:
    assert_sampler_is(distilled, distilled_steps(schedule, num_steps), schedule, num_steps)


@pytest.mark.parametrize(("num_steps", "steps_per_level"), [(1, 3), (9, 2)])
def test_annealed_langevin_is_its_equation(num_steps: int, steps_per_level: int) -> None:
    options = {"eta0": 1e-5, "steps_per_level": steps_per_level}
    steps = annealed_langevin_steps(EXPLODING, num_steps, **options)
    assert_sampler_is(annealed_langevin, steps, EXPLODING, num_steps, **options)


@both_processes
def test_the_corrector_brings_the_law_closer_to_the_data(schedule: Schedule) -> None:
    plain, corrected = (
        [error(predictor_corrector_steps(schedule, n, 0.0, 0.1, steps)) for n in (32, 128, 512)]
        for steps in (0, 4)
    )
    assert all(c < 0.8 * p for c, p in zip(corrected, plain)), (corrected, plain)
    assert all(fine < coarse / 4 for coarse, fine in pairwise(corrected)), corrected


@both_processes
def test_distilled_converges_to_the_data_at_first_order(schedule: Schedule) -> None:
    errors = [error(distilled_steps(schedule, n)) for n in (64, 256, 1024)]
    assert all(3.5 < coarse / fine < 4.7 for coarse, fine in pairwise(errors)), errors


@pytest.mark.parametrize(("levels", "steps"), [(1, 2), (2, 1)])
def test_annealed_langevin_reaches_the_law_of_the_data(levels: int, steps: int) -> None:
    """Twice the levels, or twice the steps at each, and half of the error, down to that of the final x̂."""
    errors = [
        error(annealed_langevin_steps(EXPLODING, 100 * levels**n, 2e-5, 5 * steps**n)) for n in range(6)
    ]
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in pairwise(errors)), errors
    assert errors[-1] < 1e-3, errors


def even_times(schedule: Schedule, num_steps: int) -> list[float]:
    """Times between which λ grows by the same, from -5 to 5."""
    logsnr = [-5 + 10 * i / num_steps for i in range(num_steps + 1)]
    if schedule is EXPLODING:
        return [(-0.5 * at - math.log(0.01)) / math.log(2000.0) for at in logsnr]
    end = math.atan(math.exp(-10.0))
    return [(math.atan(math.exp(-0.5 * at)) - end) / (math.pi / 2 - 2 * end) for at in logsnr]


def flow_error(sampler: Callable[..., Tensor], schedule: Schedule, num_steps: int) -> float:
    """Of the sampler's way from λ = -5 to 5."""
    seen: list[Tensor] = []
    z = sampler(
        denoiser(schedule),
        SHAPE,
        schedule=schedule,
        times=even_times(schedule, num_steps),
        seeds=SEEDS,
        dtype=torch.float64,
        callback=lambda step: seen.append(step.z),
    )
    (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(-5.0, schedule), scales(5.0, schedule)
    ratio = math.sqrt((alpha_s**2 * STD**2 + sigma_s**2) / (alpha_t**2 * STD**2 + sigma_t**2))
    return float((z - (alpha_s * MEAN + ratio * (seen[0] - alpha_t * MEAN))).abs().max())


@both_processes
@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpm_solver_pp, 2)])
def test_the_order_of_the_ode_solvers(schedule: Schedule, sampler: Callable[..., Tensor], order: int) -> None:
    """Twice the steps, 2^order times less error."""
    errors = [flow_error(sampler, schedule, n) for n in (32, 64, 128, 256)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.1), (errors, orders)


@both_processes
def test_dpm_solver_needs_fewer_steps_than_ddim(schedule: Schedule) -> None:
    assert flow_error(dpm_solver_pp, schedule, 16) < flow_error(ddim, schedule, 128)


def test_dpm_solver_is_its_equation() -> None:
    """Algorithm 2 of Lu et al. 2022 on a grid that ends early, whose last step is of first order too."""
    for schedule in (PRESERVING, EXPLODING):
        grid = [1.0, 0.8, 0.5, 0.45, 0.2]
        logsnr = schedule(torch.tensor(grid, dtype=torch.float64)).float().tolist()
        with use_backend("reference"):
            z = philox_normal(SHAPE, torch.tensor(SEEDS), 0).double()
        z = z * (1.0 if schedule.variance_preserving else scales(logsnr[0], schedule)[1])
        before, h_before = torch.zeros_like(z), math.inf
        for i, (at_t, at_s) in enumerate(pairwise(logsnr)):
            gain, offset = optimal(at_t, schedule)
            x, h = gain * z + offset, 0.5 * (at_s - at_t)
            r = math.inf if i in (0, 3) else h_before / h
            mixed = (1 + 1 / (2 * r)) * x - 1 / (2 * r) * before
            (_, sigma_t), (alpha_s, sigma_s) = scales(at_t, schedule), scales(at_s, schedule)
            z = sigma_s / sigma_t * z - alpha_s * math.expm1(-h) * mixed
            before, h_before = x, h
        arguments = {"schedule": schedule, "times": grid, "seeds": SEEDS}
        x = dpm_solver_pp(denoiser(schedule), SHAPE, dtype=torch.float64, **arguments)
        torch.testing.assert_close(x, z, rtol=1e-6, atol=1e-6)
        single = dpm_solver_pp(denoiser(schedule), SHAPE, **arguments)
        torch.testing.assert_close(single.double(), z, rtol=1e-4, atol=1e-4)


@both_processes
def test_samplers_that_are_others(schedule: Schedule) -> None:
    """No corrector is ancestral; one step, or two, of the ODE solvers are DDIM; one distilled step is DDIM."""
    arguments: dict[str, Any] = {"shape": SHAPE, "schedule": schedule, "seeds": SEEDS}
    model = denoiser(schedule)
    assert torch.equal(
        predictor_corrector(model, num_steps=6, gamma=0.3, corrector_steps=0, **arguments),
        ancestral(model, num_steps=6, gamma=0.3, **arguments),
    )
    for num_steps in (1, 2):
        torch.testing.assert_close(
            dpm_solver_pp(model, num_steps=num_steps, **arguments),
            ddim(model, num_steps=num_steps, **arguments),
        )
    assert torch.equal(distilled(model, num_steps=1, **arguments), ddim(model, num_steps=1, **arguments))


@both_processes
def test_a_distilled_step_is_ddim_with_as_much_noise(schedule: Schedule) -> None:
    """With η² (1 - e^{λ_t-λ_s}) = 1 - e^{λ_s-λ_u}: both keep α x and σ of the marginal, and use one draw."""
    grid = [1.0, 0.7, 0.5, 0.0]
    at_t, at_s, at_u, _ = schedule(torch.tensor(grid, dtype=torch.float64)).float().tolist()
    eta = math.sqrt(math.expm1(at_s - at_u) / math.expm1(at_t - at_s))
    seen: dict[str, list[Tensor]] = {"distilled": [], "ddim": []}
    for sampler, options in ((distilled, {}), (ddim, {"eta": min(eta, 1.0)})):
        sampler(
            denoiser(schedule),
            SHAPE,
            schedule=schedule,
            times=grid,
            seeds=SEEDS,
            dtype=torch.float64,
            callback=lambda step, name=sampler.__name__: seen[name].append(step.z),
            **options,
        )
    assert 0.5 < eta <= 1.0
    torch.testing.assert_close(seen["distilled"][1], seen["ddim"][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("at_s", "at_u"), [(-20.0, -19.0), (-1.0, 1.5), (8.0, 20.0), (3.0, 3.0)])
def test_the_step_back_is_the_forward_transition(at_s: float, at_u: float) -> None:
    """At λ_{s|u} the scales are α_s/α_u and σ_{s|u}."""
    for schedule in (PRESERVING, EXPLODING):
        logsnr = renoise_logsnr(at_s, at_u, schedule.variance_preserving)
        (alpha_s, sigma_s), (alpha_u, sigma_u) = scales(at_s, schedule), scales(at_u, schedule)
        alpha, sigma = (1.0, 0.0) if logsnr == math.inf else scales(logsnr, schedule)
        assert alpha == pytest.approx(alpha_s / alpha_u, rel=1e-12)
        assert sigma**2 == pytest.approx(sigma_s**2 - (alpha_s / alpha_u * sigma_u) ** 2, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_annealed_langevin_does_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    def elementwise(z: Tensor, logsnr: Tensor) -> Prediction:
        return Prediction(torch.tanh(z), "eps", variance_preserving=False)

    arguments = {"schedule": EXPLODING, "num_steps": 3, "dtype": dtype}
    batch = annealed_langevin(elementwise, SHAPE, seeds=SEEDS, **arguments)
    assert batch.dtype == dtype
    for row, seed in enumerate(SEEDS):
        assert torch.equal(
            annealed_langevin(elementwise, (1, *SHAPE[1:]), seeds=seed, **arguments)[0], batch[row]
        )

"""Schedules against their closed forms, at both ends and in between."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from vdm.diffusion import (
    SCHEDULES,
    CosineSchedule,
    DiscreteLinearBetaSchedule,
    GeometricVESchedule,
    LinearBetaSchedule,
    Schedule,
    times,
)

ALL = [*(schedule() for schedule in SCHEDULES.values()), CosineSchedule.for_size(128)]


def logsnr_at(schedule: Schedule, t: float) -> float:
    return float(schedule(torch.tensor(t, dtype=torch.float64)))


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_is_finite_and_strictly_decreasing(schedule: Schedule) -> None:
    logsnr = schedule(torch.linspace(0.0, 1.0, 20_001, dtype=torch.float64))
    assert bool(logsnr.isfinite().all())
    assert bool((logsnr.diff() < 0).all())


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_dtype_shape_and_accuracy(schedule: Schedule) -> None:
    t = torch.linspace(0.0, 1.0, 24, dtype=torch.float64).reshape(2, 3, 4)
    exact = schedule(t)
    assert exact.dtype == torch.float64
    assert exact.shape == t.shape
    single = schedule(t.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), schedule(t.float().double()), rtol=1e-7, atol=1e-7)
    half = schedule(t.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, schedule(t.bfloat16().float()), rtol=0, atol=0)
    assert schedule(t[:0]).shape == (0, 3, 4)
    assert schedule(torch.tensor(0.5)).shape == ()


@pytest.mark.parametrize(("low", "high"), [(-20.0, 20.0), (-15.0, 15.0), (-200.0, 100.0), (-1.0, 30.0)])
def test_cosine_reaches_both_ends(low: float, high: float) -> None:
    schedule = CosineSchedule(low, high)
    assert logsnr_at(schedule, 0.0) == pytest.approx(high, rel=1e-13)
    assert logsnr_at(schedule, 1.0) == pytest.approx(low, rel=1e-13)


def test_cosine_is_the_formula_of_vdm() -> None:
    b = math.atan(math.exp(-10.0))
    a = math.atan(math.exp(10.0)) - b
    for t in (0.0, 1e-4, 0.1, 0.37, 0.5, 0.9, 0.999):
        assert logsnr_at(CosineSchedule(), t) == pytest.approx(-2.0 * math.log(math.tan(a * t + b)), abs=1e-9)


def test_cosine_is_odd_about_the_middle() -> None:
    t = torch.linspace(0.0, 1.0, 1025, dtype=torch.float64)
    torch.testing.assert_close(CosineSchedule()(t), -CosineSchedule()(1.0 - t), rtol=1e-13, atol=1e-12)


def test_shifted_cosine() -> None:
    t = torch.linspace(0.0, 1.0, 33, dtype=torch.float64)
    assert CosineSchedule.for_size(64) == CosineSchedule()
    for size in (32, 128, 256):
        shift = 2.0 * math.log(64.0 / size)
        torch.testing.assert_close(CosineSchedule.for_size(size)(t), CosineSchedule()(t) + shift)


def test_linear_beta_is_the_integral_of_beta() -> None:
    schedule = LinearBetaSchedule()
    assert logsnr_at(LinearBetaSchedule(t_min=1e-3), 0.0) == pytest.approx(
        -math.log(math.expm1(0.1 * 1e-3 + 0.5 * 19.9 * 1e-6))
    )
    for t in (0.0, 0.01, 0.3, 1.0):
        time = 1e-5 + (1.0 - 1e-5) * t
        # β is linear, so the trapezoid is its exact integral.
        integral = time * (0.1 + 0.1 + (20.0 - 0.1) * time) / 2.0
        alpha_squared = math.exp(-integral)
        expected = math.log(alpha_squared) - math.log(-math.expm1(-integral))
        assert logsnr_at(schedule, t) == pytest.approx(expected, rel=1e-12)


def test_discrete_linear_beta_is_the_table_of_ddpm() -> None:
    schedule = DiscreteLinearBetaSchedule()
    alpha_squared = 1.0
    for i in range(1000):
        alpha_squared *= 1.0 - (1e-4 + (0.02 - 1e-4) * i / 999)
        expected = math.log(alpha_squared / (1.0 - alpha_squared))
        assert logsnr_at(schedule, (i + 1) / 1000) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_discrete_linear_beta_interpolates() -> None:
    schedule = DiscreteLinearBetaSchedule(10, 0.01, 0.3)
    for i in range(1, 10):
        middle = (logsnr_at(schedule, i / 10) + logsnr_at(schedule, (i + 1) / 10)) / 2
        assert logsnr_at(schedule, (i + 0.5) / 10) == pytest.approx(middle, rel=1e-12)
    first, second = logsnr_at(schedule, 0.1), logsnr_at(schedule, 0.2)
    assert logsnr_at(schedule, 0.0) == pytest.approx(2 * first - second, rel=1e-12)


def test_geometric_ve() -> None:
    schedule = GeometricVESchedule(0.02, 30.0)
    assert not schedule.variance_preserving
    assert all(s.variance_preserving for s in ALL if not isinstance(s, GeometricVESchedule))
    for t in (0.0, 0.25, 1.0):
        sigma = 0.02 * (30.0 / 0.02) ** t
        assert logsnr_at(schedule, t) == pytest.approx(math.log(1.0 / sigma**2), rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_registry_round_trips_through_a_config(name: str) -> None:
    schedule = SCHEDULES[name]()
    assert SCHEDULES[name](**dataclasses.asdict(schedule)) == schedule
    assert hash(schedule) == hash(SCHEDULES[name]())
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.shift = 1.0


def test_times() -> None:
    grid = times(4)
    assert grid.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert grid.dtype == torch.float64
    assert times(1).tolist() == [1.0, 0.0]
    assert times(1000)[-1] == 0.0


def test_compiles() -> None:
    t = torch.linspace(0.0, 1.0, 8)
    for schedule in ALL:
        compiled = torch.compile(schedule.__call__, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(t), schedule(t))

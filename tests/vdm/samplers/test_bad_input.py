"""Junk in every argument of every sampler: accepted, or a ValueError that names the argument."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuzzing import JUNK, assert_fails_well
from hypothesis import given, settings
from hypothesis import strategies as st

from vdm.diffusion import CosineSchedule, DiscreteLinearBetaSchedule, GeometricVESchedule, Prediction
from vdm.samplers import (
    ancestral,
    annealed_langevin,
    ddim,
    distilled,
    dpm_solver_pp,
    predictor_corrector,
)

COMMON: dict[str, Any] = {
    "denoiser": lambda z, logsnr: Prediction(0.5 * z, "v"),
    "shape": (2, 1, 2, 2, 3),
    "schedule": CosineSchedule(),
    "seeds": 0,
    "num_steps": 2,
    "times": None,
    "callback": None,
    "device": "cpu",
    "dtype": torch.float32,
    "cuda_graph": False,
}
EXPLODING: dict[str, Any] = {
    **COMMON,
    "denoiser": lambda z, logsnr: Prediction(0.5 * z, "eps", variance_preserving=False),
    "schedule": GeometricVESchedule(),
}
CASES = [
    pytest.param(ancestral, {**COMMON, "gamma": 0.5}, id="ancestral"),
    pytest.param(ddim, {**COMMON, "eta": 0.5}, id="ddim"),
    pytest.param(
        predictor_corrector,
        {**COMMON, "gamma": 0.5, "delta": 0.1, "corrector_steps": 1},
        id="predictor_corrector",
    ),
    pytest.param(dpm_solver_pp, COMMON, id="dpm_solver_pp"),
    pytest.param(distilled, COMMON, id="distilled"),
    pytest.param(
        annealed_langevin, {**EXPLODING, "eta0": 1e-5, "steps_per_level": 1}, id="annealed_langevin"
    ),
]


@pytest.mark.parametrize(("function", "arguments"), CASES)
def test_junk_in_one_argument(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    assert set(inspect.signature(function).parameters) == set(arguments)
    function(**arguments)
    by_times = {**arguments, "num_steps": None, "times": [1.0, 0.0]}
    function(**by_times)
    for name, junk in itertools.product(arguments, JUNK):
        assert_fails_well(function, {**(by_times if name == "times" else arguments), name: junk}, name)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.5, 1.5) | st.just(math.nan), max_size=4))
def test_any_times(times: list[float]) -> None:
    arguments = {**COMMON, "num_steps": None, "times": times}
    assert_fails_well(ancestral, arguments, "times")
    assert_fails_well(ddim, {**arguments, "times": torch.tensor(times)}, "times")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(), max_size=3) | st.integers())
def test_any_seeds(seeds: list[int] | int) -> None:
    assert_fails_well(ancestral, {**COMMON, "seeds": seeds}, "seeds")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 3), max_size=6))
def test_any_shape(shape: list[int]) -> None:
    batch = max([*shape[:1], 1])
    assert_fails_well(ddim, {**COMMON, "shape": shape, "seeds": list(range(batch))}, "shape")


@settings(max_examples=50, deadline=None)
@given(st.floats())
def test_any_gamma_and_eta(value: float) -> None:
    for sampler, name in ((ancestral, "gamma"), (ddim, "eta")):
        assert_fails_well(sampler, {**COMMON, name: value}, name)


@pytest.mark.parametrize(
    "returned", [None, torch.zeros(2), (1, 2), Prediction(torch.zeros(1, 1, 2, 2, 3), "x")]
)
@pytest.mark.parametrize(("sampler", "arguments"), CASES)
def test_junk_from_the_denoiser(
    sampler: Callable[..., Any], arguments: dict[str, Any], returned: object
) -> None:
    with pytest.raises(ValueError, match=rf"{sampler.__name__}: denoiser.* must .*, got "):
        sampler(**{**arguments, "denoiser": lambda z, logsnr: returned})


def never(*_: object) -> None:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("sampler", "change", "message"),
    [
        (predictor_corrector, {"gamma": 1.1}, r"gamma must be in \[0, 1\], got 1.1"),
        (predictor_corrector, {"delta": -0.1}, r"delta must be in \[0, 1\], got -0.1"),
        (predictor_corrector, {"delta": math.nan}, "delta must be a finite number, got nan"),
        (predictor_corrector, {"corrector_steps": -1}, "corrector_steps must be at least 0, got -1"),
        (annealed_langevin, {"eta0": 0.0}, r"eta0 must be in \(0, inf\), got 0"),
        (annealed_langevin, {"eta0": 6e-5}, r"eta0 must be at most σ_min²/2 = 5e-05, got 6e-05"),
        (annealed_langevin, {"steps_per_level": 0}, "steps_per_level must be at least 1, got 0"),
        (
            annealed_langevin,
            {"schedule": CosineSchedule()},
            "schedule must be variance exploding, got CosineSchedule",
        ),
    ],
)
def test_settings_out_of_range(sampler: Callable[..., Any], change: dict[str, Any], message: str) -> None:
    common = EXPLODING if sampler is annealed_langevin else COMMON
    with pytest.raises(ValueError, match=f"^{sampler.__name__}: {message}"):
        sampler(**{**common, "denoiser": never, "callback": never, **change})


def test_the_largest_eta0_is_half_the_smallest_variance() -> None:
    for sigma_min in (0.01, 0.013, 0.1):
        schedule = GeometricVESchedule(sigma_min, 50.0)
        x = annealed_langevin(**{**EXPLODING, "schedule": schedule, "eta0": 0.5 * sigma_min**2})
        assert x.isfinite().all()


@pytest.mark.parametrize(("sampler", "arguments"), CASES)
def test_steps_seeds_and_devices_are_checked_before_the_first_step(
    sampler: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    quiet = {**arguments, "denoiser": never, "callback": never}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"seeds": [1, 2, 3]}, "seeds must be one per sample, 2 of them, got"),
        ({"cuda_graph": True}, "cuda_graph must be False without a CUDA device, got True on cpu"),
    ]
    if arguments["schedule"].variance_preserving:
        table = DiscreteLinearBetaSchedule(num_timesteps=10)
        more = "num_steps must be at most the schedule's num_timesteps=10 steps, got 11"
        changes.append(({"schedule": table, "num_steps": 11}, more))
        grid = {"num_steps": None, "times": torch.linspace(1, 0, 12)}
        changes.append(({"schedule": table, **grid}, more.replace("num_steps", "times", 1)))
        sampler(**{**arguments, "schedule": table, "num_steps": 10})
    for change, message in changes:
        with pytest.raises(ValueError, match=f"^{sampler.__name__}: {message}"):
            sampler(**{**quiet, **change})

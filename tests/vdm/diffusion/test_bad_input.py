"""Junk in every argument of every public function: accepted, or a ValueError that names the argument."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from fuzzing import JUNK, assert_fails_well
from hypothesis import given, settings
from hypothesis import strategies as st

import vdm.diffusion as diffusion
from vdm.diffusion import Prediction

X = torch.randn(2, 3, 4, 5, 6)
LOGSNR = torch.tensor([-1.0, 1.0])


def case(function: Callable[..., Any], **arguments: Any) -> Any:
    return pytest.param(function, arguments, id=function.__qualname__)


PREDICTION = Prediction(X, "v", uncond=X, guidance_weight=1.0, threshold=1.0)

CASES = [
    case(diffusion.CosineSchedule, logsnr_min=-20.0, logsnr_max=20.0, shift=0.0),
    case(diffusion.CosineSchedule.for_size, size=64, logsnr_min=-20.0, logsnr_max=20.0),
    case(diffusion.LinearBetaSchedule, beta_min=0.1, beta_max=20.0, t_min=1e-5),
    case(diffusion.DiscreteLinearBetaSchedule, num_timesteps=10, beta_start=0.1, beta_end=0.2),
    case(diffusion.GeometricVESchedule, sigma_min=0.01, sigma_max=50.0),
    case(diffusion.CosineSchedule().__call__, t=LOGSNR.abs()),
    case(diffusion.times, num_steps=3),
    case(diffusion.alpha_sigma, logsnr=LOGSNR, variance_preserving=True),
    case(diffusion.diffuse, x=X, eps=X, logsnr=LOGSNR, variance_preserving=True),
    case(diffusion.q_transition, logsnr_t=LOGSNR, logsnr_s=LOGSNR + 1, variance_preserving=True),
    case(diffusion.q_posterior, z=X, x=X, logsnr_t=LOGSNR, logsnr_s=LOGSNR + 1, variance_preserving=True),
    case(diffusion.score_from_eps, eps=X, logsnr=LOGSNR, variance_preserving=True),
    case(diffusion.x_from_eps, z=X, eps=X, logsnr=LOGSNR, variance_preserving=True),
    case(diffusion.x_from_v, z=X, v=X, logsnr=LOGSNR),
    case(diffusion.eps_from_x, z=X, x=X, logsnr=LOGSNR, variance_preserving=True),
    case(diffusion.eps_from_v, z=X, v=X, logsnr=LOGSNR),
    case(diffusion.v_from_x, z=X, x=X, logsnr=LOGSNR),
    case(diffusion.v_from_eps, z=X, eps=X, logsnr=LOGSNR),
    case(diffusion.v_from_x_eps, x=X, eps=X, logsnr=LOGSNR),
    case(
        Prediction,
        value=X,
        parameterization="v",
        uncond=X,
        guidance_weight=1.0,
        threshold=1.0,
        variance_preserving=True,
    ),
    case(PREDICTION.x, z=X, logsnr=LOGSNR),
    case(PREDICTION.eps, z=X, logsnr=LOGSNR),
    case(PREDICTION.v, z=X, logsnr=LOGSNR),
    case(
        diffusion.loss_weight,
        logsnr=LOGSNR,
        weight="min_snr",
        parameterization="v",
        min_snr_gamma=5.0,
        variance_preserving=True,
    ),
    case(
        diffusion.diffusion_loss,
        model_output=X,
        x=X,
        eps=X,
        logsnr=LOGSNR,
        parameterization="v",
        weight="v",
        mask=torch.ones(2, 4),
        min_snr_gamma=5.0,
        variance_preserving=True,
    ),
    case(diffusion.stratified_times, batch_size=2, seed=0, device="cpu", dtype=torch.float32),
    case(
        diffusion.model_denoiser,
        model=lambda z, *_: z,
        parameterization="v",
        conditioning=None,
        variance_preserving=True,
    ),
    case(
        diffusion.ModelDenoiser(lambda z, *_: z, "v").__call__,
        z=X,
        logsnr=LOGSNR,
    ),
    case(diffusion.input_gradients, checkpoint=True),
    case(
        diffusion.predict,
        where="test",
        denoiser=lambda z, logsnr: Prediction(z, "eps"),
        z=X,
        logsnr=LOGSNR,
        variance_preserving=None,
    ),
]


@pytest.mark.parametrize(("function", "arguments"), CASES)
def test_junk_in_one_argument(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    def call(**changed: Any) -> None:
        result = function(**changed)
        if isinstance(result, AbstractContextManager):
            with result:
                pass

    call(**arguments)
    for name, junk in itertools.product(arguments, JUNK):
        if name != "where":
            assert_fails_well(call, {**arguments, name: junk}, name)


@pytest.mark.parametrize(("function", "arguments"), CASES)
def test_cases_cover_every_parameter(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    assert list(inspect.signature(function).parameters) == list(arguments)


def test_cases_cover_every_public_function() -> None:
    tested = {case.values[0] for case in CASES}
    names = {name for name in diffusion.__all__ if inspect.isroutine(getattr(diffusion, name))}
    assert names == {function.__name__ for function in tested if function.__name__ in names}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=4), st.sampled_from([torch.float32, torch.int64, torch.bool]))
def test_tensors_of_any_shape(shape: list[int], dtype: torch.dtype) -> None:
    tensor = torch.zeros(shape, dtype=dtype)
    assert_fails_well(diffusion.x_from_eps, {"z": X, "eps": X, "logsnr": tensor}, "logsnr")
    assert_fails_well(diffusion.alpha_sigma, {"logsnr": tensor}, "logsnr")
    assert_fails_well(diffusion.CosineSchedule(), {"t": tensor}, "t")
    loss = {"model_output": X, "x": X, "eps": X, "logsnr": LOGSNR, "parameterization": "x", "weight": "x"}
    assert_fails_well(diffusion.diffusion_loss, {**loss, "mask": tensor}, "mask")


@settings(max_examples=50, deadline=None)
@given(st.floats(), st.floats(), st.floats())
def test_schedules_of_any_numbers(first: float, second: float, t: float) -> None:
    """A schedule that is accepted gives finite λ on [0, 1]."""
    for schedule in (diffusion.CosineSchedule, diffusion.LinearBetaSchedule, diffusion.GeometricVESchedule):
        with contextlib.suppress(ValueError):
            accepted = schedule(first, second)
            assert bool(accepted(torch.linspace(0, 1, 11, dtype=torch.float64)).isfinite().all())
    assert_fails_well(diffusion.CosineSchedule(), {"t": torch.tensor(t)}, "t")


@pytest.mark.parametrize(
    ("function", "bad", "message"),
    [
        (diffusion.times, {"num_steps": 0}, "times: num_steps must be at least 1, got 0"),
        (diffusion.times, {"num_steps": 2.0}, "times: num_steps must be an integer, got 2.0"),
        (
            diffusion.CosineSchedule,
            {"logsnr_min": 20.0},
            "CosineSchedule: logsnr_min must be less than logsnr_max=20.0, got 20.0",
        ),
        (
            diffusion.CosineSchedule(),
            {"t": torch.tensor([0.0, 1.5])},
            "CosineSchedule: t must be in [0, 1], got values from 0 to 1.5",
        ),
        (
            diffusion.x_from_eps,
            {"z": X, "eps": X[:1], "logsnr": LOGSNR},
            "x_from_eps: eps must have z's shape (2, 3, 4, 5, 6), got (1, 3, 4, 5, 6)",
        ),
        (
            Prediction,
            {"value": X, "parameterization": "eps", "uncond": X},
            "Prediction: uncond and guidance_weight must be given together, got only uncond",
        ),
        (
            Prediction,
            {"value": X, "parameterization": "score"},
            "Prediction: parameterization must be one of eps, v, x, got 'score'",
        ),
        (
            diffusion.loss_weight,
            {"logsnr": LOGSNR, "weight": "snr"},
            "loss_weight: weight must be one of eps, min_snr, truncated, v, x, got 'snr'",
        ),
        (
            diffusion.stratified_times,
            {"batch_size": 0, "seed": 0},
            "stratified_times: batch_size must be at least 1, got 0",
        ),
    ],
)
def test_messages(function: Callable[..., Any], bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(**bad)

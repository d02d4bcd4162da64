"""Junk in every argument of guidance and thresholding: accepted, or a ValueError that names the argument."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuzzing import JUNK, assert_fails_well

from vdm import guidance
from vdm.diffusion import CosineSchedule, ModelDenoiser, Prediction
from vdm.guidance import (
    classifier_free_guidance,
    combine,
    downsample,
    dynamic_threshold,
    interval_guidance,
    oscillating_guidance,
    reconstruction_guidance,
    replacement,
    static_threshold,
)

X = torch.randn(2, 3, 4, 5, 6)
LOGSNR = torch.tensor([-1.0, 1.0])


class Nothing:
    """A conditioning that conditions on nothing."""

    def null(self) -> Nothing:
        return self

    @staticmethod
    def cat(first: Nothing, second: Nothing) -> Nothing:
        return first


MODEL = ModelDenoiser(lambda z, *_: 0.5 * z, "v", Nothing())
KNOWN = {"known": torch.zeros(2, 3, 4, 5, 6), "mask": torch.ones(1, 1, 4, 1, 1, dtype=torch.bool)}
CASES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (classifier_free_guidance, {"denoiser": MODEL, "weight": 1.0}),
    (combine, {"conditional": MODEL, "unconditional": MODEL, "weight": 1.0}),
    (interval_guidance, {"denoiser": MODEL, "weight": 1.0, "logsnr_min": -5.0, "logsnr_max": 5.0}),
    (
        oscillating_guidance,
        {
            "denoiser": MODEL,
            "high": 15.0,
            "low": 1.0,
            "num_high_steps": 2,
            "schedule": CosineSchedule(),
            "num_steps": 8,
            "times": None,
        },
    ),
    (replacement, {"denoiser": MODEL, **KNOWN, "seeds": 0, "variance_preserving": True}),
    (
        reconstruction_guidance,
        {
            "denoiser": MODEL,
            "weight": 1.0,
            **KNOWN,
            "low_resolution": torch.zeros(2, 3, 4, 1, 3),
            "checkpoint": False,
        },
    ),
    (static_threshold, {"denoiser": MODEL}),
    (dynamic_threshold, {"denoiser": MODEL, "p": 0.9}),
]
each_function = pytest.mark.parametrize(
    ("function", "arguments"), CASES, ids=lambda v: getattr(v, "__name__", "")
)


@each_function
def test_junk_in_one_argument(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    assert list(inspect.signature(function).parameters) == list(arguments)

    def call(**changed: Any) -> Prediction:
        return function(**changed)(X, LOGSNR)

    call(**arguments)
    for name, junk in itertools.product(arguments, JUNK):
        assert_fails_well(call, {**arguments, name: junk}, name)


@each_function
def test_junk_when_called(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    denoiser = function(**arguments)
    for name, junk in itertools.product(("z", "logsnr"), JUNK):
        assert_fails_well(denoiser, {"z": X, "logsnr": LOGSNR, name: junk}, name)


@pytest.mark.parametrize("junk", JUNK, ids=lambda v: type(v).__name__)
def test_junk_from_a_weight_function(junk: Any) -> None:
    assert_fails_well(
        classifier_free_guidance(MODEL, lambda logsnr: junk), {"z": X, "logsnr": LOGSNR}, "weight"
    )


def test_every_public_function_is_tested() -> None:
    names = {name for name in guidance.__all__ if inspect.isroutine(getattr(guidance, name))}
    assert names - {"downsample"} == {function.__name__ for function, _ in CASES}


def test_junk_in_downsample() -> None:
    arguments = {"x": X, "height": 5, "width": 3}
    downsample(**arguments)
    for name, junk in itertools.product(arguments, JUNK):
        assert_fails_well(downsample, {**arguments, name: junk}, name)

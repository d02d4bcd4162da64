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

from vdm.diffusion import CosineSchedule, Prediction
from vdm.samplers import ancestral, ddim

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
}
CASES = [
    pytest.param(ancestral, {**COMMON, "gamma": 0.5}, id="ancestral"),
    pytest.param(ddim, {**COMMON, "eta": 0.5}, id="ddim"),
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
@pytest.mark.parametrize("sampler", [ancestral, ddim])
def test_junk_from_the_denoiser(sampler: Callable[..., Any], returned: object) -> None:
    with pytest.raises(ValueError, match=rf"{sampler.__name__}: denoiser.* must .*, got "):
        sampler(**{**COMMON, "denoiser": lambda z, logsnr: returned})

"""Classifier-free guidance whose weight depends on λ: limited to an interval, or oscillating."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vdm.diffusion import CosineSchedule, Denoiser, GeometricVESchedule, Prediction, model_denoiser
from vdm.guidance import classifier_free_guidance, interval_guidance, oscillating_guidance
from vdm.samplers import SamplerStep, ancestral, ddim

SHAPE = (2, 1, 2, 2, 2)
Z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
SCHEDULE = CosineSchedule()


class Shift:
    """A conditioning whose null the network can tell."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def null(self) -> Shift:
        return Shift(torch.zeros_like(self.value))

    @staticmethod
    def cat(first: Shift, second: Shift) -> Shift:
        return Shift(torch.cat([first.value, second.value]))


class Network:
    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, z: Tensor, logsnr: Tensor, conditioning: Shift) -> Tensor:
        self.batches.append(len(z))
        return 0.5 * z + conditioning.value.reshape(-1, 1, 1, 1, 1)


def denoiser() -> Any:
    return model_denoiser(Network(), parameterization="v", conditioning=Shift(torch.tensor([1.0, -1.0])))


def weights_seen(guided: Denoiser, sampler: Any = ddim, **arguments: Any) -> list[float]:
    """The weight at each step of a sampler."""
    seen: list[float] = []

    def watch(step: SamplerStep) -> None:
        weight = step.prediction.guidance_weight
        seen.append(0.0 if weight is None else float(torch.as_tensor(weight).flatten()[0]))

    sampler(guided, SHAPE, schedule=SCHEDULE, seeds=0, callback=watch, **arguments)
    return seen


def test_oscillation() -> None:
    guided = oscillating_guidance(
        denoiser(), high=15.0, low=1.0, num_high_steps=3, schedule=SCHEDULE, num_steps=8
    )
    assert weights_seen(guided, num_steps=8) == [15, 15, 15, 1, 15, 1, 15, 1]
    grid = [1.0, 0.9, 0.3, 0.2, 0.0]
    guided = oscillating_guidance(denoiser(), high=2, low=0, num_high_steps=0, schedule=SCHEDULE, times=grid)
    assert weights_seen(guided, times=grid) == [0, 2, 0, 2]


def test_oscillation_between_the_steps_of_the_grid() -> None:
    """The nearest step decides, and rows may be at different λ."""
    guided = oscillating_guidance(
        denoiser(), high=3.0, low=1.0, num_high_steps=1, schedule=SCHEDULE, num_steps=4
    )
    levels = SCHEDULE(torch.linspace(1, 0, 5))
    for step, weight in enumerate([3.0, 1.0, 3.0, 1.0]):
        for offset in (-0.4, 0.4):
            gap = (
                levels[1] - levels[0]
                if step == 0
                else min(levels[step] - levels[step - 1], levels[step + 1] - levels[step])
            )
            rows = torch.stack([levels[step] + offset * gap, levels[0]])
            assert guided(Z, rows).guidance_weight.tolist() == [weight, 3.0]  # type: ignore[union-attr]


def test_oscillation_that_never_starts_is_a_constant_weight() -> None:
    constant = ancestral(
        classifier_free_guidance(denoiser(), 4.0), SHAPE, schedule=SCHEDULE, seeds=0, num_steps=5
    )
    guided = oscillating_guidance(
        denoiser(), high=4.0, low=1.0, num_high_steps=5, schedule=SCHEDULE, num_steps=5
    )
    assert torch.equal(ancestral(guided, SHAPE, schedule=SCHEDULE, seeds=0, num_steps=5), constant)


def test_an_interval_over_everything_is_plain_guidance() -> None:
    everything = interval_guidance(denoiser(), 4.0, logsnr_min=-30.0, logsnr_max=30.0)
    plain = classifier_free_guidance(denoiser(), 4.0)
    arguments: dict[str, Any] = {"schedule": SCHEDULE, "seeds": 0, "num_steps": 5}
    assert torch.equal(ddim(everything, SHAPE, **arguments), ddim(plain, SHAPE, **arguments))


def test_an_interval_with_nothing_in_it_is_the_conditional_prediction() -> None:
    conditional = denoiser()
    nothing = interval_guidance(conditional, 4.0, logsnr_min=25.0, logsnr_max=30.0)
    arguments: dict[str, Any] = {"schedule": SCHEDULE, "seeds": 0, "num_steps": 5}
    assert torch.equal(ddim(nothing, SHAPE, **arguments), ddim(conditional, SHAPE, **arguments))
    assert set(conditional.model.batches) == {2}, "and costs no second half"


def test_an_interval() -> None:
    conditional = denoiser()
    guided = interval_guidance(conditional, 4.0, logsnr_min=-5.0, logsnr_max=2.0)
    seen = weights_seen(guided, num_steps=10)
    levels = SCHEDULE(torch.linspace(1, 0, 11))[:10]
    inside = (levels >= -5) & (levels <= 2)
    assert 1 < int(inside.sum()) < 9
    assert seen == torch.where(inside, 4.0, 0.0).tolist()
    assert conditional.model.batches == torch.where(inside, 4, 2).tolist()


def test_rows_inside_and_outside_an_interval() -> None:
    guided = interval_guidance(denoiser(), torch.tensor([4.0, 6.0]), logsnr_min=-1.0, logsnr_max=2.0)
    for levels, weights in [((0.0, 5.0), [4.0, 0.0]), ((-1.0, 2.0), [4.0, 6.0]), ((-1.01, 1.0), [0.0, 6.0])]:
        prediction = guided(Z, torch.tensor(levels))
        assert isinstance(prediction, Prediction)
        assert prediction.guidance_weight.tolist() == weights  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"high": -1.0}, r"high must be in \[0, inf\), got -1.0"),
        ({"low": float("nan")}, "low must be a finite number, got nan"),
        ({"num_high_steps": -1}, "num_high_steps must be at least 0, got -1"),
        ({"times": [1.0, 0.0]}, "exactly one of num_steps and times must be given, got both"),
        ({"schedule": GeometricVESchedule}, "schedule must be a Schedule, got type"),
    ],
)
def test_errors_of_oscillation(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "high": 15.0,
        "low": 1.0,
        "num_high_steps": 2,
        "schedule": SCHEDULE,
        "num_steps": 4,
    }
    with pytest.raises(ValueError, match="oscillating_guidance: " + message):
        oscillating_guidance(denoiser(), **{**arguments, **changed})


def test_errors_of_an_interval() -> None:
    with pytest.raises(
        ValueError, match=r"interval_guidance: logsnr_min must be at most logsnr_max=1\.0, got 2\.0"
    ):
        interval_guidance(denoiser(), 1.0, logsnr_min=2.0, logsnr_max=1.0)
    with pytest.raises(ValueError, match="denoiser must be a ModelDenoiser, got function"):
        interval_guidance(lambda z, logsnr: Prediction(z, "x"), 1.0, logsnr_min=0.0, logsnr_max=1.0)  # type: ignore[arg-type]

"""One step by hand, DDPM's own formulas, independence of the batch, callbacks and numerical types."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vdm.diffusion import (
    CosineSchedule,
    DiscreteLinearBetaSchedule,
    GeometricVESchedule,
    Prediction,
    model_denoiser,
)
from vdm.guidance import dynamic_threshold, static_threshold
from vdm.samplers import SamplerStep, ancestral, ddim, distilled, dpm_solver_pp, predictor_corrector
from vdm_kernels import philox_normal

SHAPE = (3, 2, 4, 5, 3)
SAMPLERS: list[tuple[Callable[..., Tensor], dict[str, float]]] = [
    (ancestral, {"gamma": 0.0}),
    (ancestral, {"gamma": 0.7}),
    (ddim, {"eta": 0.0}),
    (ddim, {"eta": 1.0}),
    (predictor_corrector, {"delta": 0.1}),
    (dpm_solver_pp, {}),
    (distilled, {}),
]
each_sampler = pytest.mark.parametrize(
    ("sampler", "option"), SAMPLERS, ids=lambda v: getattr(v, "__name__", str(v))
)


def elementwise(z: Tensor, logsnr: Tensor) -> Prediction:
    """A denoiser without a reduction, so that it gives each row the same bits in any batch."""
    return Prediction(z * 0.5 + logsnr.to(z.dtype).reshape(-1, 1, 1, 1, 1) * 0.01, "v")


def second_z(sampler: Callable[..., Tensor], denoiser: Any, grid: list[float], **arguments: Any) -> Tensor:
    """z after the first of two steps."""
    seen: list[Tensor] = []
    sampler(denoiser, times=[*grid, 0.0], callback=lambda step: seen.append(step.z.clone()), **arguments)
    return seen[1]


def test_one_ancestral_step_by_hand() -> None:
    """x̂ = 0.25 everywhere; numbers written out with `math`."""
    schedule, shape, gamma = CosineSchedule(), (1, 1, 1, 2, 2), 0.3
    z_s = second_z(
        ancestral,
        lambda z, logsnr: Prediction(torch.full_like(z, 0.25), "x"),
        [0.6, 0.4],
        shape=shape,
        schedule=schedule,
        seeds=11,
        gamma=gamma,
        dtype=torch.float64,
    )
    angle = [
        math.atan(math.exp(-10.0)) + t * (math.atan(math.exp(10.0)) - math.atan(math.exp(-10.0)))
        for t in (0.6, 0.4)
    ]
    # tan(angle) = σ/α, so α = cos, σ = sin.
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((math.cos(a), math.sin(a)) for a in angle)
    ratio = (alpha_t / sigma_t) ** 2 / (alpha_s / sigma_s) ** 2
    posterior_variance, transition_variance = (1 - ratio) * sigma_s**2, (1 - ratio) * sigma_t**2
    std = math.sqrt(posterior_variance ** (1 - gamma) * transition_variance**gamma)
    z_t = philox_normal(shape, torch.tensor([11]), 0).double()
    eps = philox_normal(shape, torch.tensor([11]), 1).double()
    expected = ratio * alpha_s / alpha_t * z_t + (1 - ratio) * alpha_s * 0.25 + std * eps
    torch.testing.assert_close(z_s, expected, rtol=1e-6, atol=1e-6)


def test_one_ddim_step_by_hand() -> None:
    schedule, shape, eta = GeometricVESchedule(0.01, 50.0), (1, 1, 1, 2, 2), 0.5
    z_s = second_z(
        ddim,
        lambda z, logsnr: Prediction(torch.full_like(z, 0.25), "x", variance_preserving=False),
        [0.6, 0.4],
        shape=shape,
        schedule=schedule,
        seeds=11,
        eta=eta,
        dtype=torch.float64,
    )
    sigma_t, sigma_s = (0.01 * 5000.0**t for t in (0.6, 0.4))
    z_t = sigma_t * philox_normal(shape, torch.tensor([11]), 0).double()
    eps = philox_normal(shape, torch.tensor([11]), 1).double()
    std = eta * math.sqrt(1 - sigma_s**2 / sigma_t**2) * sigma_s
    expected = 0.25 + math.sqrt(sigma_s**2 - std**2) * (z_t - 0.25) / sigma_t + std * eps
    torch.testing.assert_close(z_s, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("i", [1, 10, 500, 999])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_is_ddpm_on_the_discrete_table(i: int, gamma: float) -> None:
    """Ho et al. 2020, eq. 11: mean (x_t - β_t / sqrt(1 - ᾱ_t) ε̂) / sqrt(α_t), variance β̃_t or β_t."""
    schedule, shape = DiscreteLinearBetaSchedule(), (2, 1, 1, 3, 3)
    betas = [1e-4 + (0.02 - 1e-4) * j / 999 for j in range(1000)]
    bar = math.prod(1 - b for b in betas[: i + 1])
    bar_before = math.prod(1 - b for b in betas[:i])
    z_s = second_z(
        ancestral,
        lambda z, logsnr: Prediction(torch.tanh(z), "eps"),
        [(i + 1) / 1000, i / 1000],
        shape=shape,
        schedule=schedule,
        seeds=[5, 6],
        gamma=gamma,
        dtype=torch.float64,
    )
    z_t, noise = (philox_normal(shape, torch.tensor([5, 6]), draw).double() for draw in (0, 1))
    mean = (z_t - betas[i] / math.sqrt(1 - bar) * torch.tanh(z_t)) / math.sqrt(1 - betas[i])
    variance = betas[i] if gamma == 1.0 else betas[i] * (1 - bar_before) / (1 - bar)
    torch.testing.assert_close(z_s, mean + math.sqrt(variance) * noise, rtol=1e-5, atol=1e-5)


@each_sampler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_sample_does_not_depend_on_its_batch(
    sampler: Callable[..., Tensor], option: dict[str, float], dtype: torch.dtype
) -> None:
    arguments = {"schedule": CosineSchedule(), "num_steps": 5, "dtype": dtype, **option}
    seeds = [4, -(2**63), 2**63 - 1]
    denoiser = static_threshold(elementwise)
    batch = sampler(denoiser, SHAPE, seeds=seeds, **arguments)
    assert batch.dtype == dtype
    assert batch.shape == SHAPE
    for row, seed in enumerate(seeds):
        alone = sampler(denoiser, (1, *SHAPE[1:]), seeds=[seed], **arguments)
        assert torch.equal(alone[0], batch[row])
    turned = sampler(denoiser, SHAPE, seeds=seeds[::-1], **arguments)
    assert torch.equal(turned.flip(0), batch)
    assert not torch.equal(batch[0], batch[1])


@each_sampler
def test_seeds_may_be_given_in_every_form(sampler: Callable[..., Tensor], option: dict[str, float]) -> None:
    arguments = {"schedule": CosineSchedule(), "num_steps": 3, **option}
    counted = sampler(elementwise, SHAPE, seeds=7, **arguments)
    assert torch.equal(counted, sampler(elementwise, SHAPE, seeds=[7, 8, 9], **arguments))
    assert torch.equal(counted, sampler(elementwise, SHAPE, seeds=range(7, 10), **arguments))
    assert torch.equal(counted, sampler(elementwise, SHAPE, seeds=torch.arange(7, 10), **arguments))
    assert torch.equal(
        counted, sampler(elementwise, SHAPE, seeds=torch.arange(7, 10, dtype=torch.int32), **arguments)
    )


@each_sampler
def test_num_steps_is_the_uniform_grid(sampler: Callable[..., Tensor], option: dict[str, float]) -> None:
    arguments = {"schedule": CosineSchedule(), "seeds": 0, **option}
    by_number = sampler(elementwise, SHAPE, num_steps=4, **arguments)
    by_list = sampler(elementwise, SHAPE, times=[1.0, 0.75, 0.5, 0.25, 0.0], **arguments)
    by_tensor = sampler(elementwise, SHAPE, times=torch.linspace(1, 0, 5), **arguments)
    assert torch.equal(by_number, by_list)
    assert torch.equal(by_number, by_tensor)


@each_sampler
def test_callback_sees_every_step(sampler: Callable[..., Tensor], option: dict[str, float]) -> None:
    steps: list[SamplerStep] = []
    schedule = CosineSchedule()
    x = sampler(elementwise, SHAPE, schedule=schedule, num_steps=4, seeds=0, callback=steps.append, **option)
    times = [1.0, 0.75, 0.5, 0.25]
    if sampler is predictor_corrector:  # a second call at each new time
        times = [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert [step.t for step in steps] == times
    assert [step.index for step in steps] == list(range(len(times)))
    assert {step.num_steps for step in steps} == {len(times)}
    for step in steps:
        assert torch.equal(step.logsnr, schedule(torch.full((3,), step.t)))
        assert step.x().shape == SHAPE
    assert torch.equal(steps[0].z, philox_normal(SHAPE, torch.arange(3), 0))
    # What lands on t = 0 is the last prediction of x itself.
    assert torch.equal(steps[-1].x(), x)


@each_sampler
def test_a_grid_that_ends_early_returns_the_noiseless_step(
    sampler: Callable[..., Tensor], option: dict[str, float]
) -> None:
    """With x̂ = 0 the mean of the step is a known multiple of z, whatever γ; all others end as DDIM at η = 0."""
    steps: list[SamplerStep] = []
    schedule = CosineSchedule()
    z = sampler(
        lambda z, logsnr: Prediction(torch.zeros_like(z), "x"),
        SHAPE,
        schedule=schedule,
        times=[1.0, 0.6, 0.3],
        seeds=0,
        callback=steps.append,
        dtype=torch.float64,
        **option,
    )
    snr_t, snr_s = (float(schedule(torch.tensor(t).double()).exp()) for t in (0.6, 0.3))
    if sampler in (ancestral, predictor_corrector):
        factor = snr_t / snr_s * math.sqrt(snr_s / (1 + snr_s)) / math.sqrt(snr_t / (1 + snr_t))
    else:
        factor = math.sqrt((1 + snr_t) / (1 + snr_s))
    torch.testing.assert_close(z, factor * steps[-1].z, rtol=1e-6, atol=1e-9)


@each_sampler
def test_thresholds_hold_in_the_result(sampler: Callable[..., Tensor], option: dict[str, float]) -> None:
    def wild(z: Tensor, logsnr: Tensor) -> Prediction:
        return Prediction(3.0 * z, "x")

    arguments = {"schedule": CosineSchedule(), "num_steps": 4, "seeds": 0, **option}
    assert sampler(wild, SHAPE, **arguments).abs().max() > 1.5
    for denoiser in (static_threshold(wild), dynamic_threshold(wild, 0.9)):
        x = sampler(denoiser, SHAPE, **arguments)
        assert x.abs().max() <= 1.0
        assert x.abs().max() > 0.9


@each_sampler
def test_records_no_gradient_and_runs_in_inference_mode(
    sampler: Callable[..., Tensor], option: dict[str, float]
) -> None:
    layer = nn.Conv3d(2, 2, 1)
    denoiser = model_denoiser(lambda z, *_: layer(z), parameterization="v")
    arguments = {"schedule": CosineSchedule(), "num_steps": 3, "seeds": 0, **option}
    x = sampler(denoiser, SHAPE, **arguments)
    assert not x.requires_grad
    with torch.inference_mode():
        assert torch.equal(sampler(denoiser, SHAPE, **arguments), x)


@each_sampler
@pytest.mark.parametrize("prediction_dtype", [torch.bfloat16, torch.float32])
def test_low_precision_follows_float64(
    sampler: Callable[..., Tensor], option: dict[str, float], prediction_dtype: torch.dtype
) -> None:
    def denoiser(z: Tensor, logsnr: Tensor) -> Prediction:
        value = elementwise(z, logsnr).value
        return Prediction(value.to(prediction_dtype) if z.dtype == torch.float32 else value, "v")

    arguments = {"schedule": CosineSchedule(), "num_steps": 6, "seeds": 0, **option}
    truth = sampler(denoiser, SHAPE, dtype=torch.float64, **arguments)
    x = sampler(denoiser, SHAPE, dtype=torch.float32, **arguments)
    tolerance = 2e-2 if prediction_dtype == torch.bfloat16 else 2e-5
    torch.testing.assert_close(x.double(), truth, rtol=tolerance, atol=tolerance)


@each_sampler
def test_a_denoiser_of_another_process_is_refused(
    sampler: Callable[..., Tensor], option: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=f"{sampler.__name__}: .*variance_preserving=False, got True"):
        sampler(elementwise, SHAPE, schedule=GeometricVESchedule(), num_steps=3, seeds=0, **option)


@each_sampler
def test_errors_come_before_the_denoiser_is_called(
    sampler: Callable[..., Tensor], option: dict[str, float]
) -> None:
    def never(z: Tensor, logsnr: Tensor) -> Prediction:
        raise AssertionError("called")

    good: dict[str, Any] = {"schedule": CosineSchedule(), "num_steps": 3, "seeds": 0, **option}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": None}, "exactly one of num_steps and times must be given, got neither"),
        ({"times": [1.0, 0.0]}, "exactly one of num_steps and times must be given, got both"),
        ({"num_steps": None, "times": [1.0, 0.5, 0.5]}, "times must be strictly decreasing"),
        ({"num_steps": None, "times": [0.0, 1.0]}, "times must be strictly decreasing"),
        ({"num_steps": None, "times": [1.0]}, "times must be at least two numbers"),
        ({"num_steps": None, "times": [1.0, math.nan]}, r"times must be in \[0, 1\]"),
        ({"num_steps": None, "times": [1.5, 0.0]}, r"times must be in \[0, 1\]"),
        ({"seeds": [1, 2]}, r"seeds must be one per sample, 3 of them, got shape \(2,\)"),
        ({"seeds": math.nan}, "seeds must be an integer"),
        ({"seeds": [1, 2, math.nan]}, "seeds must be an integer, got nan"),
        ({"seeds": torch.tensor([1.0, math.nan, 2.0])}, "seeds must be integers"),
        ({"seeds": 2**63 - 1}, "seeds must be at most"),
        ({"dtype": torch.int64}, "dtype must be"),
        ({"device": "nonsense"}, "device must be"),
        ({"schedule": lambda t: t}, "schedule must be"),
        ({"callback": 3}, "callback must be callable"),
    ]
    for name in option:
        bad += [
            ({name: -0.1}, f"{name} must be in"),
            ({name: 1.1}, f"{name} must be in"),
            ({name: math.nan}, f"{name} must be a finite number"),
        ]
    for change, message in bad:
        with pytest.raises(ValueError, match=f"{sampler.__name__}: {message}"):
            sampler(never, SHAPE, **{**good, **change})
    for shape in [(3, 2, 4, 5), (3, 2, 4, 5, 0), (3, 2, 4, 5, 1.5), "shape", 5]:
        with pytest.raises(ValueError, match=f"{sampler.__name__}: shape must be"):
            sampler(never, shape, **good)


@each_sampler
def test_a_denoiser_of_the_wrong_shape_is_refused_at_its_first_call(
    sampler: Callable[..., Tensor], option: dict[str, float]
) -> None:
    steps: list[SamplerStep] = []
    arguments = {"schedule": CosineSchedule(), "num_steps": 3, "seeds": 0, "callback": steps.append, **option}
    with pytest.raises(ValueError, match=f"{sampler.__name__}: denoiser's prediction must have z's shape"):
        sampler(lambda z, logsnr: Prediction(z[:, :1], "eps"), SHAPE, **arguments)
    with pytest.raises(ValueError, match=f"{sampler.__name__}: denoiser must return a Prediction"):
        sampler(lambda z, logsnr: z, SHAPE, **arguments)
    assert steps == []

"""Guidance and thresholding against their equations, alone and through a sampler."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vdm.diffusion import CosineSchedule, ModelDenoiser, Prediction, alpha_sigma, model_denoiser
from vdm.guidance import (
    GuidanceWeight,
    classifier_free_guidance,
    combine,
    dynamic_threshold,
    static_threshold,
)
from vdm.samplers import ancestral, ddim

SHAPE = (3, 2, 4, 5, 3)
Z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOGSNR = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)


@dataclass(frozen=True)
class Shift:
    """A conditioning: one number per row, 0 being the null."""

    shift: Tensor

    def null(self) -> Shift:
        return Shift(torch.zeros_like(self.shift))

    @staticmethod
    def cat(first: Shift, second: Shift) -> Shift:
        return Shift(torch.cat([first.shift, second.shift]))


@dataclass
class Network:
    """z / 2 + shift, counting its calls."""

    batches: list[int] = field(default_factory=list)

    def __call__(self, z: Tensor, logsnr: Tensor, conditioning: Shift) -> Tensor:
        self.batches.append(len(z))
        assert len(logsnr) == len(z) == len(conditioning.shift)
        return 0.5 * z + (
            conditioning.shift.reshape(-1, 1, 1, 1, 1) + 0.1 * logsnr.reshape(-1, 1, 1, 1, 1)
        ).to(z.dtype)


def conditional(network: Network, parameterization: str = "v") -> ModelDenoiser:
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return model_denoiser(network, parameterization=parameterization, conditioning=Shift(shift))


def written_out(w: float | Tensor) -> Tensor:
    """x̂ guided on x̂, from the two v̂."""
    alpha, sigma = (part.reshape(-1, 1, 1, 1, 1) for part in alpha_sigma(LOGSNR))
    w = torch.as_tensor(w, dtype=torch.float64).expand(3).reshape(-1, 1, 1, 1, 1)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    uncond = 0.5 * Z + 0.1 * LOGSNR.reshape(-1, 1, 1, 1, 1)
    return (1 + w) * (alpha * Z - sigma * (uncond + shift)) - w * (alpha * Z - sigma * uncond)


WEIGHTS: list[tuple[GuidanceWeight, float | Tensor]] = [
    (1.5, 1.5),
    (torch.tensor(2.0), 2.0),
    (torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 1.0, 3.0])),
    (lambda logsnr: (logsnr > 0).float() * 4.0, torch.tensor([0.0, 4.0, 4.0])),
]


@pytest.mark.parametrize(("weight", "value"), WEIGHTS, ids=["number", "scalar", "per sample", "function"])
def test_classifier_free_guidance_is_one_batch_of_2b(weight: GuidanceWeight, value: float | Tensor) -> None:
    network = Network()
    prediction = classifier_free_guidance(conditional(network), weight)(Z, LOGSNR)
    assert network.batches == [6]
    assert prediction.uncond is not None, "the combination is left to the fused step"
    torch.testing.assert_close(prediction.x(Z, LOGSNR), written_out(value))


@pytest.mark.parametrize(("weight", "value"), WEIGHTS, ids=["number", "scalar", "per sample", "function"])
def test_combine_is_the_same_with_two_denoisers(weight: GuidanceWeight, value: float | Tensor) -> None:
    first, second = Network(), Network()
    null = Shift(torch.zeros(3, dtype=torch.float64))
    unconditional = model_denoiser(second, parameterization="v", conditioning=null)
    prediction = combine(conditional(first), unconditional, weight)(Z, LOGSNR)
    assert first.batches == second.batches == [3]
    assert prediction.uncond is not None
    torch.testing.assert_close(prediction.x(Z, LOGSNR), written_out(value))


def test_no_guidance_costs_nothing() -> None:
    network = Network()
    denoiser = conditional(network)
    assert classifier_free_guidance(denoiser, 0) is denoiser
    torch.testing.assert_close(denoiser(Z, LOGSNR).x(Z, LOGSNR), written_out(0.0))
    assert network.batches == [3]


def test_conditioning_is_batched_once() -> None:
    calls = []

    class Counted(Shift):
        @staticmethod
        def cat(first: Shift, second: Shift) -> Shift:
            calls.append(1)
            return Shift.cat(first, second)

    denoiser = model_denoiser(Network(), parameterization="v", conditioning=Counted(torch.ones(3)))
    guided = classifier_free_guidance(denoiser, 1.0)
    for _ in range(3):
        guided(Z, LOGSNR)
    assert len(calls) == 1


def plain(value: Tensor, parameterization: str = "x", **arguments: object):
    return lambda z, logsnr: Prediction(value, parameterization, **arguments)


def test_combine_mixes_parameterizations_and_wrapped_denoisers() -> None:
    a, b, c = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha, sigma = (part.reshape(-1, 1, 1, 1, 1) for part in alpha_sigma(LOGSNR))
    eps = (Z - alpha * b) / sigma
    mixed = combine(plain(a), plain(eps, "eps"), 2.0)(Z, LOGSNR)
    torch.testing.assert_close(mixed.x(Z, LOGSNR), 3 * a - 2 * b)

    nested = combine(combine(plain(a), plain(b), 2.0), plain(c), 1.0)(Z, LOGSNR)
    torch.testing.assert_close(nested.x(Z, LOGSNR), 2 * (3 * a - 2 * b) - c)

    clipped = combine(static_threshold(plain(a)), plain(b), 1.0)(Z, LOGSNR)
    torch.testing.assert_close(clipped.x(Z, LOGSNR), 2 * a.clamp(-1, 1) - b)


def test_static_threshold() -> None:
    prediction = static_threshold(conditional(Network()))(Z, LOGSNR)
    torch.testing.assert_close(prediction.x(Z, LOGSNR), written_out(0.0).clamp(-1, 1))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.995, 1.0, 1])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_dynamic_threshold(p: float, scale: float) -> None:
    x = scale * Z * torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    prediction = dynamic_threshold(plain(x), p)(Z, LOGSNR)
    s = torch.quantile(x.flatten(1).abs(), float(p), dim=1).clamp(min=1.0).reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(prediction.x(Z, LOGSNR), x.clamp(-s, s) / s, rtol=1e-5, atol=1e-6)


def test_dynamic_threshold_sees_the_guided_x() -> None:
    guided = classifier_free_guidance(conditional(Network()), 3.0)
    x = written_out(3.0)
    s = torch.quantile(x.flatten(1).abs(), 0.9, dim=1).clamp(min=1.0).reshape(-1, 1, 1, 1, 1)
    assert bool((s > 1.0).any())
    prediction = dynamic_threshold(guided, 0.9)(Z, LOGSNR)
    torch.testing.assert_close(prediction.x(Z, LOGSNR), x.clamp(-s, s) / s, rtol=1e-5, atol=1e-6)


def test_dynamic_threshold_in_low_precision() -> None:
    z = Z.bfloat16()
    guided = classifier_free_guidance(conditional(Network()), 3.0)
    low = dynamic_threshold(guided, 0.9)(z, LOGSNR.float())
    high = dynamic_threshold(guided, 0.9)(z.double(), LOGSNR)
    assert isinstance(low.threshold, Tensor)
    assert isinstance(high.threshold, Tensor)
    # The network's own bfloat16 rounding (2^-9), amplified by 1 + 2w = 7.
    torch.testing.assert_close(low.threshold.double(), high.threshold.double(), rtol=7 * 2**-8, atol=0)


def test_threshold_is_a_constant_to_autograd() -> None:
    x = (3 * Z).requires_grad_()
    prediction = dynamic_threshold(plain(x), 0.9)(Z, LOGSNR)
    assert isinstance(prediction.threshold, Tensor)
    assert not prediction.threshold.requires_grad
    prediction.x(Z, LOGSNR).sum().backward()
    s = prediction.threshold.double().reshape(-1, 1, 1, 1, 1)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(x.abs() <= s, 1 / s, 0.0).detach())


@pytest.mark.parametrize("sampler", [ancestral, ddim])
def test_a_sampler_gives_the_same_for_lazy_and_materialised_predictions(sampler) -> None:
    """The fused step's guidance and thresholding are those of `Prediction.x`."""
    lazy = dynamic_threshold(classifier_free_guidance(conditional(Network()), 2.0), 0.95)

    def materialised(z: Tensor, logsnr: Tensor) -> Prediction:
        return Prediction(lazy(z, logsnr).x(z, logsnr), "x")

    for dtype, tolerance in [(torch.float64, 1e-6), (torch.float32, 2e-4)]:
        arguments = {"schedule": CosineSchedule(), "num_steps": 5, "seeds": 0, "dtype": dtype}
        x = sampler(lazy, SHAPE, **arguments)
        torch.testing.assert_close(
            x, sampler(materialised, SHAPE, **arguments), rtol=tolerance, atol=tolerance
        )


def test_guidance_pulls_a_gaussian_towards_its_class() -> None:
    """Data N(±1, 0.1²) by class, null N(0, 1.01): a guided sample is further on its class's side."""

    def optimal(mean: Tensor, variance: Tensor):
        def denoiser(z: Tensor, logsnr: Tensor) -> Prediction:
            alpha, sigma = (part.reshape(-1, 1, 1, 1, 1) for part in alpha_sigma(logsnr))
            gain = alpha * variance / (alpha**2 * variance + sigma**2)
            return Prediction(mean + gain * (z - alpha * mean), "x")

        return denoiser

    mean = torch.tensor([1.0, -1.0, 1.0]).reshape(-1, 1, 1, 1, 1)
    cond, uncond = optimal(mean, torch.tensor(0.01)), optimal(torch.tensor(0.0), torch.tensor(1.01))
    arguments = {"schedule": CosineSchedule(), "num_steps": 32, "seeds": 0}
    plain_x = ddim(cond, SHAPE, **arguments)
    guided_x = ddim(combine(cond, uncond, 1.0), SHAPE, **arguments)
    assert torch.allclose((plain_x * mean).mean((1, 2, 3, 4)), torch.ones(3), atol=0.05)
    assert bool(((guided_x * mean).mean((1, 2, 3, 4)) > (plain_x * mean).mean((1, 2, 3, 4)) + 0.01).all())


def test_errors() -> None:
    denoiser = conditional(Network())
    unconditioned = model_denoiser(Network(), parameterization="v")
    for weight in (-0.1, float("nan"), torch.tensor(-1.0), torch.tensor([1.0, float("nan")]), "big", None):
        with pytest.raises(ValueError, match="classifier_free_guidance: weight must be"):
            classifier_free_guidance(denoiser, weight)
        with pytest.raises(ValueError, match="combine: weight must be"):
            combine(denoiser, denoiser, weight)
    with pytest.raises(ValueError, match="denoiser must have a conditioning to guide by, got None"):
        classifier_free_guidance(unconditioned, 1.0)
    with pytest.raises(ValueError, match="denoiser must be a ModelDenoiser, got function"):
        classifier_free_guidance(lambda z, logsnr: Prediction(z, "x"), 1.0)
    for p in (0.0, -1.0, 1.01, float("nan"), "high", True):
        with pytest.raises(ValueError, match="dynamic_threshold: p must be"):
            dynamic_threshold(denoiser, p)
    for threshold in (static_threshold, dynamic_threshold):
        with pytest.raises(
            ValueError, match=f"{threshold.__name__}: denoiser must not be thresholded already"
        ):
            threshold(static_threshold(denoiser))(Z, LOGSNR)
    with pytest.raises(ValueError, match=r"weight must be a number or a tensor of shape \(\) or \(3,\)"):
        classifier_free_guidance(denoiser, torch.ones(2))(Z, LOGSNR)
    with pytest.raises(ValueError, match="weight must be a finite number, got None"):
        classifier_free_guidance(denoiser, lambda logsnr: None)(Z, LOGSNR)
    exploding = plain(Z, variance_preserving=False)
    with pytest.raises(ValueError, match="variance_preserving=True, got False"):
        combine(plain(Z), exploding, 1.0)(Z, LOGSNR)

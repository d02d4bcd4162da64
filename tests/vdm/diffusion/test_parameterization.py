"""Conversions between ε, x and v, and the lazy prediction against its written-out form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vdm.diffusion import (
    PARAMETERIZATIONS,
    Prediction,
    alpha_sigma,
    diffuse,
    eps_from_v,
    eps_from_x,
    v_from_eps,
    v_from_x,
    v_from_x_eps,
    x_from_eps,
    x_from_v,
)

LOGSNR = torch.linspace(-20.0, 20.0, 81, dtype=torch.float64)
AMPLIFIED_BY = {  # what a rounding error of z is multiplied with
    x_from_eps: lambda logsnr: (-logsnr / 2).exp(),
    v_from_eps: lambda logsnr: (-logsnr / 2).exp(),
    eps_from_x: lambda logsnr: (logsnr / 2).exp(),
    v_from_x: lambda logsnr: (logsnr / 2).exp(),
    x_from_v: torch.zeros_like,
    eps_from_v: torch.zeros_like,
}


def draw(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, eps, z, v) for every λ, exact in float64, then rounded."""
    x, eps = torch.randn(2, len(LOGSNR), 2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    alpha, sigma = (part.reshape(-1, 1, 1, 1, 1) for part in alpha_sigma(LOGSNR))
    z, v = alpha * x + sigma * eps, alpha * eps - sigma * x
    return x.to(dtype), eps.to(dtype), z.to(dtype), v.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("convert", AMPLIFIED_BY, ids=lambda f: f.__name__)
def test_conversion_recovers_its_target(
    convert: Callable[[Tensor, Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    x, eps, z, v = draw(dtype)
    value = {"x": x, "eps": eps, "v": v}
    target, source = convert.__name__.split("_from_")
    got = convert(z, value[source], LOGSNR.to(dtype))
    assert got.dtype == dtype
    error = (got - value[target]).abs().flatten(1).amax(1).double()
    bound = 32 * torch.finfo(dtype).eps * (1.0 + AMPLIFIED_BY[convert](LOGSNR))
    assert bool((error <= bound).all()), (error / bound).max()


def test_conversion_pairs_are_inverse() -> None:
    _, _, z, _ = draw()
    value = torch.randn_like(z)
    logsnr = LOGSNR.clamp(-8, 8)
    for there, back in [(x_from_eps, eps_from_x), (x_from_v, v_from_x), (eps_from_v, v_from_eps)]:
        torch.testing.assert_close(back(z, there(z, value, logsnr), logsnr), value, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(there(z, back(z, value, logsnr), logsnr), value, rtol=1e-10, atol=1e-10)


def test_v_is_its_definition() -> None:
    x, eps, z, v = draw()
    torch.testing.assert_close(v_from_x_eps(x, eps, LOGSNR), v)
    torch.testing.assert_close(diffuse(x, eps, LOGSNR), z)


def test_variance_exploding_conversions() -> None:
    x, eps = torch.randn(2, len(LOGSNR), 3, generator=torch.Generator().manual_seed(1)).double()
    z = x + (-LOGSNR / 2).exp()[:, None] * eps
    sigma = (-LOGSNR / 2).exp()[:, None]
    got_x = x_from_eps(z, eps, LOGSNR, variance_preserving=False)
    got_eps = eps_from_x(z, x, LOGSNR, variance_preserving=False)
    assert bool(((got_x - x).abs() <= 1e-14 * (1 + sigma)).all())
    assert bool(((got_eps - eps).abs() <= 1e-14 * (1 + 1 / sigma)).all())


def output_for(parameterization: str, x: Tensor, z: Tensor, logsnr: Tensor) -> Tensor:
    if parameterization == "x":
        return x
    return eps_from_x(z, x, logsnr) if parameterization == "eps" else v_from_x(z, x, logsnr)


@pytest.mark.parametrize("threshold", [None, 1.0, "per sample"])
@pytest.mark.parametrize("weight", [None, 0.0, 2.5, "per sample"])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_prediction_is_guidance_then_threshold(
    parameterization: str, weight: float | str | None, threshold: float | str | None
) -> None:
    """Against x̂ written out: guidance is linear, so it may be done on x̂ in every parameterization."""
    generator = torch.Generator().manual_seed(2)
    x, x_uncond, z = torch.randn(3, 5, 2, 3, 2, 2, generator=generator, dtype=torch.float64)
    logsnr = torch.tensor([-6.0, -1.0, 0.0, 1.5, 6.0], dtype=torch.float64)
    w = torch.rand(5, generator=generator).double() * 3 if weight == "per sample" else weight
    s = torch.tensor([0.5, 1.0, 1.5, 2.0, 9.0]).double() if threshold == "per sample" else threshold

    def column(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64).expand(5).reshape(5, 1, 1, 1, 1)

    expected = x if w is None else (1 + column(w)) * x - column(w) * x_uncond
    if s is not None:
        limit = column(s).clamp(min=1.0)
        expected = expected.clamp(-limit, limit) / limit
    prediction = Prediction(
        output_for(parameterization, x, z, logsnr),
        parameterization,
        uncond=None if w is None else output_for(parameterization, x_uncond, z, logsnr),
        guidance_weight=w,
        threshold=s,
    )
    alpha, sigma = (part.reshape(5, 1, 1, 1, 1) for part in alpha_sigma(logsnr))
    torch.testing.assert_close(prediction.x(z, logsnr), expected, rtol=1e-9, atol=1e-9)
    eps = (z - alpha * expected) / sigma
    torch.testing.assert_close(prediction.eps(z, logsnr), eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.v(z, logsnr), alpha * eps - sigma * expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parameterization", ["eps", "x"])
def test_prediction_of_a_variance_exploding_process(parameterization: str) -> None:
    x, z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logsnr = torch.tensor([-5.0, 0.0, 5.0], dtype=torch.float64)
    eps = eps_from_x(z, x, logsnr, variance_preserving=False)
    value = {"x": x, "eps": eps}[parameterization]
    prediction = Prediction(value, parameterization, variance_preserving=False)
    torch.testing.assert_close(prediction.x(z, logsnr), x)
    torch.testing.assert_close(prediction.eps(z, logsnr), eps)
    clipped = dataclasses.replace(prediction, threshold=1.0)
    torch.testing.assert_close(clipped.x(z, logsnr), x.clamp(-1, 1))
    with pytest.raises(ValueError, match="parameterization"):
        prediction.v(z, logsnr)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_prediction_rounds_once(parameterization: str, dtype: torch.dtype) -> None:
    """Low precision costs one rounding of the result, not one per operation."""
    generator = torch.Generator().manual_seed(4)
    value, uncond, z = torch.randn(3, 4, 3, 2, 2, 2, generator=generator).to(dtype)
    logsnr = torch.tensor([-4.0, -1.0, 1.0, 4.0])
    arguments = {"guidance_weight": 3.0, "threshold": 1.5}
    low = Prediction(value, parameterization, uncond, **arguments)
    high = Prediction(value.double(), parameterization, uncond.double(), **arguments)
    for method in ("x", "eps", "v"):
        got = getattr(low, method)(z, logsnr)
        want = getattr(high, method)(z.double(), logsnr.double())
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=1e-5)
    assert low.x(z.float(), logsnr).dtype == torch.float32


def test_prediction_is_differentiable() -> None:
    value, uncond, z = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True).unbind(0)
    logsnr = torch.tensor([-1.0, 1.0], dtype=torch.float64)

    def x_hat(z: Tensor, value: Tensor, uncond: Tensor) -> Tensor:
        return Prediction(value, "v", uncond, 1.5, 1.2).x(z, logsnr)

    inputs = [part.detach().requires_grad_() for part in (z, value, uncond)]
    assert torch.autograd.gradcheck(x_hat, inputs)

"""Loss weights against their definition on x, masks, gradients, and the law of the training times."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vdm.diffusion import (
    LOSS_WEIGHTS,
    PARAMETERIZATIONS,
    alpha_sigma,
    diffuse,
    diffusion_loss,
    loss_weight,
    stratified_times,
    v_from_x_eps,
    x_from_eps,
    x_from_v,
)

WEIGHT = {
    "eps": lambda snr: snr,
    "v": lambda snr: 1.0 + snr,
    "x": torch.ones_like,
    "truncated": lambda snr: snr.clamp(min=1.0),
    "min_snr": lambda snr: snr.clamp(max=5.0),
}


def data(logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, eps, z, an arbitrary network output) in float64."""
    generator = torch.Generator().manual_seed(0)
    x, eps, output = torch.randn(3, len(logsnr), 2, 3, 2, 4, generator=generator, dtype=torch.float64)
    return x, eps, diffuse(x, eps, logsnr), output


def x_from(parameterization: str, z: Tensor, output: Tensor, logsnr: Tensor) -> Tensor:
    if parameterization == "x":
        return output
    return (x_from_eps if parameterization == "eps" else x_from_v)(z, output, logsnr)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_loss_is_the_weighted_error_of_x(weight: str, parameterization: str) -> None:
    logsnr = torch.linspace(-15.0, 15.0, 31, dtype=torch.float64)
    x, eps, z, output = data(logsnr)
    error = (x_from(parameterization, z, output, logsnr) - x).square().flatten(1).mean(1)
    expected = WEIGHT[weight](logsnr.exp()) * error
    loss = diffusion_loss(output, x, eps, logsnr, parameterization=parameterization, weight=weight)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_weight_on_x_is_its_definition(weight: str) -> None:
    logsnr = torch.linspace(-20.0, 20.0, 81, dtype=torch.float64)
    torch.testing.assert_close(loss_weight(logsnr, weight), WEIGHT[weight](logsnr.exp()), rtol=1e-13, atol=0)


def test_min_snr_gamma() -> None:
    logsnr = torch.tensor([-3.0, 0.0, 4.0], dtype=torch.float64)
    expected = logsnr.exp().clamp(max=2.0)
    torch.testing.assert_close(loss_weight(logsnr, "min_snr", min_snr_gamma=2.0), expected)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_own_weight_is_exactly_one(parameterization: str) -> None:
    """An ε network under the eps weight, a v network under the v weight: the plain squared error."""
    logsnr = torch.tensor([-1000.0, -90.0, -20.0, -1e-4, 0.0, 3.0, 20.0, 90.0, 1000.0])
    ones = loss_weight(logsnr, parameterization, parameterization=parameterization)
    assert torch.equal(ones, torch.ones_like(logsnr))


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_float32_agrees_with_float64(weight: str, parameterization: str) -> None:
    logsnr = torch.linspace(-20.0, 20.0, 81)
    single = loss_weight(logsnr, weight, parameterization=parameterization)
    double = loss_weight(logsnr.double(), weight, parameterization=parameterization)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)
    assert bool(single.isfinite().all())


@pytest.mark.parametrize("weight", ["truncated", "min_snr"])
def test_bounded_weights_stay_bounded_far_outside(weight: str) -> None:
    """The v-space factor of the truncated and the min-SNR weight is at most max(1, γ) for every λ."""
    logsnr = torch.linspace(-500.0, 500.0, 101)
    factor = loss_weight(logsnr, weight, parameterization="v")
    assert bool((factor <= 5.0).all())
    assert bool(factor.isfinite().all())


def test_variance_exploding_loss() -> None:
    logsnr = torch.linspace(-8.0, 8.0, 9, dtype=torch.float64)
    x, eps, _, output = data(logsnr)
    z = diffuse(x, eps, logsnr, variance_preserving=False)
    error = (x_from_eps(z, output, logsnr, variance_preserving=False) - x).square().flatten(1).mean(1)
    loss = diffusion_loss(
        output, x, eps, logsnr, parameterization="eps", weight="truncated", variance_preserving=False
    )
    torch.testing.assert_close(loss, logsnr.exp().clamp(min=1.0) * error, rtol=1e-8, atol=0)


def test_perfect_prediction_has_no_loss() -> None:
    logsnr = torch.linspace(-20.0, 20.0, 11)
    x, eps, _, _ = (part.float() for part in data(logsnr.double()))
    for parameterization, target in {"x": x, "eps": eps, "v": v_from_x_eps(x, eps, logsnr)}.items():
        loss = diffusion_loss(target, x, eps, logsnr, parameterization=parameterization, weight="eps")
        assert torch.equal(loss, torch.zeros_like(loss))


@pytest.mark.parametrize("kind", ["frames", "channel", "full", "float"])
def test_mask_averages_what_counts(kind: str) -> None:
    logsnr = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    x, eps, _, output = data(logsnr)
    generator = torch.Generator().manual_seed(5)
    shape = {"frames": (3, 3), "channel": (3, 1, 3, 2, 4), "full": x.shape, "float": (3, 1, 3, 1, 1)}[kind]
    mask = torch.rand(shape, generator=generator) < 0.5
    mask.view(3, -1)[:, 0] = True
    given = mask.double() if kind == "float" else mask
    loss = diffusion_loss(output, x, eps, logsnr, parameterization="v", weight="truncated", mask=given)
    full = (mask[:, None, :, None, None] if kind == "frames" else mask).expand_as(x)
    factor = loss_weight(logsnr, "truncated", parameterization="v")
    for row in range(3):
        target = v_from_x_eps(x, eps, logsnr)[row]
        error = (output[row] - target)[full[row]].square().mean()
        torch.testing.assert_close(loss[row], factor[row] * error)


def test_masked_elements_may_be_anything() -> None:
    logsnr = torch.zeros(2)
    x, eps, _, output = (part.float() for part in data(logsnr.double()))
    mask = torch.tensor([[True, False, True], [False, False, False]])
    x[:, :, 1] = math.nan
    output = output.requires_grad_()
    loss = diffusion_loss(output, x, eps, logsnr, parameterization="x", weight="x", mask=mask)
    assert bool(loss.isfinite().all())
    assert loss[1] == 0.0
    loss.sum().backward()
    assert output.grad is not None
    assert bool(output.grad.isfinite().all())
    assert bool((output.grad[:, :, 1] == 0).all())
    assert bool((output.grad[0, :, 0] != 0).all())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_gradient(parameterization: str, masked: bool) -> None:
    logsnr = torch.tensor([-2.0, 3.0], dtype=torch.float64)
    x, eps, _, output = data(logsnr)
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.bool) if masked else None

    def loss(output: Tensor) -> Tensor:
        return diffusion_loss(
            output,
            x,
            eps,
            logsnr,
            parameterization=parameterization,
            weight="truncated",
            mask=mask,
        )

    assert torch.autograd.gradcheck(loss, output.requires_grad_())


def test_low_precision_output_gives_a_float32_loss() -> None:
    logsnr = torch.linspace(-5.0, 5.0, 4)
    x, eps, _, output = (part.float() for part in data(logsnr.double()))
    low = diffusion_loss(output.bfloat16(), x, eps, logsnr, parameterization="v", weight="v")
    assert low.dtype == torch.float32
    want = diffusion_loss(output.bfloat16().float(), x, eps, logsnr, parameterization="v", weight="v")
    torch.testing.assert_close(low, want)


def test_times_are_one_per_stratum() -> None:
    for seed in range(50):
        t = stratified_times(7, seed, dtype=torch.float64).sort().values
        assert torch.equal((t * 7).floor(), torch.arange(7, dtype=torch.float64))
        torch.testing.assert_close(t.diff(), torch.full((6,), 1 / 7, dtype=torch.float64))


def test_times_are_uniform_and_of_low_variance() -> None:
    """Every row is uniform on [0, 1); a batch's mean of f varies by (f(1) - f(0))² / 12B², not var(f) / B."""
    t = torch.stack([stratified_times(8, seed, dtype=torch.float64) for seed in range(2000)])
    quantiles = t.sort(0).values
    uniform = (torch.arange(2000, dtype=torch.float64)[:, None] + 0.5) / 2000
    assert (quantiles - uniform).abs().max() < 1.95 / math.sqrt(2000)  # Kolmogorov-Smirnov, p = 0.001
    assert t.square().mean(1).var().item() == pytest.approx(1 / (12 * 64), rel=0.1)
    assert t.square().mean().item() == pytest.approx(1 / 3, abs=4 * math.sqrt(1 / (12 * 64) / 2000))


def test_times_repeat_with_the_seed() -> None:
    assert torch.equal(stratified_times(5, 3), stratified_times(5, 3))
    assert not torch.equal(stratified_times(5, 3), stratified_times(5, 4))
    generator = torch.Generator().manual_seed(3)
    first, second = stratified_times(5, generator), stratified_times(5, generator)
    assert torch.equal(first, stratified_times(5, 3))
    assert not torch.equal(first, second)
    assert first.dtype == torch.float32
    assert bool(((first >= 0) & (first <= 1)).all())


def test_alpha_sigma_of_the_v_factor() -> None:
    """||x̂ - x||² = σ² ||v̂ - v||²: the v factor of the x weight is σ²."""
    logsnr = torch.linspace(-20.0, 20.0, 41, dtype=torch.float64)
    torch.testing.assert_close(
        loss_weight(logsnr, "x", parameterization="v"), alpha_sigma(logsnr)[1] ** 2, rtol=1e-13, atol=0
    )

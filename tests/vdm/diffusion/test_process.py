"""Moments of the process against Gaussian algebra that uses none of the formulas under test."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from vdm.diffusion import alpha_sigma, diffuse, q_posterior, q_transition, score_from_eps

LOGSNR = torch.linspace(-20.0, 20.0, 41, dtype=torch.float64)
PAIRS = torch.tensor([(s, t) for s, t in itertools.product(LOGSNR.tolist(), repeat=2) if t < s]).double()


@pytest.mark.parametrize("variance_preserving", [True, False])
def test_alpha_sigma_identities(variance_preserving: bool) -> None:
    alpha, sigma = alpha_sigma(LOGSNR, variance_preserving=variance_preserving)
    torch.testing.assert_close(2.0 * (alpha / sigma).log(), LOGSNR, rtol=1e-13, atol=1e-13)
    invariant = alpha**2 + sigma**2 if variance_preserving else alpha
    torch.testing.assert_close(invariant, torch.ones_like(LOGSNR), rtol=1e-15, atol=0)


@pytest.mark.parametrize("variance_preserving", [True, False])
def test_alpha_sigma_float32_and_half(variance_preserving: bool) -> None:
    exact = alpha_sigma(LOGSNR, variance_preserving=variance_preserving)
    for dtype in (torch.float32, torch.bfloat16):
        logsnr = LOGSNR.to(dtype)
        got = alpha_sigma(logsnr, variance_preserving=variance_preserving)
        want = alpha_sigma(logsnr.double(), variance_preserving=variance_preserving)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == torch.float32
            torch.testing.assert_close(g.double(), w, rtol=1e-6, atol=0)
    assert all(part.dtype == torch.float64 for part in exact)


def moments(logsnr: Tensor, variance_preserving: bool) -> tuple[Tensor, Tensor]:
    """(α, σ²) straight from the definition λ = log α²/σ²."""
    snr = logsnr.exp()
    if variance_preserving:
        return (snr / (1 + snr)).sqrt(), 1 / (1 + snr)
    return torch.ones_like(snr), 1 / snr


@pytest.mark.parametrize("variance_preserving", [True, False])
def test_transition_composes_to_the_marginal(variance_preserving: bool) -> None:
    logsnr_s, logsnr_t = PAIRS.unbind(1)
    ratio, variance = q_transition(logsnr_t, logsnr_s, variance_preserving=variance_preserving)
    alpha_s, var_s = moments(logsnr_s, variance_preserving)
    alpha_t, var_t = moments(logsnr_t, variance_preserving)
    torch.testing.assert_close(ratio * alpha_s, alpha_t, rtol=1e-12, atol=0)
    torch.testing.assert_close(ratio**2 * var_s + variance, var_t, rtol=1e-12, atol=0)
    assert bool((variance > 0).all())


@pytest.mark.parametrize("variance_preserving", [True, False])
def test_posterior_is_bayes_rule(variance_preserving: bool) -> None:
    """Multiply the Gaussians q(z_s | x) and q(z_t | z_s): precisions add, means weigh by precision."""
    logsnr_s, logsnr_t = PAIRS.unbind(1)
    generator = torch.Generator().manual_seed(0)
    z, x = torch.randn(2, len(PAIRS), 3, generator=generator, dtype=torch.float64)
    alpha_s, var_s = (m[:, None] for m in moments(logsnr_s, variance_preserving))
    alpha_t, var_t = (m[:, None] for m in moments(logsnr_t, variance_preserving))
    ratio = alpha_t / alpha_s
    var_ts = var_t - ratio**2 * var_s
    precision = 1 / var_s + ratio**2 / var_ts
    mean = (alpha_s * x / var_s + ratio * z / var_ts) / precision

    got_mean, got_variance = q_posterior(z, x, logsnr_t, logsnr_s, variance_preserving=variance_preserving)
    torch.testing.assert_close(got_variance[:, None], 1 / precision, rtol=1e-8, atol=0)
    torch.testing.assert_close(got_mean, mean, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("gap", [1e-3, 0.1, 5.0])
def test_posterior_in_float32(gap: float) -> None:
    logsnr_t = torch.linspace(-20.0, 20.0 - gap, 64)
    logsnr_s = logsnr_t + gap
    z, x = torch.randn(2, 64, 5, generator=torch.Generator().manual_seed(1))
    mean, variance = q_posterior(z, x, logsnr_t, logsnr_s)
    want = q_posterior(z.double(), x.double(), logsnr_t.double(), logsnr_s.double())
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean.double(), want[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance.double(), want[1], rtol=1e-5, atol=0)


def test_diffuse_has_the_marginal_s_mean_and_scale() -> None:
    x, eps = torch.randn(2, 41, 2, 3, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for variance_preserving in (True, False):
        alpha, variance = (m.reshape(-1, 1, 1, 1, 1) for m in moments(LOGSNR, variance_preserving))
        z = diffuse(x, eps, LOGSNR, variance_preserving=variance_preserving)
        torch.testing.assert_close(z, alpha * x + variance.sqrt() * eps)
    half = diffuse(x.bfloat16(), eps.bfloat16(), LOGSNR.float())
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("variance_preserving", [True, False])
def test_score_is_the_gradient_of_the_log_density(variance_preserving: bool) -> None:
    x, eps = torch.randn(2, 41, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z = diffuse(x, eps, LOGSNR, variance_preserving=variance_preserving).requires_grad_()
    alpha, variance = (m[:, None] for m in moments(LOGSNR, variance_preserving))
    log_density = (-((z - alpha * x) ** 2) / (2 * variance)).sum()
    (gradient,) = torch.autograd.grad(log_density, z)
    score = score_from_eps(eps, LOGSNR, variance_preserving=variance_preserving)
    # z - αx cancels where α/σ is large.
    bound = 1e-14 * (LOGSNR / 2).exp()[:, None] / variance.sqrt() + 1e-12
    assert bool(((score - gradient).abs() <= bound * 10).all())

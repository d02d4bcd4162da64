"""The affine form shared by the elementwise step ops: per-sample coefficients in float64.

Every step is `z_s = a z + b x_hat + c noise` with `x_hat = clip(p z + r prediction)`; the coefficients are
functions of the log-SNR alone. See Ho et al. 2022 (Video Diffusion Models), eqs. 1-4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PARAMETERIZATIONS = ("eps", "x", "v")


def log_alpha_sigma(logsnr: Tensor, variance_preserving: bool) -> tuple[Tensor, Tensor]:
    """log alpha and log sigma of shape (B,), float64.

    Variance preserving: alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr). Variance exploding: alpha = 1,
    sigma^2 = exp(-logsnr).
    """
    logsnr = logsnr.double()
    if variance_preserving:
        return 0.5 * F.logsigmoid(logsnr), 0.5 * F.logsigmoid(-logsnr)
    return torch.zeros_like(logsnr), -0.5 * logsnr


def prediction_coefficients(
    logsnr: Tensor, parameterization: str, variance_preserving: bool
) -> tuple[Tensor, Tensor]:
    """(p, r) of `x_hat = p z + r prediction`.

    eps: x = (z - sigma eps) / alpha. x: x. v = alpha eps - sigma x, so that x = (alpha z - sigma v) /
        (alpha^2 + sigma^2), where the denominator is 1 for a variance-preserving process.
    """
    log_alpha, log_sigma = log_alpha_sigma(logsnr, variance_preserving)
    if parameterization == "eps":
        return torch.exp(-log_alpha), -torch.exp(log_sigma - log_alpha)
    if parameterization == "x":
        return torch.zeros_like(log_alpha), torch.ones_like(log_alpha)
    alpha, sigma = torch.exp(log_alpha), torch.exp(log_sigma)
    norm = alpha * alpha + sigma * sigma
    return alpha / norm, -sigma / norm


def ancestral_coefficients(
    logsnr_t: Tensor, logsnr_s: Tensor, gamma: float, variance_preserving: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, c) of the ancestral sampler.

    a = e^{lt-ls} alpha_s / alpha_t, b = (1 - e^{lt-ls}) alpha_s,
    c = exp(0.5 (log(1 - e^{lt-ls}) + (1 - gamma) log sigma_s^2 + gamma log sigma_t^2)).
    """
    log_alpha_t, log_sigma_t = log_alpha_sigma(logsnr_t, variance_preserving)
    log_alpha_s, log_sigma_s = log_alpha_sigma(logsnr_s, variance_preserving)
    difference = logsnr_t.double() - logsnr_s.double()
    gain = -torch.expm1(difference)
    a = torch.exp(difference + log_alpha_s - log_alpha_t)
    b = gain * torch.exp(log_alpha_s)
    c = torch.exp(0.5 * torch.log(gain) + (1.0 - gamma) * log_sigma_s + gamma * log_sigma_t)
    return a, b, c


def ddim_coefficients(
    logsnr_t: Tensor, logsnr_s: Tensor, eta: float, variance_preserving: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, c) of DDIM (Song et al. 2020, eq. 12), with eps_hat = (z - alpha_t x_hat) / sigma_t.

    sigma_eta = eta sqrt(1 - e^{lt-ls}) sigma_s; a = sqrt(sigma_s^2 - sigma_eta^2) / sigma_t,
    b = alpha_s - alpha_t a, c = sigma_eta.
    """
    log_alpha_t, log_sigma_t = log_alpha_sigma(logsnr_t, variance_preserving)
    log_alpha_s, log_sigma_s = log_alpha_sigma(logsnr_s, variance_preserving)
    gain = -torch.expm1(logsnr_t.double() - logsnr_s.double())
    a = torch.exp(log_sigma_s - log_sigma_t) * torch.sqrt(1.0 - eta * eta * gain)
    b = torch.exp(log_alpha_s) - torch.exp(log_alpha_t) * a
    c = eta * torch.sqrt(gain) * torch.exp(log_sigma_s)
    return a, b, c


def langevin_coefficients(
    logsnr: Tensor, delta: float, variance_preserving: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, c) of a Langevin step at one log-SNR, where sigma eps_hat = z - alpha x_hat.

    a = 1 - delta / 2, b = (delta / 2) alpha, c = sqrt(delta) sigma.
    """
    log_alpha, log_sigma = log_alpha_sigma(logsnr, variance_preserving)
    a = torch.full_like(log_alpha, 1.0 - 0.5 * delta)
    return a, 0.5 * delta * torch.exp(log_alpha), math.sqrt(delta) * torch.exp(log_sigma)

"""The diffusion process: marginals, transitions and posteriors as functions of λ = logsnr.

    q(z_t | x) = N(α_t x, σ_t² I),   λ_t = log(α_t² / σ_t²)

Variance preserving: α² = sigmoid(λ), σ² = sigmoid(-λ). Variance exploding: α = 1, σ² = e^{-λ}.
1 - e^{λ_t - λ_s} is always -expm1(λ_t - λ_s), which keeps every moment accurate in float32 for λ in
[-20, 20].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm.diffusion.checks import check_batched, check_bool, check_floating, check_like, check_logsnr


def alpha_sigma(logsnr: Tensor, *, variance_preserving: bool = True) -> tuple[Tensor, Tensor]:
    """The signal and noise scales of λ.

        variance preserving:  α = sqrt(sigmoid(λ)),  σ = sqrt(sigmoid(-λ))        (α² + σ² = 1)
        variance exploding:   α = 1,                 σ = e^{-λ/2}

    Args:
        logsnr: λ, any shape, floating point.
        variance_preserving: which of the two processes.

    Returns:
        (α, σ), each the shape of λ, in λ's dtype but at least float32.

    Raises:
        ValueError: logsnr is not a floating-point tensor.
    """
    check_floating("alpha_sigma", "logsnr", logsnr)
    check_bool("alpha_sigma", "variance_preserving", variance_preserving)
    logsnr = logsnr.to(torch.promote_types(logsnr.dtype, torch.float32))
    if variance_preserving:
        return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
    return torch.ones_like(logsnr), torch.exp(-0.5 * logsnr)


def diffuse(x: Tensor, eps: Tensor, logsnr: Tensor, *, variance_preserving: bool = True) -> Tensor:
    """A sample of q(z_t | x) from given noise: z = α x + σ ε.

    Args:
        x: clean data (B, ...).
        eps: standard normal noise, x's shape.
        logsnr: λ_t, (B,).
        variance_preserving: which process.

    Returns:
        z, x's shape and dtype; computed in at least float32.

    Raises:
        ValueError: shapes, devices or dtypes do not fit.
    """
    check_batched("diffuse", "x", x)
    check_like("diffuse", "eps", eps, "x", x)
    check_logsnr("diffuse", "logsnr", logsnr, "x", x)
    alpha, sigma = broadcast_alpha_sigma(logsnr, x, variance_preserving=variance_preserving)
    return (alpha * x + sigma * eps).to(x.dtype)


def q_transition(
    logsnr_t: Tensor, logsnr_s: Tensor, *, variance_preserving: bool = True
) -> tuple[Tensor, Tensor]:
    """The forward transition from s to t > s.

        q(z_t | z_s) = N((α_t / α_s) z_s, σ_{t|s}² I),   σ_{t|s}² = (1 - e^{λ_t - λ_s}) σ_t²

    Ho et al. 2022 (arXiv 2204.03458), section 2.

    Args:
        logsnr_t: λ_t, any shape.
        logsnr_s: λ_s >= λ_t, the same shape.
        variance_preserving: which process.

    Returns:
        (α_t / α_s, σ_{t|s}²), each the shape of λ.

    Raises:
        ValueError: the two are not floating-point tensors of one shape.
    """
    check_floating("q_transition", "logsnr_t", logsnr_t)
    check_like("q_transition", "logsnr_s", logsnr_s, "logsnr_t", logsnr_t)
    check_bool("q_transition", "variance_preserving", variance_preserving)
    dtype = torch.promote_types(torch.promote_types(logsnr_t.dtype, logsnr_s.dtype), torch.float32)
    return _transition(logsnr_t.to(dtype), logsnr_s.to(dtype), variance_preserving)


def q_posterior(
    z: Tensor, x: Tensor, logsnr_t: Tensor, logsnr_s: Tensor, *, variance_preserving: bool = True
) -> tuple[Tensor, Tensor]:
    """The posterior of z_s given z_t and x, s < t.

        q(z_s | z_t, x) = N(μ̃, σ̃² I)
        μ̃  = e^{λ_t - λ_s} (α_s / α_t) z_t + (1 - e^{λ_t - λ_s}) α_s x
        σ̃² = (1 - e^{λ_t - λ_s}) σ_s²

    Ho et al. 2022 (arXiv 2204.03458), eq. 3.

    Args:
        z: z_t (B, ...).
        x: clean data, z's shape.
        logsnr_t: λ_t, (B,).
        logsnr_s: λ_s >= λ_t, (B,).
        variance_preserving: which process.

    Returns:
        (μ̃ in z's shape and dtype, σ̃² of shape (B,), at least float32).

    Raises:
        ValueError: shapes, devices or dtypes do not fit.
    """
    check_batched("q_posterior", "z", z)
    check_like("q_posterior", "x", x, "z", z)
    check_logsnr("q_posterior", "logsnr_t", logsnr_t, "z", z)
    check_logsnr("q_posterior", "logsnr_s", logsnr_s, "z", z)
    check_bool("q_posterior", "variance_preserving", variance_preserving)
    dtype = compute_dtype(z)
    wide = torch.promote_types(torch.promote_types(logsnr_t.dtype, logsnr_s.dtype), dtype)
    logsnr_t, logsnr_s = logsnr_t.to(wide), logsnr_s.to(wide)
    alpha_ratio, _ = _transition(logsnr_t, logsnr_s, variance_preserving)
    alpha_s, sigma_s = alpha_sigma(logsnr_s, variance_preserving=variance_preserving)
    gain = -torch.expm1(logsnr_t - logsnr_s)
    from_z = per_sample(torch.exp(logsnr_t - logsnr_s) / alpha_ratio, z).to(dtype)
    from_x = per_sample(gain * alpha_s, z).to(dtype)
    return (from_z * z + from_x * x).to(z.dtype), gain * sigma_s**2


def score_from_eps(eps: Tensor, logsnr: Tensor, *, variance_preserving: bool = True) -> Tensor:
    """The score of q(z_t) that a noise prediction stands for: ∇ log q(z_t) = -ε / σ_t.

    Args:
        eps: (B, ...).
        logsnr: λ_t, (B,).
        variance_preserving: which process.

    Returns:
        The score, eps' shape and dtype.

    Raises:
        ValueError: shapes, devices or dtypes do not fit.
    """
    check_batched("score_from_eps", "eps", eps)
    check_logsnr("score_from_eps", "logsnr", logsnr, "eps", eps)
    _, sigma = broadcast_alpha_sigma(logsnr, eps, variance_preserving=variance_preserving)
    return (-eps / sigma).to(eps.dtype)


def compute_dtype(value: Tensor) -> torch.dtype:
    """The dtype arithmetic on `value` is done in: float64 for float64, else float32."""
    return torch.promote_types(value.dtype, torch.float32)


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """A view of `value`, () or (B,), that broadcasts against the (B, ...) tensor `like`."""
    return value.reshape(-1, *([1] * (like.ndim - 1)))


def broadcast_alpha_sigma(
    logsnr: Tensor, like: Tensor, *, variance_preserving: bool
) -> tuple[Tensor, Tensor]:
    """(α, σ) of the (B,) tensor `logsnr`, shaped to broadcast against `like`, in its `compute_dtype`."""
    dtype = compute_dtype(like)
    wide = logsnr.to(torch.promote_types(logsnr.dtype, dtype))
    alpha, sigma = alpha_sigma(wide, variance_preserving=variance_preserving)
    return per_sample(alpha, like).to(dtype), per_sample(sigma, like).to(dtype)


def _transition(logsnr_t: Tensor, logsnr_s: Tensor, variance_preserving: bool) -> tuple[Tensor, Tensor]:
    """(α_t / α_s, σ_{t|s}²); the ratio from log α, so that it is accurate where both are small."""
    sigma_t = alpha_sigma(logsnr_t, variance_preserving=variance_preserving)[1]
    variance = -torch.expm1(logsnr_t - logsnr_s) * sigma_t**2
    if not variance_preserving:
        return torch.ones_like(logsnr_t), variance
    return torch.exp(0.5 * (F.logsigmoid(logsnr_t) - F.logsigmoid(logsnr_s))), variance

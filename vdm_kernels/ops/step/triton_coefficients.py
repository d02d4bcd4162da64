"""Per-sample coefficients of the step kernels, from logsnr in float32 inside the kernel.

Every step is z_s = a z + b clip(x̂) + c noise with x̂ = p z + r prediction (the process: Ho et al. 2022, section 2).
Ratios such as alpha_s / alpha_t are roots of (1 + e^-λt) / (1 + e^-λs), and differences such as 1 - e^(λt-λs) are
expm1, so that each coefficient is right to a few ulp for λ in [-80, 80]. The exponential is written out because
Triton's is approximate: ex2.approx of a rounded x log2(e) loses |x| ulp.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vdm_kernels.ops.step.triton_noise import log_f32

_LOG2E = tl.constexpr(1.4426950408889634)
# ln 2 in two parts: the first has few enough bits that n * _LN2_HIGH is exact for every exponent n.
_LN2_HIGH = tl.constexpr(0.693145751953125)
_LN2_LOW = tl.constexpr(1.4286068203094172e-06)


@triton.jit
def exp_parts(x):
    """(2^n, q) with e^x = 2^n (1 + q) and |q| < 0.42, so that expm1 x = 2^n q + (2^n - 1); x is clamped to ±87."""
    x = tl.where(x > 87.0, 87.0, tl.where(x < -87.0, -87.0, x))  # unlike minimum, keeps NaN
    n = tl.floor(x * _LOG2E + 0.5)
    f = (x - n * _LN2_HIGH) - n * _LN2_LOW
    q = 1.0 / 5040.0 * f + 1.0 / 720.0
    q = q * f + 1.0 / 120.0
    q = q * f + 1.0 / 24.0
    q = q * f + 1.0 / 6.0
    q = q * f + 0.5
    scale = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return scale, q * (f * f) + f


@triton.jit
def exp_f32(x):
    """e^x to 1 to 2 ulp, x clamped to ±87."""
    scale, q = exp_parts(x)
    return scale * q + scale


@triton.jit
def expm1_f32(x):
    """e^x - 1 to a few ulp also next to x = 0."""
    scale, q = exp_parts(x)
    return scale * q + (scale - 1.0)


@triton.jit
def alpha_squared(logsnr, VARIANCE_PRESERVING: tl.constexpr):
    """alpha^2: sigmoid(λ), or 1 for a variance-exploding process."""
    if VARIANCE_PRESERVING:
        return 1.0 / (1.0 + exp_f32(-logsnr))
    else:
        return 1.0 + 0.0 * logsnr


@triton.jit
def sigma_squared(logsnr, VARIANCE_PRESERVING: tl.constexpr):
    """sigma^2: sigmoid(-λ), or e^-λ for a variance-exploding process."""
    if VARIANCE_PRESERVING:
        return 1.0 / (1.0 + exp_f32(logsnr))
    else:
        return exp_f32(-logsnr)


@triton.jit
def prediction_coefficients(logsnr, PARAMETERIZATION: tl.constexpr, VARIANCE_PRESERVING: tl.constexpr):
    """(p, r) of x̂ = p z + r prediction: eps (1, -sigma) / alpha, x (0, 1), v (alpha, -sigma) / (alpha^2 + sigma^2)."""
    if PARAMETERIZATION == "eps":
        if VARIANCE_PRESERVING:
            p = tl.sqrt_rn(1.0 + exp_f32(-logsnr))
        else:
            p = 1.0 + 0.0 * logsnr
        return p, -exp_f32(-0.5 * logsnr)
    elif PARAMETERIZATION == "x":
        return 0.0 * logsnr, 1.0 + 0.0 * logsnr
    else:
        tl.static_assert(PARAMETERIZATION == "v", "parameterization must be eps, x or v")
        alpha2 = alpha_squared(logsnr, VARIANCE_PRESERVING)
        sigma2 = sigma_squared(logsnr, VARIANCE_PRESERVING)
        total = alpha2 + sigma2
        if VARIANCE_PRESERVING:
            total = 1.0
        return tl.sqrt_rn(alpha2) / total, -tl.sqrt_rn(sigma2) / total


@triton.jit
def step_coefficients(logsnr_t, logsnr_s, strength, RULE: tl.constexpr, VARIANCE_PRESERVING: tl.constexpr):
    """(a, b, c) of z_s = a z + b x̂ + c noise; `strength` is gamma of the ancestral rule, eta of DDIM,
    delta of Langevin.

    With d = λt - λs and E = 1 - e^d:
        ancestral: a = e^d alpha_s/alpha_t,  b = E alpha_s,  c = sqrt(E) sigma_s (sigma_t/sigma_s)^gamma
        ddim: a = m sigma_s/sigma_t,  c = eta sqrt(E) sigma_s,  m^2 = 1 - eta^2 E = (1 - eta) (1 + eta) + eta^2 e^d,
              b = alpha_s - alpha_t a = alpha_s (1 - sqrt(k)) = alpha_s E (1 + eta^2 e^d) / (1 + sqrt(k)),  k = e^d m^2
        langevin (λs = λt): a = 1 - delta/2,  b = (delta/2) alpha_s,  c = sqrt(delta) sigma_s
    """
    d = logsnr_t - logsnr_s
    decay = exp_f32(d)
    change = -expm1_f32(d)
    alpha2_s = alpha_squared(logsnr_s, VARIANCE_PRESERVING)
    sigma2_s = sigma_squared(logsnr_s, VARIANCE_PRESERVING)
    if VARIANCE_PRESERVING:
        sigma2_ratio = (1.0 + exp_f32(logsnr_t)) / (1.0 + exp_f32(logsnr_s))  # sigma_s^2 / sigma_t^2
        alpha2_ratio = (1.0 + exp_f32(-logsnr_t)) / (1.0 + exp_f32(-logsnr_s))  # alpha_s^2 / alpha_t^2
    else:
        sigma2_ratio = decay
        alpha2_ratio = 1.0 + 0.0 * d
    if RULE == "ancestral":
        a = decay * tl.sqrt_rn(alpha2_ratio)
        b = change * tl.sqrt_rn(alpha2_s)
        c = tl.sqrt_rn(change * sigma2_s) * exp_f32(-0.5 * strength * log_f32(sigma2_ratio))
    elif RULE == "langevin":
        a = 1.0 - 0.5 * strength + 0.0 * d
        b = 0.5 * strength * tl.sqrt_rn(alpha2_s)
        c = tl.sqrt_rn(strength * sigma2_s)
    else:
        tl.static_assert(RULE == "ddim", "the rule must be ancestral, ddim or langevin")
        eta2 = strength * strength
        m2 = (1.0 - strength) * (1.0 + strength) + eta2 * decay
        a = tl.sqrt_rn(m2 * sigma2_ratio)
        b = tl.sqrt_rn(alpha2_s) * change * (1.0 + eta2 * decay) / (1.0 + tl.sqrt_rn(decay * m2))
        c = strength * tl.sqrt_rn(change * sigma2_s)
    return a, b, c

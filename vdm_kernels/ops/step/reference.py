"""What the references of the sampler steps share: x_hat, the affine step, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.ops.philox_normal.reference import philox_normal
from vdm_kernels.ops.step.coefficients import prediction_coefficients


def compute_dtype(z: Tensor) -> torch.dtype:
    """float64 for float64 input, else float32."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def per_sample(coefficient: Tensor, z: Tensor) -> Tensor:
    """A per-sample coefficient (B,) as (B, 1, 1, ...), in z's compute dtype."""
    return coefficient.to(compute_dtype(z)).view(-1, *[1] * (z.dim() - 1))


def unclipped_x(
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    guidance_weight: Tensor | None,
    parameterization: str,
    variance_preserving: bool,
) -> Tensor:
    """x_hat = p z + r prediction, where guidance first makes prediction <- (1 + w) prediction - w uncond."""
    dtype = compute_dtype(z)
    p, r = prediction_coefficients(logsnr_t, parameterization, variance_preserving)
    prediction = prediction.to(dtype)
    if uncond is not None and guidance_weight is not None:
        w = per_sample(guidance_weight, z)
        prediction = (1.0 + w) * prediction - w * uncond.to(dtype)
    return per_sample(p, z) * z.to(dtype) + per_sample(r, z) * prediction


def affine_step(
    z: Tensor,
    x_hat: Tensor,
    threshold: Tensor | None,
    coefficients: tuple[Tensor, Tensor, Tensor],
    seed: Tensor,
    draw: Tensor,
    add_noise: bool,
) -> Tensor:
    """z_s = a z + b clip(x_hat, -s', s') / s' + c noise, with s' = max(threshold, 1), in z's dtype."""
    a, b, c = (per_sample(coefficient, z) for coefficient in coefficients)
    if threshold is not None:
        limit = per_sample(threshold, z).clamp(min=1.0)
        x_hat = torch.clamp(x_hat, -limit, limit) / limit
    z_s = a * z.to(x_hat.dtype) + b * x_hat
    if add_noise:
        z_s = z_s + c * philox_normal(z.shape, seed, draw, torch.float32)
    return z_s.to(z.dtype)


def affine_step_bwd(
    dout: Tensor,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    parameterization: str,
    variance_preserving: bool,
    coefficients: tuple[Tensor, Tensor, Tensor],
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (z, prediction, uncond): dx = b / s' [|x_hat| <= s'] dout, dz = a dout + p dx,
    dprediction = (1 + w) r dx, duncond = -w r dx."""
    dtype = compute_dtype(z)
    dout = dout.to(dtype)
    a, b, _ = (per_sample(coefficient, z) for coefficient in coefficients)
    p, r = prediction_coefficients(logsnr_t, parameterization, variance_preserving)
    dx = b * dout
    if threshold is not None:
        x_hat = unclipped_x(
            z, prediction, uncond, logsnr_t, guidance_weight, parameterization, variance_preserving
        )
        limit = per_sample(threshold, z).clamp(min=1.0)
        dx = torch.where(x_hat.abs() <= limit, dx / limit, 0.0)
    guided = uncond is not None and guidance_weight is not None
    dz, dprediction, duncond = z.new_empty(0), prediction.new_empty(0), prediction.new_empty(0)
    if needs[0]:
        dz = (a * dout + per_sample(p, z) * dx).to(z.dtype)
    dx = per_sample(r, z) * dx
    if guided:
        assert guidance_weight is not None
        w = per_sample(guidance_weight, z)
        if needs[2]:
            duncond = (-w * dx).to(prediction.dtype)
        dx = (1.0 + w) * dx
    if needs[1]:
        dprediction = dx.to(prediction.dtype)
    return [dz, dprediction, duncond]

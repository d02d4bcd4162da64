"""Plain PyTorch definition of `ddim_step` and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vdm_kernels.ops.step.coefficients import ddim_coefficients
from vdm_kernels.ops.step.reference import affine_step, affine_step_bwd, unclipped_x


def ddim_step(
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    eta: float,
    variance_preserving: bool,
) -> Tensor:
    """See `vdm_kernels.ddim_step`; guidance_weight and threshold are (B,) float32 tensors."""
    x_hat = unclipped_x(
        z, prediction, uncond, logsnr_t, guidance_weight, parameterization, variance_preserving
    )
    coefficients = ddim_coefficients(logsnr_t, logsnr_s, eta, variance_preserving)
    return affine_step(z, x_hat, threshold, coefficients, seed, draw, eta > 0.0)


def ddim_step_bwd(
    dout: Tensor,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    eta: float,
    variance_preserving: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (z, prediction, uncond); empty where `needs` is False."""
    coefficients = ddim_coefficients(logsnr_t, logsnr_s, eta, variance_preserving)
    return affine_step_bwd(
        dout,
        z,
        prediction,
        uncond,
        logsnr_t,
        guidance_weight,
        threshold,
        parameterization,
        variance_preserving,
        coefficients,
        needs,
    )

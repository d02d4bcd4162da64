"""Plain PyTorch definition of `langevin_step` and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vdm_kernels.ops.step.coefficients import langevin_coefficients
from vdm_kernels.ops.step.reference import affine_step, affine_step_bwd, unclipped_x


def langevin_step(
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    delta: float,
    variance_preserving: bool,
) -> Tensor:
    """See `vdm_kernels.langevin_step`; guidance_weight and threshold are (B,) float32 tensors."""
    x_hat = unclipped_x(z, prediction, uncond, logsnr, guidance_weight, parameterization, variance_preserving)
    coefficients = langevin_coefficients(logsnr, delta, variance_preserving)
    return affine_step(z, x_hat, threshold, coefficients, seed, draw, delta > 0.0)


def langevin_step_bwd(
    dout: Tensor,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    delta: float,
    variance_preserving: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (z, prediction, uncond); empty where `needs` is False."""
    coefficients = langevin_coefficients(logsnr, delta, variance_preserving)
    return affine_step_bwd(
        dout,
        z,
        prediction,
        uncond,
        logsnr,
        guidance_weight,
        threshold,
        parameterization,
        variance_preserving,
        coefficients,
        needs,
    )

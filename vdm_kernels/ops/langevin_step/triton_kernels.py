"""`langevin_step` on Triton: the shared step kernels with the Langevin rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vdm_kernels.ops.step.triton_block import unsupported_dtype
from vdm_kernels.ops.step.triton_step import triton_step, triton_step_bwd


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
    """See `vdm_kernels.langevin_step`; tensors are contiguous, guidance_weight and threshold (B,) float32."""
    return triton_step(
        "langevin",
        z,
        prediction,
        uncond,
        logsnr,
        logsnr,
        guidance_weight,
        threshold,
        seed,
        draw,
        parameterization,
        delta,
        delta > 0.0,
        variance_preserving,
    )


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
    return triton_step_bwd(
        "langevin",
        dout,
        z,
        prediction,
        uncond,
        logsnr,
        logsnr,
        guidance_weight,
        threshold,
        parameterization,
        delta,
        variance_preserving,
        needs,
    )


def supports_langevin_step(z: Tensor, prediction: Tensor, *args: Any) -> str | None:
    """None, or why this call cannot run."""
    return unsupported_dtype(z, prediction)


def supports_langevin_step_bwd(dout: Tensor, z: Tensor, prediction: Tensor, *args: Any) -> str | None:
    """None, or why this call cannot run."""
    return unsupported_dtype(dout, z, prediction)

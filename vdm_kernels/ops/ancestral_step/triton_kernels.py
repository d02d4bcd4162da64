"""`ancestral_step` on Triton: the shared step kernels with the ancestral rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vdm_kernels.ops.step.triton_block import unsupported_dtype
from vdm_kernels.ops.step.triton_step import triton_step, triton_step_bwd


def ancestral_step(
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
    gamma: float,
    add_noise: bool,
    variance_preserving: bool,
) -> Tensor:
    """See `vdm_kernels.ancestral_step`; tensors are contiguous, guidance_weight and threshold (B,) float32."""
    return triton_step(
        "ancestral",
        z,
        prediction,
        uncond,
        logsnr_t,
        logsnr_s,
        guidance_weight,
        threshold,
        seed,
        draw,
        parameterization,
        gamma,
        add_noise,
        variance_preserving,
    )


def ancestral_step_bwd(
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
    gamma: float,
    add_noise: bool,
    variance_preserving: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (z, prediction, uncond); empty where `needs` is False. The noise has none, nor does gamma matter."""
    return triton_step_bwd(
        "ancestral",
        dout,
        z,
        prediction,
        uncond,
        logsnr_t,
        logsnr_s,
        guidance_weight,
        threshold,
        parameterization,
        gamma,
        variance_preserving,
        needs,
    )


def supports_ancestral_step(z: Tensor, prediction: Tensor, *args: Any) -> str | None:
    """None, or why this call cannot run."""
    return unsupported_dtype(z, prediction)


def supports_ancestral_step_bwd(dout: Tensor, z: Tensor, prediction: Tensor, *args: Any) -> str | None:
    """None, or why this call cannot run."""
    return unsupported_dtype(dout, z, prediction)

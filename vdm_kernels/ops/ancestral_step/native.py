"""`ancestral_step` in C++ and CUDA C++, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vdm_kernels.native import unsupported
from vdm_kernels.ops.step.native import native_step, native_step_bwd


def supports_ancestral_step(z: Tensor, prediction: Tensor, *rest: object) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported(z.device, z.dtype, prediction.dtype)


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
    """See `vdm_kernels.ancestral_step`; tensors are contiguous."""
    return native_step(
        "ancestral_step",
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


def supports_ancestral_step_bwd(dout: Tensor, z: Tensor, prediction: Tensor, *rest: object) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported(z.device, z.dtype, prediction.dtype)


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
) -> list[Tensor | None]:
    """Gradients of (z, prediction, uncond); None where `needs` is False."""
    return native_step_bwd(
        "ancestral_step_bwd",
        dout,
        z,
        prediction,
        uncond,
        logsnr_t,
        logsnr_s,
        guidance_weight,
        threshold,
        parameterization,
        needs,
        variance_preserving,
    )

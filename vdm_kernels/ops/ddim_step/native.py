"""`ddim_step` in C++ and CUDA C++, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vdm_kernels.native import unsupported
from vdm_kernels.ops.step.native import native_step, native_step_bwd


def supports_ddim_step(z: Tensor, prediction: Tensor, *rest: object) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported(z.device, z.dtype, prediction.dtype)


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
    """See `vdm_kernels.ddim_step`; tensors are contiguous."""
    return native_step(
        "ddim_step",
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
        eta,
        variance_preserving,
    )


def supports_ddim_step_bwd(dout: Tensor, z: Tensor, prediction: Tensor, *rest: object) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported(z.device, z.dtype, prediction.dtype)


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
) -> list[Tensor | None]:
    """Gradients of (z, prediction, uncond); None where `needs` is False."""
    return native_step_bwd(
        "ddim_step_bwd",
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
        eta,
        variance_preserving,
    )

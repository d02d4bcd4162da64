"""What the sampler steps share in calling the extension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, PARAMETERIZATION_CODES, launch, pointer


def native_step(
    op: str,
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
    *settings: float | bool,
) -> Tensor:
    """z_s of the step `op`; `settings` are what is its own, in the launcher's order."""
    out = torch.empty_like(z)
    if z.numel():
        batch = z.shape[0]
        launch(
            op,
            z.device,
            z.data_ptr(),
            prediction.data_ptr(),
            pointer(uncond),
            out.data_ptr(),
            DTYPE_CODES[z.dtype],
            DTYPE_CODES[prediction.dtype],
            batch,
            z.numel() // batch,
            logsnr_t.data_ptr(),
            logsnr_s.data_ptr(),
            pointer(guidance_weight),
            pointer(threshold),
            seed.data_ptr(),
            draw.data_ptr(),
            PARAMETERIZATION_CODES[parameterization],
            *settings,
        )
    return out


def native_step_bwd(
    op: str,
    dout: Tensor,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    parameterization: str,
    needs: Sequence[bool],
    *settings: float | bool,
) -> list[Tensor | None]:
    """Gradients of (z, prediction, uncond) of the step `op`; None where `needs` is False."""
    inputs = (z, prediction, uncond)
    gradients = [
        torch.empty_like(value) if need and value is not None else None for value, need in zip(inputs, needs)
    ]
    if z.numel() and any(gradient is not None for gradient in gradients):
        batch = z.shape[0]
        launch(
            op,
            z.device,
            dout.data_ptr(),
            *(pointer(value) for value in inputs),
            *(pointer(gradient) for gradient in gradients),
            DTYPE_CODES[z.dtype],
            DTYPE_CODES[prediction.dtype],
            batch,
            z.numel() // batch,
            logsnr_t.data_ptr(),
            logsnr_s.data_ptr(),
            pointer(guidance_weight),
            pointer(threshold),
            PARAMETERIZATION_CODES[parameterization],
            *settings,
        )
    return gradients

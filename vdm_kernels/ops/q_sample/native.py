"""`q_sample` in C++ and CUDA C++."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, unsupported


def supports_q_sample(
    x: Tensor, logsnr: Tensor, seed: Tensor, draw: Tensor, variance_preserving: bool
) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported(x.device, x.dtype)


def q_sample(
    x: Tensor, logsnr: Tensor, seed: Tensor, draw: Tensor, variance_preserving: bool
) -> tuple[Tensor, Tensor]:
    """See `vdm_kernels.q_sample`; x is contiguous, `draw` an int64 tensor of one element."""
    z, eps = torch.empty_like(x), torch.empty_like(x)
    if x.numel():
        batch = x.shape[0]
        launch(
            "q_sample",
            x.device,
            x.data_ptr(),
            z.data_ptr(),
            eps.data_ptr(),
            DTYPE_CODES[x.dtype],
            batch,
            x.numel() // batch,
            logsnr.data_ptr(),
            seed.data_ptr(),
            draw.data_ptr(),
            variance_preserving,
        )
    return z, eps

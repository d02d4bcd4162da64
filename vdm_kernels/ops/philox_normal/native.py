"""`philox_normal` in C++ and CUDA C++."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, unsupported


def supports_philox_normal(
    shape: Sequence[int], seed: Tensor, draw: Tensor, dtype: torch.dtype
) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported(seed.device, dtype)


def philox_normal(shape: Sequence[int], seed: Tensor, draw: Tensor, dtype: torch.dtype) -> Tensor:
    """See `vdm_kernels.philox_normal`; `draw` is an int64 tensor of one element."""
    out = torch.empty(shape, dtype=dtype, device=seed.device)
    if out.numel():
        batch = shape[0]
        launch(
            "philox_normal",
            seed.device,
            out.data_ptr(),
            DTYPE_CODES[dtype],
            batch,
            out.numel() // batch,
            seed.data_ptr(),
            draw.data_ptr(),
        )
    return out

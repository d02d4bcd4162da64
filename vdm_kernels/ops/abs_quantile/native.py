"""`abs_quantile` in C++ and CUDA C++."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, C, launch, unsupported


def supports_abs_quantile(x: Tensor, q: float) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported(x.device, x.dtype)


def abs_quantile(x: Tensor, q: float) -> Tensor:
    """See `vdm_kernels.abs_quantile`; x is contiguous."""
    batch = x.shape[0]
    out = x.new_empty(batch, dtype=torch.float32)
    if batch:
        arguments = (x.data_ptr(), out.data_ptr(), DTYPE_CODES[x.dtype], batch, x.numel() // batch, q)
        if x.is_cuda:
            assert C is not None
            size = C.abs_quantile_cuda_workspace_bytes(batch)
            workspace = x.new_empty(size, dtype=torch.uint8)
            launch("abs_quantile", x.device, *arguments, workspace.data_ptr(), size)
        else:
            launch("abs_quantile", x.device, *arguments)
    return out

"""`channel_statistics` in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, unsupported


def supports_channel_statistics(x: Tensor) -> str | None:
    """None, or why the extension cannot run this call."""
    if x.is_cuda:
        return "the native kernel of channel_statistics runs on the CPU"
    return unsupported(x.device, x.dtype)


def channel_statistics(x: Tensor) -> Tensor:
    """See `vdm_kernels.channel_statistics`; x is channels-last."""
    batch, channels, frames, height, width = x.shape
    statistics = x.new_empty((batch, frames, channels, 2), dtype=torch.float64)
    sizes = (batch * frames, height * width, channels)
    launch("channel_statistics", x.device, x.data_ptr(), statistics.data_ptr(), DTYPE_CODES[x.dtype], *sizes)
    return statistics

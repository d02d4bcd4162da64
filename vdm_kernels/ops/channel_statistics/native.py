"""`channel_statistics` in C++ and CUDA C++."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, launch_in_workspace, unsupported


def supports_channel_statistics(x: Tensor) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported(x.device, x.dtype)


def channel_statistics(x: Tensor) -> Tensor:
    """See `vdm_kernels.channel_statistics`; x is channels-last."""
    batch, channels, frames, height, width = x.shape
    statistics = torch.empty((batch, frames, channels, 2), dtype=torch.float64, device=x.device)
    sizes = (batch * frames, height * width, channels)
    arguments = (x.data_ptr(), statistics.data_ptr(), DTYPE_CODES[x.dtype], *sizes)
    if x.is_cuda:
        launch_in_workspace("channel_statistics", x.device, *arguments)
    else:
        launch("channel_statistics", x.device, *arguments)
    return statistics


def joint_statistics(x: Tensor, x2: Tensor | None) -> Tensor:
    """The channel statistics of the concatenation of x and x2."""
    if x2 is None:
        return channel_statistics(x)
    return torch.cat([channel_statistics(x), channel_statistics(x2)], dim=2)

"""Plain PyTorch definition of `channel_statistics`."""

from __future__ import annotations

import torch
from torch import Tensor


def channel_statistics(x: Tensor) -> Tensor:
    """See `vdm_kernels.channel_statistics`."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    # (B, F, P, C): a view of channels-last memory.
    pixels = x.to(dtype).permute(0, 2, 3, 4, 1).flatten(2, 3)
    mean = pixels.mean(2, keepdim=True)
    # The mean of what the rounded mean leaves corrects it: it can be off by many units where mean >> std.
    rest = pixels - mean
    correction = rest.mean(2, keepdim=True)
    variance = (rest - correction).square().mean(2)
    return torch.stack([(mean.double() + correction).squeeze(2), variance.double()], dim=-1)

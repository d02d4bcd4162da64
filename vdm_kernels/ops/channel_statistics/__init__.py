"""`channel_statistics`: what every GroupNorm of a video can be made from."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op
from vdm_kernels.ops.channel_statistics import reference


def _fake(x: Tensor) -> Tensor:
    batch, channels, frames = x.shape[:3]
    return x.new_empty((batch, frames, channels, 2), dtype=torch.float64)


CHANNEL_STATISTICS = Op(reference.channel_statistics, fake=_fake, package=__name__)


def reads_statistics(x: Tensor) -> bool:
    """Whether norms of a video like `x` read given statistics: kernels do, the reference makes its own.

    Without a reader they are not worth computing.
    """
    return CHANNEL_STATISTICS.select((x,)) != "reference"


def channel_statistics(x: Tensor) -> Tensor:
    """Mean and variance of every frame and channel over its pixels.

        mean = sum_p x_p / P;  variance = sum_p (x_p - mean)^2 / P,  P = H W

    The statistics of a GroupNorm group are those of its channels pooled (Chan et al. 1983, Algorithms for computing
    the sample variance), whatever the number of groups, over one frame or all, and across a concatenation of
    channels. So they are computed once, by the op that makes a video or by this one, and handed to every
    norm that reads it. Differences from a mean are summed in float32 (float64 for a float64 x), and the statistics are
    float64, so that they are accurate also for mean >> std: a mean of 1000 is rounded by 3e-5 in float32.

    Args:
        x: (B, C, F, H, W), channels-last in memory (`torch.channels_last_3d`); another layout is converted.

    Returns:
        (B, F, C, 2) float64: mean, biased variance. A constant: the ops that take it differentiate through the
        norm.

    Raises:
        ValueError: x has the wrong type, shape or dtype.
    """
    checks.floating("channel_statistics", "x", x, 5, "(B, C, F, H, W)")
    x = x.detach().contiguous(memory_format=torch.channels_last_3d)
    statistics: Tensor = CHANNEL_STATISTICS(x)
    return statistics

"""The arguments of a modulated GroupNorm, which two ops take."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.ops.channel_statistics import channel_statistics


def norm_arguments(
    op: str,
    x: Tensor,
    channels: int,
    prefix: str,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> tuple[Tensor | None, Tensor | None]:
    """Raises ValueError for a wrong argument; `prefix` is that of the names of weight and bias.

    Returns:
        scale and shift, contiguous.
    """
    checks.divides(op, "num_groups", num_groups, "C", channels)
    checks.one_of(op, "norm_scope", norm_scope, ("frame", "video"))
    checks.non_negative(op, "eps", eps)
    for name, value in ((f"{prefix}weight", weight), (f"{prefix}bias", bias)):
        checks.shape(op, name, value, (channels,), "(C,)")
        checks.device(op, name, value, x.device)
    return _modulation(op, "scale", scale, x, channels), _modulation(op, "shift", shift, x, channels)


def statistics_argument(op: str, statistics: Tensor | None, x: Tensor, channels: int) -> Tensor | None:
    """The channel statistics of `x`, or of it and a second input; ValueError where they cannot be."""
    if statistics is None:
        return None
    shape = (x.shape[0], x.shape[2], channels, 2)
    checks.shape(op, "statistics", statistics, shape, "(B, F, C, 2)")
    checks.device(op, "statistics", statistics, x.device)
    checks.dtype(op, "statistics", statistics, torch.float64)
    return (statistics.detach() if statistics.requires_grad else statistics).contiguous()


def joint_statistics(x: Tensor, x2: Tensor | None = None) -> Tensor:
    """The channel statistics of `x`, or of its concatenation with `x2`."""
    if x2 is None:
        return channel_statistics(x)
    return torch.cat([channel_statistics(x), channel_statistics(x2)], dim=2)


def _modulation(op: str, name: str, value: Tensor | None, x: Tensor, channels: int) -> Tensor | None:
    if value is None:
        return None
    checks.is_tensor(op, name, value)
    batch, frames = x.shape[0], x.shape[2]
    if value.shape != (batch, channels) and value.shape != (batch, frames, channels):
        raise ValueError(
            f"{op}: {name} must be (B, C) = {(batch, channels)} or (B, F, C) = {(batch, frames, channels)}, "
            f"got {tuple(value.shape)}"
        )
    checks.device(op, name, value, x.device)
    return value.contiguous()

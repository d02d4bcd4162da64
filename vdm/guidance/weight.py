"""What every kind of guidance takes as its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from vdm.diffusion.checks import check_number, check_per_sample, check_readable

GuidanceWeight: TypeAlias = float | Tensor | Callable[[Tensor], Tensor]
"""w >= 0: a number, a tensor () or (B,), or a function of logsnr (B,) that gives such a tensor."""


def check_weight(where: str, weight: object) -> None:
    """Require a `GuidanceWeight`; what a function gives is checked when it is called."""
    if isinstance(weight, Tensor):
        if not weight.is_floating_point() or weight.ndim > 1:
            raise ValueError(
                f"{where}: weight must be a floating-point tensor () or (B,),"
                f" got {weight.dtype} of shape {tuple(weight.shape)}"
            )
        check_readable(where, "weight", weight)
        if not bool(((weight >= 0) & weight.isfinite()).all()):
            raise ValueError(f"{where}: weight must be finite and at least 0, got {weight.tolist()}")
    elif not callable(weight):
        check_number(where, "weight", weight, minimum=0.0)


def is_zero(weight: GuidanceWeight) -> bool:
    """Whether the weight is the number 0, which needs no guidance at all."""
    return not isinstance(weight, Tensor) and not callable(weight) and weight == 0.0


def weight_at(where: str, weight: GuidanceWeight, logsnr: Tensor) -> float | Tensor:
    """w at λ: a number, or a float32 tensor () or (B,) without a gradient."""
    value = weight(logsnr) if callable(weight) and not isinstance(weight, Tensor) else weight
    check_per_sample(where, "weight", value, logsnr, minimum=0.0)
    return value.detach().float() if isinstance(value, Tensor) else float(value)

"""Argument checks of the diffusion code: each raises ValueError worded `where: what is needed, got what`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection

import torch
from torch import Tensor


def check_choice(where: str, name: str, value: object, choices: Collection[str]) -> None:
    """Require `value` to be one of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{where}: {name} must be one of {', '.join(sorted(choices))}, got {value!r}")


def check_number(
    where: str,
    name: str,
    value: object,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    exclusive_minimum: bool = False,
) -> None:
    """Require `value` to be a finite real number in [minimum, maximum] (or (minimum, maximum])."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise ValueError(f"{where}: {name} must be a finite number, got {value!r}")
    number = float(value)
    if (number <= minimum if exclusive_minimum else number < minimum) or number > maximum:
        interval = f"{'(' if exclusive_minimum or minimum == -math.inf else '['}{minimum:g}, {maximum:g}"
        raise ValueError(
            f"{where}: {name} must be in {interval}{')' if maximum == math.inf else ']'}, got {value!r}"
        )


def check_integer(
    where: str, name: str, value: object, *, minimum: int | None = None, maximum: int | None = None
) -> None:
    """Require `value` to be an integer (not a bool) in [minimum, maximum]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{where}: {name} must be an integer, got {value!r}")
    number = int(value)
    if minimum is not None and number < minimum:
        raise ValueError(f"{where}: {name} must be at least {minimum}, got {value}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{where}: {name} must be at most {maximum}, got {value}")


def check_bool(where: str, name: str, value: object) -> None:
    """Require `value` to be a Python bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {name} must be True or False, got {value!r}")


def check_callable(where: str, name: str, value: object) -> None:
    """Require `value` to be callable."""
    if not callable(value):
        raise ValueError(f"{where}: {name} must be callable, got {type(value).__name__}")


def check_floating(where: str, name: str, value: object) -> None:
    """Require `value` to be a floating-point tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{where}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"{where}: {name} must have a floating-point dtype, got {value.dtype}")


def check_readable(where: str, name: str, value: Tensor) -> None:
    """Require `value` to have data (a meta tensor has none)."""
    if value.is_meta:
        raise ValueError(f"{where}: {name} must be a tensor with data, got one on the meta device")


def check_batched(where: str, name: str, value: object) -> None:
    """Require `value` to be a floating-point tensor with a batch axis, (B, ...)."""
    check_floating(where, name, value)
    assert isinstance(value, Tensor)
    if value.ndim < 1:
        raise ValueError(f"{where}: {name} must have a batch axis (B, ...), got a 0-dimensional tensor")


def check_like(where: str, name: str, value: object, other_name: str, other: Tensor) -> None:
    """Require `value` to be a floating-point tensor with the shape and device of `other`."""
    check_floating(where, name, value)
    assert isinstance(value, Tensor)
    if value.shape != other.shape:
        raise ValueError(
            f"{where}: {name} must have {other_name}'s shape {tuple(other.shape)}, got {tuple(value.shape)}"
        )
    if value.device != other.device:
        raise ValueError(
            f"{where}: {name} must be on {other_name}'s device {other.device}, got {value.device}"
        )


def check_logsnr(where: str, name: str, value: object, like_name: str, like: Tensor) -> None:
    """Require `value` to be a floating-point (B,) tensor on the device of the (B, ...) tensor `like`."""
    check_floating(where, name, value)
    assert isinstance(value, Tensor)
    if tuple(value.shape) != (like.shape[0],):
        raise ValueError(
            f"{where}: {name} must have shape ({like.shape[0]},), one per row of {like_name},"
            f" got {tuple(value.shape)}"
        )
    if value.device != like.device:
        raise ValueError(f"{where}: {name} must be on {like_name}'s device {like.device}, got {value.device}")


def check_per_sample(
    where: str, name: str, value: object, like: Tensor, *, minimum: float = -math.inf
) -> None:
    """Require a finite number, or a floating-point tensor () or (B,) on the device of the (B, ...) `like`."""
    if not isinstance(value, Tensor):
        check_number(where, name, value, minimum=minimum)
        return
    check_floating(where, name, value)
    if tuple(value.shape) not in ((), (like.shape[0],)):
        raise ValueError(
            f"{where}: {name} must be a number or a tensor of shape () or ({like.shape[0]},),"
            f" got {tuple(value.shape)}"
        )
    if value.device != like.device:
        raise ValueError(f"{where}: {name} must be on device {like.device}, got {value.device}")


def check_unit_interval(where: str, name: str, value: Tensor) -> None:
    """Require every element of `value` to be in [0, 1]; read only on the CPU, where it costs no transfer."""
    if value.device.type != "cpu" or torch.compiler.is_compiling() or value.numel() == 0:
        return
    low, high = (float(bound) for bound in torch.aminmax(value.detach()))
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"{where}: {name} must be in [0, 1], got values from {low:g} to {high:g}")


def checked_device(where: str, device: torch.device | str | None) -> torch.device | None:
    """`device` as a torch.device that this machine has, None for None."""
    if device is None:
        return None
    if not isinstance(device, (torch.device, str)):
        raise ValueError(f"{where}: device must be a torch.device or its name, got {type(device).__name__}")
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(
            f"{where}: device must be a torch device of this machine, got {device!r}: {reason}"
        ) from error


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the largest float
        return False

"""Checks of users' arguments, in one wording: `op: what is needed, got what`.

They run before any work, on every call, so that they are plain comparisons that cost well under a
microsecond, never read a tensor's values (which would wait for a GPU), and can be traced by
torch.compile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def is_tensor(op: str, name: str, value: object) -> None:
    """Raises ValueError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{op}: {name} must be a Tensor, got {type(value).__name__}")


def floating(op: str, name: str, value: Tensor, dim: int, layout: str) -> None:
    """Raises ValueError unless `value` is a floating-point tensor of `dim` dimensions, `layout`."""
    if not isinstance(value, Tensor) or value.dtype not in FLOATING:
        _refuse_floating(op, name, value)
    if value.dim() != dim:
        raise ValueError(f"{op}: {name} must be {layout}, got shape {_shape(value)}")


def _refuse_floating(op: str, name: str, value: Tensor) -> NoReturn:
    is_tensor(op, name, value)
    raise ValueError(f"{op}: {name} must be float32, bfloat16, float16 or float64, got {_dtype(value)}")


def batched(op: str, name: str, value: Tensor) -> None:
    """Raises ValueError unless `value` is a floating-point tensor of at least two dimensions."""
    if not isinstance(value, Tensor) or value.dtype not in FLOATING:
        _refuse_floating(op, name, value)
    if value.dim() < 2:
        raise ValueError(f"{op}: {name} must be (B, ...) such as (B, C, F, H, W), got shape {_shape(value)}")


def shape(op: str, name: str, value: Tensor, expected: tuple[int, ...], layout: str) -> None:
    """Raises ValueError unless `value` is a tensor of the expected shape, named by `layout`."""
    if not isinstance(value, Tensor) or value.shape != expected:
        is_tensor(op, name, value)
        raise ValueError(f"{op}: {name} must be {layout} = {tuple(expected)}, got {_shape(value)}")


def device(op: str, name: str, value: Tensor, expected: torch.device) -> None:
    """Raises ValueError unless `value` is on the device of the op's first tensor."""
    if value.device != expected:
        raise ValueError(f"{op}: {name} must be on {expected}, got {value.device}")


def dtype(op: str, name: str, value: Tensor, expected: torch.dtype) -> None:
    """Raises ValueError unless `value` has the dtype `expected`."""
    if value.dtype != expected:
        raise ValueError(f"{op}: {name} must be {_name(expected)}, got {_dtype(value)}")


def per_sample(
    op: str, name: str, value: Tensor, batch: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Raises ValueError unless `value` is a constant of shape (B,)."""
    is_tensor(op, name, value)
    if value.shape != (batch,):
        raise ValueError(f"{op}: {name} must be (B,) = ({batch},), got {_shape(value)}")
    if value.dtype != dtype:
        raise ValueError(f"{op}: {name} must be {_name(dtype)}, got {_dtype(value)}")
    if value.device != device:
        raise ValueError(f"{op}: {name} must be on {device}, got {value.device}")
    if value.requires_grad:
        raise ValueError(f"{op}: {name} must be a constant (it gets no gradient), got requires_grad=True")


def per_sample_or_float(
    op: str,
    name: str,
    value: float | Tensor,
    batch: int,
    device: torch.device,
    minimum: float = -float("inf"),
) -> Tensor:
    """A float, or a float32 tensor of shape (B,) or (), as a contiguous float32 tensor of shape (B,)."""
    if isinstance(value, Tensor):
        if value.dim() == 0:
            value = value.expand(batch)
        per_sample(op, name, value, batch, device, torch.float32)
        return value.contiguous()
    if not isinstance(value, (float, int)) or isinstance(value, bool) or not value >= minimum:
        bound = "" if minimum == -float("inf") else f" >= {minimum}"
        raise ValueError(f"{op}: {name} must be a number{bound} or a Tensor (B,), got {_brief(value)}")
    return torch.full((batch,), value, dtype=torch.float32, device=device)


def draw_number(op: str, value: int | Tensor, seed: Tensor) -> Tensor:
    """The draw number, an int or an int64 tensor of one element, as an int64 tensor () beside `seed`."""
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.numel() != 1:
            raise ValueError(
                f"{op}: draw must be an int or an int64 Tensor (), got {_dtype(value)} {_shape(value)}"
            )
        if value.device != seed.device:
            raise ValueError(f"{op}: draw must be on {seed.device}, got {value.device}")
        return value.reshape(())
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or not -(2**63) <= value < 2**63:
        raise ValueError(f"{op}: draw must be an int of 64 bits or an int64 Tensor (), got {_brief(value)}")
    return torch.full((), value, dtype=torch.int64, device=seed.device)


def unit_interval(op: str, name: str, value: float) -> None:
    """Raises ValueError unless 0 <= value <= 1."""
    if not isinstance(value, (float, int)) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{op}: {name} must be a number in [0, 1], got {_brief(value)}")


def one_of(op: str, name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`, which are of one type."""
    if type(value) is not type(choices[0]) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{op}: {name} must be one of {listed}, got {_brief(value)}")


def flag(op: str, name: str, value: object) -> None:
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{op}: {name} must be True or False, got {_brief(value)}")


def non_negative(op: str, name: str, value: float) -> None:
    """Raises ValueError unless `value` is a number and not below zero."""
    if not isinstance(value, (float, int)) or not value >= 0.0:
        raise ValueError(f"{op}: {name} must be a number >= 0, got {_brief(value)}")


def sizes(op: str, name: str, value: Sequence[int]) -> None:
    """Raises ValueError unless `value` is a sequence of sizes."""
    if isinstance(value, (list, tuple)):
        for size in value:
            if not isinstance(size, (int, torch.SymInt)) or size < 0:
                break
        else:
            return
    raise ValueError(f"{op}: {name} must be a sequence of integers >= 0, got {_brief(value)}")


def divides(op: str, name: str, value: int, total_name: str, total: int) -> None:
    """Raises ValueError unless the positive integer `value` divides `total`."""
    whole = isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)
    if not whole or value < 1 or total % value:
        raise ValueError(f"{op}: {name} must divide {total_name}={total}, got {_brief(value)}")


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a Tensor of shape {_shape(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _name(value: torch.dtype) -> str:
    return str(value).removeprefix("torch.")


def _dtype(value: Tensor) -> str:
    return _name(value.dtype)


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def autocast(first: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """The tensors (of one device) in the autocast dtype where autocast is on; else as they are."""
    if not _is_any_autocast_enabled():
        return (first, *others)
    kind = first.device.type
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind) or first.dtype == torch.float64:
        return (first, *others)
    target = torch.get_autocast_dtype(kind)
    return tuple(None if tensor is None else tensor.to(target) for tensor in (first, *others))

"""Checks of arguments, with one wording: `where: name must be ..., got ...`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Choice = TypeVar("Choice", int, str)


def check_int(where: str, name: str, value: int, *, minimum: int, maximum: int | None = None) -> int:
    """Returns `value` as an int if it is an integer in [minimum, maximum]."""
    is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_int or value < minimum or (maximum is not None and value > maximum):
        wanted = f">= {minimum}" if maximum is None else f"in [{minimum}, {maximum}]"
        raise ValueError(f"{where}: {name} must be an integer {wanted}, got {value!r}")
    return int(value)


def check_positive(where: str, name: str, value: float, *, maximum: float = math.inf) -> float:
    """Returns `value` as a float if it is a finite number in (0, maximum]."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not (0 < value <= maximum) or math.isinf(value):
        wanted = "a positive number" if math.isinf(maximum) else f"a number in (0, {maximum:g}]"
        raise ValueError(f"{where}: {name} must be {wanted}, got {value!r}")
    return float(value)


def check_bool(where: str, name: str, value: bool) -> bool:
    """Returns `value` if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{where}: {name} must be True or False, got {value!r}")
    return bool(value)


def check_choice(where: str, name: str, value: Choice, choices: Sequence[Choice]) -> Choice:
    """Returns `value` if it is one of `choices`."""
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value not in choices:
        wanted = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{where}: {name} must be {wanted}, got {value!r}")
    return value


def check_size(where: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Returns (H, W) from an int (a square) or a pair of ints >= 1."""
    sides: list[Any] = list(value) if isinstance(value, (tuple, list)) else [value, value]
    valid = len(sides) == 2 and all(
        isinstance(side, (int, np.integer)) and not isinstance(side, bool) and side >= 1 for side in sides
    )
    if not valid:
        raise ValueError(f"{where}: {name} must be an integer >= 1 or a pair (H, W) of such, got {value!r}")
    return int(sides[0]), int(sides[1])

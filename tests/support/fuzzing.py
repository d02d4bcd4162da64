"""What every public function has to refuse well."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch

JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    10**400,
    0.5,
    -0.5,
    math.nan,
    math.inf,
    1j,
    Decimal("0.5"),
    Fraction(1, 2),
    np.float32(0.5),
    np.int64(3),
    np.zeros(2),
    "",
    "junk",
    b"eps",
    [],
    [1.0],
    ["eps"],
    {},
    (2, 3),
    object(),
    torch.float32,
    torch.tensor(0.5),
    torch.tensor(3),
    torch.tensor([True, False]),
    torch.tensor([1, 2]),
    torch.tensor([1.0, math.nan]),
    torch.zeros(2, dtype=torch.complex64),
    torch.zeros(3),
    torch.zeros(0),
    torch.zeros(2, 3),
    torch.zeros(2, 3, 4, 5, 7),
    torch.zeros(2, 3, 4, 5, 6, dtype=torch.int64),
    torch.zeros(2, device="meta"),
    torch.zeros(2, 3, 4, 5, 6, device="meta"),
]


def assert_fails_well(function: Callable[..., Any], arguments: dict[str, Any], name: str) -> None:
    """Call; the only exception allowed is a ValueError whose message names the argument."""
    try:
        function(**arguments)
    except ValueError as error:
        message = str(error)
        assert re.search(rf"(?<!\w){name}(?!\w)", message), message
        assert re.match(r"[\w.]+: .+, got ", message, flags=re.DOTALL), message

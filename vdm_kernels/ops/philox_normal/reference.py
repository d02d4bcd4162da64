"""Counter-based standard normals: Philox4x32-10 and the Box-Muller transform in plain PyTorch.

Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Random123).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor], rounds: int = 10) -> tuple[Tensor, ...]:
    """Philox4x32: four 32-bit words from a 128-bit counter and a 64-bit key.

    One round, with (hi_j, lo_j) the halves of the 64-bit product M_j * c_2j:
    (c0, c1, c2, c3) <- (hi_1 ^ c1 ^ k0, lo_1, hi_0 ^ c3 ^ k1, lo_0); between rounds k_j <- k_j + W_j.

    Args:
        counter: four int64 tensors of values in [0, 2^32), broadcastable.
        key: two of the same.
        rounds: 10 for Philox4x32-10.

    Returns:
        Four int64 tensors of values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        # The int64 product is the 64-bit product in two's complement: its bits are the unsigned ones.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def _box_muller(r_radius: Tensor, r_angle: Tensor) -> tuple[Tensor, Tensor]:
    # u in (0, 1], in float32 as the kernels compute it: uint32 -> float32 rounds, the product is exact.
    u = r_radius.to(torch.float32) * 2.0**-32 + 2.0**-33
    radius = torch.sqrt(-2.0 * torch.log(u.double()))
    angle = r_angle.double() * (2.0 * math.pi / 2.0**32)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def philox_normal(shape: Sequence[int], seed: Tensor, draw: Tensor, dtype: torch.dtype) -> Tensor:
    """See `vdm_kernels.philox_normal`; `draw` is an int64 tensor of one element."""
    batch, n = shape[0], math.prod(shape[1:])
    group = torch.arange((n + 3) // 4, device=seed.device, dtype=torch.int64)
    key = seed.view(batch, 1)
    d = draw.view(1, 1)
    words = philox4x32(
        (group & _MASK, group >> 32, d & _MASK, (d >> 32) & _MASK),
        (key & _MASK, (key >> 32) & _MASK),
    )
    pairs = (*_box_muller(words[0], words[1]), *_box_muller(words[2], words[3]))
    return torch.stack(pairs, dim=-1).float().flatten(1)[:, :n].to(dtype).contiguous().view(list(shape))

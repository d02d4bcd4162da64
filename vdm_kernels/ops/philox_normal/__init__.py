"""`philox_normal`: standard normals from a counter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op
from vdm_kernels.ops.philox_normal import reference


def _fake(shape: Sequence[int], seed: Tensor, draw: Tensor, dtype: torch.dtype) -> Tensor:
    return seed.new_empty(shape, dtype=dtype)


PHILOX_NORMAL = Op(reference.philox_normal, fake=_fake, package=__name__)


def philox_normal(
    shape: Sequence[int], seed: Tensor, draw: int | Tensor, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normals that depend on the sample's seed, the draw number and the element's index alone.

    Sample b, element i (of its contiguous order), draw d, seed s:

        r0..r3 = Philox4x32-10(counter = (lo(i // 4), hi(i // 4), lo(d), hi(d)), key = (lo(s), hi(s)))
        u(r) = float32(r) 2^-32 + 2^-33, radius(r) = sqrt(-2 ln u(r)), angle(r) = 2 pi r / 2^32
        element 4k     = radius(r0) cos(angle(r1)),  element 4k + 1 = radius(r0) sin(angle(r1))
        element 4k + 2 = radius(r2) cos(angle(r3)),  element 4k + 3 = radius(r2) sin(angle(r3))

    with the Philox4x32-10 of Random123 (Salmon et al. 2011). So the same seed gives the same noise, to
    2e-6, on every backend and device, for every batch size and every position in the batch.

    Args:
        shape: (B, ...).
        seed: (B,) int64, one per sample; any value.
        draw: which draw of the sample's stream, an int or an int64 tensor of one element; any value.
        dtype: of the result; the normals are computed in float32 and rounded.

    Returns:
        A contiguous tensor of `shape` on seed's device.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or device.
    """
    checks.is_tensor("philox_normal", "seed", seed)
    if dtype not in checks.FLOATING:
        raise ValueError(f"philox_normal: dtype must be a floating-point dtype, got {dtype}")
    checks.sizes("philox_normal", "shape", shape)
    if seed.dtype != torch.int64 or len(shape) < 1 or seed.shape != tuple(shape[:1]):
        raise ValueError(
            f"philox_normal: seed must be int64 (B,) for shape = (B, ...) = {tuple(shape)}, "
            f"got {seed.dtype} {tuple(seed.shape)}"
        )
    draw = checks.draw_number("philox_normal", draw, seed)
    result: Tensor = PHILOX_NORMAL(list(shape), seed.contiguous(), draw, dtype)
    return result

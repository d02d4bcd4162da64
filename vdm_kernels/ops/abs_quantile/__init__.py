"""`abs_quantile`: the exact quantile of |x| per sample, of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.abs_quantile import reference


def _fake(x: Tensor, q: float) -> Tensor:
    return x.new_empty(x.shape[:1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _fake_bwd(dout: Tensor, x: Tensor, q: float, needs: Sequence[bool]) -> list[Tensor]:
    return fake_gradients(x, needs=needs)


ABS_QUANTILE_BWD = Op(reference.abs_quantile_bwd, fake=_fake_bwd, package=__name__)
ABS_QUANTILE = Op(
    reference.abs_quantile, fake=_fake, package=__name__, backward=ABS_QUANTILE_BWD, differentiable=("x",)
)


def abs_quantile(x: Tensor, q: float) -> Tensor:
    """The exact q-quantile of |x| per sample, with linear interpolation as in `torch.quantile`.

        r = q (n - 1), with m_0 <= ... <= m_{n-1} the sorted magnitudes of the n elements of a sample:
        result = m_floor(r) + (r - floor(r)) (m_{floor(r)+1} - m_floor(r))

    It is the s of dynamic thresholding (Saharia et al. 2022, Imagen, section 2.3). There is no limit on
    n, and r is computed in double precision, so that it is exact where float32 indices end (2^24). A
    sample with a NaN gives NaN.

    Args:
        x: (B, ...), with at least one element per sample.
        q: in [0, 1].

    Returns:
        (B,) float32 (float64 for a float64 x).

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or range.
    """
    checks.batched("abs_quantile", "x", x)
    checks.unit_interval("abs_quantile", "q", q)
    for size in x.shape[1:]:
        if size == 0:
            raise ValueError(f"abs_quantile: x must have elements in every sample, got {tuple(x.shape)}")
    result: Tensor = ABS_QUANTILE(x.contiguous(), float(q))
    return result

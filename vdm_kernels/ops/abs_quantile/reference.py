"""Plain PyTorch definition of `abs_quantile`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.ops.step.reference import compute_dtype


def quantile_rank(n: int, q: float) -> tuple[int, float]:
    """Index (from 0) of the lower order statistic and weight of the next: q (n - 1) = index + weight."""
    rank = q * (n - 1)
    index = min(math.floor(rank), n - 1)
    return index, rank - index


def abs_quantile(x: Tensor, q: float) -> Tensor:
    """See `vdm_kernels.abs_quantile`."""
    magnitude = x.flatten(1).to(compute_dtype(x)).abs()
    index, weight = quantile_rank(magnitude.shape[1], q)
    result = magnitude.kthvalue(index + 1, dim=1).values
    if weight > 0.0:
        upper = magnitude.kthvalue(index + 2, dim=1).values
        # Where both are infinite, inf - inf would be NaN.
        result = result + torch.where(upper == result, 0.0, weight * (upper - result))
    # max gives NaN where there is one, at less memory than isnan().any().
    return torch.where(magnitude.amax(1).isnan(), torch.nan, result)


def abs_quantile_bwd(dout: Tensor, x: Tensor, q: float, needs: Sequence[bool]) -> list[Tensor]:
    """dx = sign(x) dout, times the weight of each of the two order statistics, at their places; else 0."""
    magnitude = x.flatten(1).to(compute_dtype(x)).abs()
    index, weight = quantile_rank(magnitude.shape[1], q)
    dx = torch.zeros_like(magnitude)
    for k, share in ((index, 1.0 - weight), (index + 1, weight)):
        if share > 0.0:
            place = magnitude.kthvalue(k + 1, dim=1, keepdim=True).indices
            dx = dx.scatter_add(1, place, share * dout[:, None].to(dx.dtype))
    return [(dx.view_as(x) * x.sign()).to(x.dtype)]

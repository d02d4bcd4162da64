"""Calls of `abs_quantile` that tests share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def sample(name: str, x: Tensor, q: float, gradients: bool = False, large: bool = False) -> Sample:
        return Sample(name, {"x": x, "q": q}, gradients=gradients, large=large)

    # Distinct magnitudes of both signs, also in bfloat16: the gradient's place is not ambiguous.
    distinct = torch.randperm(120, generator=torch.Generator().manual_seed(0)).view(1, 120) - 60.25
    distinct = distinct.expand(3, -1).to(device=device, dtype=dtype)
    special = normal(4, 9)
    special[0, 3], special[1, 5], special[1, 6], special[2, :] = math.nan, math.inf, -math.inf, math.inf
    return [
        sample("median", distinct, 0.5, gradients=True),
        sample("dynamic_threshold", distinct, 0.995, gradients=True),
        sample("minimum", distinct, 0.0, gradients=True),
        sample("maximum", distinct, 1.0, gradients=True),
        sample("video", normal(2, 3, 4, 8, 8), 0.9),
        sample("odd", normal(3, 3, 1, 7, 5), 0.37),
        sample("one_element", normal(2, 1), 0.7, gradients=True),
        sample("empty_batch", normal(0, 5), 0.5),
        sample("non_contiguous", normal(4, 5, 2).movedim(-1, 0), 0.8),
        sample("ties", normal(2, 501).round(), 0.6),
        sample("zeros", torch.zeros(2, 8, dtype=dtype, device=device), 0.5),
        sample("subnormal", (normal(2, 65).double() * torch.finfo(dtype).tiny).to(dtype), 0.5),
        sample("infinite", special, 0.8),
        sample("infinite_between", special, 0.97),
        sample("blocks", normal(2, 5000), 0.995),
        sample("threads", normal(2, 3, 16, 65, 67), 0.995, large=True),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    x = torch.ones(2, 3, device=device)

    def bad(name: str, **changes: object) -> Sample:
        return Sample(name, {"x": x, "q": 0.5, **changes})

    return [
        bad("x", x=[1.0]),
        bad("x", x=x.int()),
        bad("x", x=x[0]),
        bad("x", x=x[:, :0]),
        bad("q", q=1.01),
        bad("q", q=-0.5),
        bad("q", q=math.nan),
        bad("q", q=None),
    ]

"""`abs_quantile`: the exact 0.995 quantile of |x| per video, as dynamic thresholding takes it."""

import numpy as np
import torch
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload, size_in_bytes
from torch import Tensor

import vdm_kernels

Q = 0.995

# 16×64×64 and 16×256×256 RGB; the largest has more elements than `torch.quantile` takes.
TABLE = Table(
    op="abs_quantile",
    cpu=(
        {"B": 8, "C": 3, "F": 16, "H": 64},
        {"B": 32, "C": 3, "F": 16, "H": 64},
        {"B": 2, "C": 3, "F": 16, "H": 256},
    ),
    cuda=(
        {"B": 8, "C": 3, "F": 16, "H": 64},
        {"B": 128, "C": 3, "F": 16, "H": 64},
        {"B": 2, "C": 3, "F": 16, "H": 256},
    ),
    quick={"B": 8, "C": 3, "F": 16, "H": 32},
    directions=("fwd",),
    libraries=("sort", "numpy"),
)


def plain(x: Tensor) -> Tensor:
    """`torch.quantile`, sample by sample where all of them are too many elements for it."""
    magnitude = x.flatten(1).abs().float()
    if magnitude.numel() <= 2**24:
        return magnitude.quantile(Q, dim=1)
    return torch.stack([sample.quantile(Q) for sample in magnitude])


def by_sort(x: Tensor) -> Tensor:
    ordered = x.flatten(1).abs().float().sort(dim=1).values
    rank = Q * (ordered.shape[1] - 1)
    return torch.lerp(ordered[:, int(rank)], ordered[:, int(rank) + 1], rank % 1)


def by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(np.quantile(np.abs(x.flatten(1).numpy()), Q, axis=1))


def make(key: RowKey) -> Workload:
    batch, channels, frames, height = key.numbers("B", "C", "F", "H")
    x = Inputs(key.device, key.dtype).normal(batch, channels, frames, height, height)
    return Workload(
        call=lambda x: vdm_kernels.abs_quantile(x, Q),
        plain=plain,
        inputs=(x,),
        libraries={
            "sort": by_sort,
            "numpy": by_numpy if key.device == "cpu" else "numpy has no GPU",
        },
        work={"fwd": Work(size_in_bytes(x))},
    )


def test_abs_quantile(row: Row) -> None:
    row.measure(make)

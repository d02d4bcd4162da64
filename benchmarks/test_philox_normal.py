"""`philox_normal`: standard normals from a counter, one seed per sample. Baseline: `torch.randn`."""

import torch
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload
from torch import Tensor

import vdm_kernels

# RGB videos of 16×64×64: 6.3, 25 and 100 MB in float32.
TABLE = Table(
    op="philox_normal",
    cpu=({"B": 8, "C": 3, "F": 16, "H": 64}, {"B": 32, "C": 3, "F": 16, "H": 64}),
    cuda=(
        {"B": 8, "C": 3, "F": 16, "H": 64},
        {"B": 32, "C": 3, "F": 16, "H": 64},
        {"B": 128, "C": 3, "F": 16, "H": 64},
    ),
    quick={"B": 8, "C": 3, "F": 16, "H": 32},
    directions=("fwd",),
)


def make(key: RowKey) -> Workload:
    batch, channels, frames, height = key.numbers("B", "C", "F", "H")
    shape = (batch, channels, frames, height, height)
    draw = Inputs(key.device, key.dtype)

    def plain(seed: Tensor) -> Tensor:
        return torch.randn(shape, device=seed.device, dtype=key.dtype)

    return Workload(
        call=lambda seed: vdm_kernels.philox_normal(shape, seed, 1, dtype=key.dtype),
        plain=plain,
        inputs=(draw.seeds(batch),),
        random=True,
        work={"fwd": Work(torch.Size(shape).numel() * key.dtype.itemsize)},
    )


def test_philox_normal(row: Row) -> None:
    row.measure(make)

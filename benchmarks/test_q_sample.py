"""`q_sample`: the noised video and its noise in one pass. Baseline: `torch.randn_like` and the sum."""

import torch
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload, size_in_bytes
from torch import Tensor

import vdm_kernels

# RGB videos of 16×64×64: 6.3, 25 and 100 MB in float32.
TABLE = Table(
    op="q_sample",
    cpu=({"B": 8, "C": 3, "F": 16, "H": 64}, {"B": 32, "C": 3, "F": 16, "H": 64}),
    cuda=(
        {"B": 8, "C": 3, "F": 16, "H": 64},
        {"B": 32, "C": 3, "F": 16, "H": 64},
        {"B": 128, "C": 3, "F": 16, "H": 64},
    ),
    quick={"B": 8, "C": 3, "F": 16, "H": 32},
    directions=("fwd",),
)


def plain(x: Tensor, logsnr: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    """`z = alpha x + sigma eps`, with PyTorch's own noise."""
    logsnr = logsnr.view(-1, 1, 1, 1, 1)
    eps = torch.randn_like(x)
    return (logsnr.sigmoid().sqrt() * x + (-logsnr).sigmoid().sqrt() * eps).to(x.dtype), eps


def make(key: RowKey) -> Workload:
    batch, channels, frames, height = key.numbers("B", "C", "F", "H")
    draw = Inputs(key.device, key.dtype)
    x = draw.normal(batch, channels, frames, height, height)
    return Workload(
        call=lambda x, logsnr, seed: vdm_kernels.q_sample(x, logsnr, seed, 0),
        plain=plain,
        inputs=(x, draw.floats((-4.0, 4.0), batch), draw.seeds(batch)),
        random=True,
        work={"fwd": Work(3 * size_in_bytes(x))},
    )


def test_q_sample(row: Row) -> None:
    row.measure(make)

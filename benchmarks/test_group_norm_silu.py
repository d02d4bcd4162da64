"""`group_norm_silu`: per-frame GroupNorm, FiLM and SiLU on a channels-last video."""

import torch.nn.functional as F
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload, size_in_bytes
from torch import Tensor

import vdm_kernels

GROUPS = 8

# N = frames in all: 16 to a video.
TABLE = Table(
    op="group_norm_silu",
    cpu=(
        {"N": 16, "C": 64, "H": 64},
        {"N": 16, "C": 128, "H": 32},
        {"N": 16, "C": 256, "H": 16},
        {"N": 16, "C": 512, "H": 8},
    ),
    cuda=(
        {"N": 128, "C": 64, "H": 64},
        {"N": 128, "C": 128, "H": 32},
        {"N": 128, "C": 256, "H": 16},
        {"N": 128, "C": 512, "H": 8},
        {"N": 16, "C": 256, "H": 64},
    ),
    quick={"N": 16, "C": 64, "H": 16},
)


def plain(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The chain on `(B F, C, H, W)` channels-last images."""
    images = x.transpose(1, 2).flatten(0, 1)
    frames = x.shape[2]
    y = F.group_norm(images, GROUPS, weight, bias)
    y = (
        y * (1 + scale.repeat_interleave(frames, 0)[..., None, None])
        + shift.repeat_interleave(frames, 0)[..., None, None]
    )
    return F.silu(y).unflatten(0, (-1, frames)).transpose(1, 2)


def make(key: RowKey) -> Workload:
    count, channels, height = key.numbers("N", "C", "H")
    batch = count // 16
    draw = Inputs(key.device, key.dtype)
    x = draw.video(batch, channels, 16, height, grad=True)
    weight, bias = draw.normal(channels, grad=True), draw.normal(channels, grad=True)
    scale, shift = draw.normal(batch, channels, grad=True), draw.normal(batch, channels, grad=True)
    return Workload(
        call=lambda x, weight, bias, scale, shift: vdm_kernels.group_norm_silu(
            x, weight, bias, num_groups=GROUPS, scale=scale, shift=shift
        ),
        plain=plain,
        inputs=(x, weight, bias, scale, shift),
        work={"fwd": Work(2 * size_in_bytes(x)), "bwd": Work(3 * size_in_bytes(x))},
    )


def test_group_norm_silu(row: Row) -> None:
    row.measure(make)

"""`spatial_attention`: softmax attention over the pixels of every frame, also with a relative 2D bias."""

import torch
import torch.nn.functional as F
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload, size_in_bytes
from torch import Tensor

import vdm_kernels

# N = frames in all, H = W, h = heads, d = channels of a head.
TABLE = Table(
    op="spatial_attention",
    cpu=(
        {"N": 16, "H": 32, "h": 8, "d": 32, "bias": True},
        {"N": 16, "H": 32, "h": 8, "d": 64, "bias": True},
        {"N": 16, "H": 32, "h": 8, "d": 64, "bias": False},
        {"N": 4, "H": 64, "h": 4, "d": 32, "bias": True},
    ),
    cuda=(
        {"N": 128, "H": 32, "h": 8, "d": 64, "bias": True},
        {"N": 128, "H": 32, "h": 8, "d": 64, "bias": False},
        {"N": 16, "H": 64, "h": 8, "d": 64, "bias": True},
    ),
    quick={"N": 2, "H": 16, "h": 4, "d": 32, "bias": True},
    libraries=("sdpa",),
)


def relative_bias(table: Tensor, size: int) -> Tensor:
    """`bias[h, i, j] = table[h, yi - yj + size - 1, xi - xj + size - 1]` as (heads, S, S)."""
    position = torch.arange(size, device=table.device)
    offset = position[:, None] - position[None, :] + size - 1
    return table[:, offset[:, None, :, None], offset[None, :, None, :]].flatten(3, 4).flatten(1, 2)


def plain(qkv: Tensor, table: Tensor | None = None) -> Tensor:
    """Scores, softmax and values as matrix products."""
    size = qkv.shape[1]
    q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
    scores = (q * qkv.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if table is not None:
        scores = scores + relative_bias(table, size)
    return (scores.softmax(-1) @ v).transpose(1, 2).unflatten(1, (size, size))


def sdpa(qkv: Tensor, table: Tensor | None = None) -> Tensor:
    """`scaled_dot_product_attention`, the bias written out as its mask."""
    size = qkv.shape[1]
    q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
    bias = None if table is None else relative_bias(table, size)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).unflatten(1, (size, size))


def make(key: RowKey) -> Workload:
    frames, size, heads, head_dim = key.numbers("N", "H", "h", "d")
    draw = Inputs(key.device, key.dtype)
    qkv = draw.normal(frames, size, size, 3, heads, head_dim, grad=True)
    table = (draw.normal(heads, 2 * size - 1, 2 * size - 1, grad=True),) if key.size["bias"] else ()
    product = 2 * frames * heads * size**4 * head_dim
    return Workload(
        call=vdm_kernels.spatial_attention,
        plain=plain,
        inputs=(qkv, *table),
        libraries={"sdpa": sdpa},
        work={
            # Backward: reads qkv and dout, writes dqkv; recomputes the scores.
            "fwd": Work(4 / 3 * size_in_bytes(qkv), 2 * product),
            "bwd": Work(7 / 3 * size_in_bytes(qkv), 5 * product),
        },
        # On a CPU, torch 2.13 compiles this with max_autotune into wrong results at 64 x 64 pixels.
        compile_options={} if key.device == "cpu" else {"max_autotune": True},
    )


def test_spatial_attention(row: Row) -> None:
    row.measure(make)

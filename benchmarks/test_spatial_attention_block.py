"""`spatial_attention_block`: LayerNorm, projections, attention over pixels and residual sum, as one operator."""

import torch.nn.functional as F
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload, size_in_bytes
from torch import Tensor

import vdm_kernels

# H = height and width, h = heads.
TABLE = Table(
    op="spatial_attention_block",
    cpu=(
        {"B": 1, "C": 128, "F": 16, "H": 32, "h": 2},
        {"B": 1, "C": 256, "F": 16, "H": 16, "h": 4},
        {"B": 1, "C": 512, "F": 16, "H": 8, "h": 8},
    ),
    cuda=(
        {"B": 8, "C": 128, "F": 16, "H": 32, "h": 2},
        {"B": 8, "C": 256, "F": 16, "H": 16, "h": 4},
    ),
    quick={"B": 1, "C": 64, "F": 4, "H": 16, "h": 1},
    ours={"cpu": ("native",), "cuda": ("vdm",)},  # on a GPU the parts run, each on the backend of its own
)


def make(key: RowKey) -> Workload:
    batch, channels, frames, size, heads = key.numbers("B", "C", "F", "H", "h")
    draw = Inputs(key.device, key.dtype)
    width, tokens = channels**-0.5, batch * frames * size**2
    inputs = (
        draw.video(batch, channels, frames, size, grad=True),
        draw.normal(channels, grad=True),
        draw.normal(channels, grad=True),
        draw.normal(3 * channels, channels, grad=True, scale=width),
        draw.normal(channels, channels, grad=True, scale=width),
        draw.normal(channels, grad=True),
    )

    def plain(
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        qkv_weight: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
    ) -> Tensor:
        """The block as most video models write it: linear layers on tokens, attention by PyTorch's own kernel."""
        rows = x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
        normed = F.layer_norm(rows, (channels,), norm_weight, norm_bias)
        qkv = F.linear(normed, qkv_weight).unflatten(2, (3, heads, channels // heads))
        attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
        out = rows + F.linear(attended, out_weight, out_bias)
        return out.unflatten(1, (size, size)).unflatten(0, (batch, frames)).permute(0, 4, 1, 2, 3)

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return vdm_kernels.spatial_attention_block(x, *weights, heads=heads)

    projections, attention = 8 * tokens * channels**2, 4 * tokens * size**2 * channels
    return Workload(
        call=call,
        plain=plain,
        inputs=inputs,
        work={
            "fwd": Work(2 * size_in_bytes(inputs[0]), projections + attention),
            # Reads x and dout, writes dx; qkv is saved, the scores are computed again.
            "bwd": Work(3 * size_in_bytes(inputs[0]), 2 * projections + 2.5 * attention),
        },
    )


def test_spatial_attention_block(row: Row) -> None:
    row.measure(make)

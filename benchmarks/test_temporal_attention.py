"""`temporal_attention`: softmax attention over the frames of every pixel, with a learned bias per head."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload, size_in_bytes
from torch import Tensor

import vdm_kernels

# S = pixels of a frame, h = heads, d = channels of a head.
TABLE = Table(
    op="temporal_attention",
    cpu=(
        {"B": 1, "F": 16, "S": 4096, "h": 8, "d": 32},
        {"B": 1, "F": 16, "S": 1024, "h": 8, "d": 32},
        {"B": 1, "F": 16, "S": 1024, "h": 8, "d": 64},
        {"B": 1, "F": 64, "S": 256, "h": 8, "d": 64},
    ),
    cuda=(
        {"B": 8, "F": 16, "S": 4096, "h": 8, "d": 32},
        {"B": 8, "F": 16, "S": 1024, "h": 8, "d": 64},
        {"B": 4, "F": 64, "S": 1024, "h": 8, "d": 64},
        {"B": 8, "F": 8, "S": 16384, "h": 4, "d": 32},
    ),
    quick={"B": 1, "F": 16, "S": 256, "h": 8, "d": 32},
    libraries=("sdpa", "flex_attention"),
)


def plain(qkv: Tensor, bias: Tensor) -> Tensor:
    """Scores, softmax and values as einsum, the way most video models write it."""
    q, k, v = qkv.unbind(3)
    scores = torch.einsum("bishd,bjshd->bshij", q, k) * qkv.shape[-1] ** -0.5 + bias
    return torch.einsum("bshij,bjshd->bishd", scores.softmax(-1).to(v.dtype), v)


def sdpa(qkv: Tensor, bias: Tensor) -> Tensor:
    """`scaled_dot_product_attention` over pixels as its batch, the bias as its mask."""
    batch, frames, pixels, _, heads, head_dim = qkv.shape
    q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.view(batch, pixels, heads, frames, head_dim).permute(0, 3, 1, 2, 4)


def flex(device: str) -> Callable[[Tensor, Tensor], Tensor] | str:
    """FlexAttention with the bias as `score_mod`, compiled, which is how it is meant to be used."""
    if device != "cuda":
        return "its gradient of a learned bias needs a CUDA device"
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def call(qkv: Tensor, bias: Tensor) -> Tensor:
        batch, frames, pixels, _, heads, head_dim = qkv.shape
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
        out = compiled(q, k, v, score_mod=lambda score, b, h, i, j: score + bias[h, i, j])
        return out.view(batch, pixels, heads, frames, head_dim).permute(0, 3, 1, 2, 4)

    return call


def make(key: RowKey) -> Workload:
    batch, frames, pixels, heads, head_dim = key.numbers("B", "F", "S", "h", "d")
    draw = Inputs(key.device, key.dtype)
    qkv = draw.normal(batch, frames, pixels, 3, heads, head_dim, grad=True)
    bias = draw.normal(heads, frames, frames, grad=True)
    product = 2 * batch * pixels * heads * frames**2 * head_dim
    return Workload(
        call=lambda qkv, bias: vdm_kernels.temporal_attention(qkv, bias),
        plain=plain,
        inputs=(qkv, bias),
        libraries={"sdpa": sdpa, "flex_attention": flex(key.device)},
        work={
            # Backward: reads qkv and dout, writes dqkv; recomputes the scores.
            "fwd": Work(4 / 3 * size_in_bytes(qkv), 2 * product),
            "bwd": Work(7 / 3 * size_in_bytes(qkv), 5 * product),
        },
    )


def test_temporal_attention(row: Row) -> None:
    row.measure(make)

"""`spatial_attention`: attention over the pixels of an image, with a relative position bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.spatial_attention import reference


def _fake(qkv: Tensor, bias_table: Tensor | None) -> Tensor:
    return qkv.new_empty((*qkv.shape[:3], *qkv.shape[4:]))


def _fake_bwd(dout: Tensor, qkv: Tensor, bias_table: Tensor | None, needs: Sequence[bool]) -> list[Tensor]:
    return fake_gradients(qkv, bias_table, needs=needs)


SPATIAL_ATTENTION_BWD = Op(reference.spatial_attention_bwd, fake=_fake_bwd, package=__name__)
SPATIAL_ATTENTION = Op(
    reference.spatial_attention,
    fake=_fake,
    package=__name__,
    backward=SPATIAL_ATTENTION_BWD,
    differentiable=("qkv", "bias_table"),
)


def bias_table_argument(
    op: str, bias_table: Tensor | None, heads: int, height: int, width: int, device: torch.device
) -> Tensor | None:
    """The table (heads, 2 Hmax - 1, 2 Wmax - 1), checked and contiguous."""
    if bias_table is None:
        return None
    checks.floating(op, "bias_table", bias_table, 3, "(heads, 2 Hmax - 1, 2 Wmax - 1)")
    table_heads, rows, columns = bias_table.shape
    odd = rows % 2 == 1 and columns % 2 == 1
    if table_heads != heads or not odd or rows < 2 * height - 1 or columns < 2 * width - 1:
        raise ValueError(
            f"{op}: bias_table must be (heads={heads}, odd >= {2 * height - 1}, odd >= {2 * width - 1}), "
            f"got {tuple(bias_table.shape)}"
        )
    checks.device(op, "bias_table", bias_table, device)
    return bias_table.contiguous()


def spatial_attention(qkv: Tensor, bias_table: Tensor | None = None) -> Tensor:
    """Attention over the pixels of every image, with an optional relative position bias in two dimensions.

        out_i = sum_j softmax_j(q_i . k_j / sqrt(d) + b_ij) v_j,
        b_ij = bias_table[head, y_i - y_j + Hmax - 1, x_i - x_j + Wmax - 1]

    Softmax in float32 (float64 for a float64 qkv). Gradients of qkv and bias_table.

    Args:
        qkv: (N, H, W, 3, heads, d), as one projection of channels-last images gives them; N = B F for a
            video.
        bias_table: (heads, 2 Hmax - 1, 2 Wmax - 1) with Hmax >= H and Wmax >= W; any floating dtype.

    Returns:
        (N, H, W, heads, d), contiguous, in qkv's dtype; under autocast in the autocast dtype.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or device.
    """
    op = "spatial_attention"
    checks.floating(op, "qkv", qkv, 6, "(N, H, W, 3, heads, d)")
    _, height, width, three, heads, _ = qkv.shape
    if three != 3:
        raise ValueError(f"{op}: qkv must be (N, H, W, 3, heads, d), got shape {tuple(qkv.shape)}")
    bias_table = bias_table_argument(op, bias_table, heads, height, width, qkv.device)
    (qkv,) = checks.autocast(qkv)
    out: Tensor = SPATIAL_ATTENTION(qkv.contiguous(), bias_table)
    return out

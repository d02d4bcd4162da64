"""`temporal_attention`: attention over frames, for every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.temporal_attention import reference


def _fake(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    return qkv.new_empty((*qkv.shape[:3], *qkv.shape[4:]))


def _fake_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> list[Tensor]:
    return fake_gradients(qkv, bias, needs=needs)


TEMPORAL_ATTENTION_BWD = Op(reference.temporal_attention_bwd, fake=_fake_bwd, package=__name__)
TEMPORAL_ATTENTION = Op(
    reference.temporal_attention,
    fake=_fake,
    package=__name__,
    backward=TEMPORAL_ATTENTION_BWD,
    differentiable=("qkv", "bias"),
)


def temporal_attention(qkv: Tensor, bias: Tensor | None = None, segment_ids: Tensor | None = None) -> Tensor:
    """Attention over the frames of a video, for every pixel and head (Ho et al. 2022, section 3).

        out_i = sum_j softmax_j(q_i . k_j / sqrt(d) + bias_ij) v_j,  over the frames j with i's segment id

    Softmax in float32 (float64 for a float64 qkv). Gradients of qkv and bias.

    Args:
        qkv: (B, F, S, 3, heads, d): queries, keys and values of S pixels, as one projection of
            channels-last video gives them.
        bias: (heads, F, F), or (B, heads, F, F) for each sample its own; any floating dtype.
        segment_ids: (B, F), an integer dtype: a frame attends to frames of the same id only. Images that
            train beside a video have ids of their own.

    Returns:
        (B, F, S, heads, d), contiguous, in qkv's dtype; under autocast in the autocast dtype.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or device.
    """
    op = "temporal_attention"
    checks.floating(op, "qkv", qkv, 6, "(B, F, S, 3, heads, d)")
    batch, frames, _, three, heads, _ = qkv.shape
    if three != 3:
        raise ValueError(f"{op}: qkv must be (B, F, S, 3, heads, d), got shape {tuple(qkv.shape)}")
    bias = bias_argument(op, bias, batch, heads, frames, qkv.device)
    segment_ids = segments_argument(op, segment_ids, batch, frames, qkv.device)
    (qkv,) = checks.autocast(qkv)
    out: Tensor = TEMPORAL_ATTENTION(qkv.contiguous(), bias, segment_ids)
    return out


def bias_argument(
    op: str, bias: Tensor | None, batch: int, heads: int, frames: int, device: torch.device
) -> Tensor | None:
    """The bias of temporal attention, contiguous; raises ValueError where it is none."""
    if bias is None:
        return None
    checks.is_tensor(op, "bias", bias)
    if bias.shape != (heads, frames, frames) and bias.shape != (batch, heads, frames, frames):
        raise ValueError(
            f"{op}: bias must be (heads, F, F) = {(heads, frames, frames)} or (B, heads, F, F), "
            f"got {tuple(bias.shape)}"
        )
    checks.device(op, "bias", bias, device)
    return bias.contiguous()


def segments_argument(
    op: str, segment_ids: Tensor | None, batch: int, frames: int, device: torch.device
) -> Tensor | None:
    """The segment ids of frames, contiguous; raises ValueError where they are none."""
    if segment_ids is None:
        return None
    checks.shape(op, "segment_ids", segment_ids, (batch, frames), "(B, F)")
    if segment_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{op}: segment_ids must be int32 or int64, got {segment_ids.dtype}")
    checks.device(op, "segment_ids", segment_ids, device)
    return segment_ids.contiguous()

"""`temporal_attention` on Triton: kernels for up to 64 frames (triton_packed.py), and flash kernels for more.

The packed projection is read in place, frames being S tokens apart, on one grid axis and with 64-bit offsets, so that
neither the number of sequences nor the size of a tensor has a limit. The gradient of the bias has two stages: a plane
of sums for every program, then their sum in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vdm_kernels.op import fake_gradients
from vdm_kernels.ops.attention.launch import Sequences
from vdm_kernels.ops.attention.triton_flash import (
    bias_gradient,
    flash_attention,
    flash_attention_bwd,
    has_wgmma,
    log2_scale,
    precision,
    unsupported,
    width_block,
)
from vdm_kernels.ops.step.launch import sm_count
from vdm_kernels.ops.step.triton_block import on_device
from vdm_kernels.ops.temporal_attention.launch import (
    BACKWARD_PROGRAMS_PER_SM,
    FORWARD_PROGRAMS_PER_SM,
    PackedLaunch,
    is_packed,
    packed_launch,
)
from vdm_kernels.ops.temporal_attention.triton_packed import packed_bwd_kernel, packed_kernel


def temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """See `vdm_kernels.temporal_attention`."""
    out = qkv.new_empty((*qkv.shape[:3], *qkv.shape[4:]))
    if not out.numel():
        return out
    if _is_packed(qkv):
        launch = _launch(qkv, bias, segment_ids, FORWARD_PROGRAMS_PER_SM)
        with on_device(qkv):
            packed_kernel[(launch.programs,)](
                qkv, bias, segment_ids, out, *_numbers(qkv, launch), **_options(qkv, bias, launch)
            )
    else:
        flash_attention(qkv, bias, segment_ids, out, _sequences(qkv, bias))
    return out


def temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> list[Tensor]:
    """Gradients of (qkv, bias); empty where `needs` is False."""
    gradients = fake_gradients(qkv, bias, needs=needs)
    if not qkv.numel():
        return [gradient.zero_() for gradient in gradients]
    dqkv = gradients[0] if needs[0] else None
    differentiable = bias if needs[1] else None
    backward = _packed_bwd if _is_packed(qkv) else _flash_bwd
    partial = backward(dout, qkv, bias, segment_ids, dqkv, differentiable is not None)
    if differentiable is not None:
        # The second stage: PyTorch adds the planes up in a fixed order.
        total = partial.sum(1) if differentiable.dim() == 4 else partial.sum((0, 1))
        gradients[1].copy_(total.view_as(differentiable))
    return gradients


def _packed_bwd(
    dout: Tensor,
    qkv: Tensor,
    bias: Tensor | None,
    segment_ids: Tensor | None,
    dqkv: Tensor | None,
    needs_bias: bool,
) -> Tensor:
    """Writes dqkv where that is given, and returns partial sums (groups, splits, heads, F, F) of dbias where needed."""
    frames, heads = qkv.shape[1], qkv.shape[4]
    launch = _launch(qkv, bias, segment_ids, BACKWARD_PROGRAMS_PER_SM)
    planes = launch.programs if needs_bias else 0
    partial = torch.empty(planes, frames, frames, dtype=torch.float32, device=qkv.device)
    both = [(dqkv, partial if needs_bias else None)]
    if launch.separate and needs_bias and dqkv is not None:
        both = [(dqkv, None), (None, partial)]
    for pair in both:
        with on_device(qkv):
            packed_bwd_kernel[(launch.programs,)](
                dout, qkv, bias, segment_ids, *pair, *_numbers(qkv, launch), **_options(qkv, bias, launch)
            )
    return partial.view(-1, launch.splits, heads, frames, frames)


def _flash_bwd(
    dout: Tensor,
    qkv: Tensor,
    bias: Tensor | None,
    segment_ids: Tensor | None,
    dqkv: Tensor | None,
    needs_bias: bool,
) -> Tensor:
    """As `_packed_bwd`, with partial sums (groups, splits, heads, 1, F, F)."""
    sequences = _sequences(qkv, bias)
    statistics = flash_attention_bwd(dout, qkv, bias, segment_ids, dqkv, sequences)
    if bias is None or not needs_bias:
        return statistics
    groups = _groups(qkv, bias, segment_ids)
    return bias_gradient(dout, qkv, bias, segment_ids, statistics, sequences, groups)


def _is_packed(qkv: Tensor) -> bool:
    return is_packed(qkv.shape[1], qkv.shape[5], qkv.element_size(), has_wgmma(qkv.device))


def _groups(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> int:
    """Groups of samples that share bias and segments: one, or each for itself."""
    return qkv.shape[0] if segment_ids is not None or (bias is not None and bias.dim() == 4) else 1


def _sequences(qkv: Tensor, bias: Tensor | None) -> Sequences:
    batch, frames, pixels, _, heads, width = qkv.shape
    return Sequences(
        count=batch * pixels,
        length=frames,
        inner=pixels,
        heads=heads,
        width=width,
        columns=frames,
        bias_columns=frames,
        bias_plane=frames * frames,
        origin=0,
        bias_per_sample=bias is not None and bias.dim() == 4,
    )


def _launch(
    qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, programs_per_sm: int
) -> PackedLaunch:
    batch, frames, pixels, _, heads, width = qkv.shape
    groups = _groups(qkv, bias, segment_ids)
    return packed_launch(
        groups,
        batch // groups * pixels,
        frames,
        heads,
        width,
        qkv.element_size(),
        sm_count(qkv.device) * programs_per_sm,
        has_wgmma(qkv.device),
    )


def _numbers(qkv: Tensor, launch: PackedLaunch) -> tuple[float, ...]:
    _, frames, pixels, _, heads, width = qkv.shape
    return (
        launch.group_pixels,
        frames,
        pixels,
        heads,
        width,
        launch.splits,
        launch.blocks,
        log2_scale(width),
    )


def _options(qkv: Tensor, bias: Tensor | None, launch: PackedLaunch) -> dict[str, Any]:
    return {
        "BIAS_PER_SAMPLE": bias is not None and bias.dim() == 4,
        "PIXELS": launch.pixels,
        "FRAMES": launch.frames,
        "WIDTH": width_block(qkv.shape[5]),
        "PRECISION": precision(qkv),
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }


def supports_temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> str | None:
    """None, or why this call cannot run."""
    return unsupported(qkv, bias)


def supports_temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> str | None:
    """None, or why this call cannot run."""
    return unsupported(qkv, bias)

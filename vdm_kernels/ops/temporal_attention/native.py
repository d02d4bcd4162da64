"""`temporal_attention` in C++."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, pointer, unsupported


def supports_temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> str | None:
    """None, or why the extension cannot run this call."""
    if qkv.is_cuda:
        return "the native kernel of temporal_attention runs on the CPU"
    return unsupported(qkv.device, qkv.dtype)


def supports_temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> str | None:
    """None, or why the extension cannot run this call."""
    return supports_temporal_attention(qkv, bias, segment_ids)


def temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """See `vdm_kernels.temporal_attention`; tensors are contiguous."""
    batch, frames, pixels, _, heads, width = qkv.shape
    out = qkv.new_empty((batch, frames, pixels, heads, width))
    bias, segment_ids = _as_the_kernel_reads(bias, segment_ids)
    launch("temporal_attention", qkv.device, _input(qkv, bias, segment_ids), out.data_ptr())
    return out


def temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> list[Tensor]:
    """Gradients of (qkv, bias)."""
    needs_qkv, needs_bias = needs
    dtype = None if bias is None else bias.dtype
    bias, segment_ids = _as_the_kernel_reads(bias, segment_ids)
    dqkv = torch.empty_like(qkv) if needs_qkv else None
    dbias = torch.empty_like(bias) if needs_bias and bias is not None else None
    launch(
        "temporal_attention_bwd",
        qkv.device,
        dout.data_ptr(),
        _input(qkv, bias, segment_ids),
        pointer(dqkv),
        pointer(dbias),
    )
    if dbias is not None:
        dbias = dbias.to(dtype)
    return [qkv.new_empty(0) if gradient is None else gradient for gradient in (dqkv, dbias)]


def _as_the_kernel_reads(
    bias: Tensor | None, segment_ids: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The bias in float32 and the segment ids in int64: both are small."""
    return None if bias is None else bias.float(), None if segment_ids is None else segment_ids.long()


def _input(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> tuple[int, ...]:
    batch, frames, pixels, _, heads, width = qkv.shape
    return (
        qkv.data_ptr(),
        pointer(bias),
        pointer(segment_ids),
        DTYPE_CODES[qkv.dtype],
        batch,
        frames,
        pixels,
        heads,
        width,
        bias is not None and bias.dim() == 4,
    )

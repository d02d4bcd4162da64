"""`temporal_attention` in C++, on a GPU by cuda.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.native import launch, pointer, unsupported
from vdm_kernels.ops.temporal_attention import cuda
from vdm_kernels.ops.temporal_attention.cuda import input_arguments


def supports_temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> str | None:
    """None, or why the extension cannot run this call."""
    reason = unsupported(qkv.device, qkv.dtype)
    return cuda.why_not(qkv) if reason is None and qkv.is_cuda else reason


def supports_temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> str | None:
    """None, or why the extension cannot run this call."""
    return supports_temporal_attention(qkv, bias, segment_ids)


def temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """See `vdm_kernels.temporal_attention`; tensors are contiguous."""
    bias, segment_ids = as_the_kernel_reads(bias, segment_ids)
    if qkv.is_cuda:
        return cuda.temporal_attention(qkv, bias, segment_ids)
    batch, frames, pixels, _, heads, width = qkv.shape
    out = qkv.new_empty((batch, frames, pixels, heads, width))
    launch("temporal_attention", qkv.device, input_arguments(qkv, bias, segment_ids), out.data_ptr())
    return out


def temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of (qkv, bias), None where not needed."""
    dtype = None if bias is None else bias.dtype
    bias, segment_ids = as_the_kernel_reads(bias, segment_ids)
    if qkv.is_cuda:
        of_qkv, of_bias = cuda.temporal_attention_bwd(dout, qkv, bias, segment_ids, needs)
        return [of_qkv, of_bias.to(dtype)]
    needs_qkv, needs_bias = needs
    dqkv = torch.empty_like(qkv) if needs_qkv else None
    dbias = torch.empty_like(bias) if needs_bias and bias is not None else None
    launch(
        "temporal_attention_bwd",
        qkv.device,
        dout.data_ptr(),
        input_arguments(qkv, bias, segment_ids),
        pointer(dqkv),
        pointer(dbias),
    )
    if dbias is not None:
        dbias = dbias.to(dtype)
    return [dqkv, dbias]


def as_the_kernel_reads(
    bias: Tensor | None, segment_ids: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The bias in float32 and the segment ids in int64: both are small."""
    return None if bias is None else bias.float(), None if segment_ids is None else segment_ids.long()

"""`temporal_attention` in CUDA C++, for the sizes whose scores registers hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, pointer
from vdm_kernels.op import fake_gradients
from vdm_kernels.ops.step.launch import sm_count
from vdm_kernels.ops.temporal_attention.launch import (
    CUDA_MAX_FRAMES,
    CUDA_MAX_SEQUENCES,
    CUDA_MAX_WIDTH,
    CudaLaunch,
    cuda_launch,
)


def why_not(qkv: Tensor) -> str | None:
    """Why the CUDA kernels cannot take this projection, which Triton's can; None where they can."""
    batch, frames, pixels, _, _, width = qkv.shape
    itemsize = qkv.element_size()
    if frames > CUDA_MAX_FRAMES[itemsize]:
        return (
            f"has no CUDA kernel for {frames} frames of {qkv.dtype}, only up to {CUDA_MAX_FRAMES[itemsize]}"
        )
    if width > CUDA_MAX_WIDTH:
        return f"has no CUDA kernel for heads that are {width} wide, only up to {CUDA_MAX_WIDTH}"
    if width * itemsize % 16:
        return (
            f"the CUDA kernel accesses 16 bytes at a time, and a head is {width} times {itemsize} bytes wide"
        )
    if batch * pixels > CUDA_MAX_SEQUENCES:
        return f"the CUDA kernel counts pixels in 31 bits, not {batch * pixels}"
    return None


def temporal_attention(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """See `vdm_kernels.temporal_attention`; bias float32 and segment ids int64."""
    qkv = _aligned(qkv)
    out = qkv.new_empty((*qkv.shape[:3], *qkv.shape[4:]))
    if out.numel():
        grid = _launch(qkv, bias, segment_ids, backward=False)
        arguments = (input_arguments(qkv, bias, segment_ids), grid.groups, grid.splits)
        launch("temporal_attention", qkv.device, *arguments, out.data_ptr())
    return out


def temporal_attention_bwd(
    dout: Tensor, qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, needs: Sequence[bool]
) -> list[Tensor]:
    """Gradients of (qkv, bias); empty where `needs` is False."""
    gradients = fake_gradients(qkv, bias, needs=needs)
    if not qkv.numel():
        return [gradient.zero_() for gradient in gradients]
    qkv, dout = _aligned(qkv), _aligned(dout)
    grid = _launch(qkv, bias, segment_ids, backward=True)
    frames, heads = qkv.shape[1], qkv.shape[4]
    partial = None
    if needs[1] and bias is not None:
        partial = qkv.new_empty((grid.groups, grid.splits, heads, frames, frames), dtype=torch.float32)
    dqkv = gradients[0] if needs[0] else None
    arguments = (input_arguments(qkv, bias, segment_ids), grid.groups, grid.splits)
    launch("temporal_attention_bwd", qkv.device, dout.data_ptr(), *arguments, pointer(dqkv), pointer(partial))
    if partial is not None and bias is not None:
        # The second stage: PyTorch adds the planes up in a fixed order.
        gradients[1] = (partial.sum(1) if bias.dim() == 4 else partial.sum((0, 1))).view_as(bias)
    return gradients


def _aligned(tensor: Tensor) -> Tensor:
    """A tensor at an address of 16 bytes: a view may begin anywhere."""
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def _launch(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, backward: bool) -> CudaLaunch:
    batch, frames, pixels, _, heads, width = qkv.shape
    # Samples that share bias and segments are one group.
    groups = batch if segment_ids is not None or (bias is not None and bias.dim() == 4) else 1
    sequences = batch // groups * pixels
    sizes = (groups, sequences, frames, heads, width)
    return cuda_launch(*sizes, qkv.element_size(), sm_count(qkv.device), backward)


def input_arguments(qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None) -> tuple[int, ...]:
    """TemporalAttentionArgs of csrc/bindings.cpp."""
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

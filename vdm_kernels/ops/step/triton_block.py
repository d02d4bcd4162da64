"""Where a block of a step kernel lies, and on which device it is launched."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def block_bounds(sample, block, n, groups, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """(group, base, limit): a block's first group, its first element in the tensor, how many the sample has from there.

    With VECTOR, n is a multiple of 4; base and limit are written as such, which lets the compiler use vector accesses.
    """
    group = tl.cast(block, tl.int64) * BLOCK
    if VECTOR:
        return group, (sample.to(tl.int64) * groups + group) * 4, (groups - group) * 4
    else:
        return group, sample.to(tl.int64) * n + group * 4, n - group * 4


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current CUDA device: makes it that of `x`."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def unsupported_dtype(*tensors: Tensor | None) -> str | None:
    """Why the step kernels cannot take one of these tensors; None where they can."""
    for tensor in tensors:
        if tensor is not None and tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"has no kernel for {tensor.dtype}"
    return None

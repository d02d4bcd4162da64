"""`temporal_attention_block` on a GPU: the reference, whose attention runs on a backend of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vdm_kernels.op import use_backend
from vdm_kernels.ops.temporal_attention_block import reference


def like_qkv(x: Tensor, heads: int) -> Tensor:
    """The qkv of no pixels: by it `temporal_attention` says whether it supports the call."""
    return torch.empty(
        (x.shape[0], x.shape[2], 0, 3, heads, x.shape[1] // heads), dtype=x.dtype, device=x.device
    )


def composed(backend: str, *args: Any) -> Tensor:
    """The block, with attention by `backend`."""
    with use_backend(backend):
        return reference.temporal_attention_block(*args)


def composed_bwd(backend: str, dout: Tensor, *args: Any) -> list[Tensor]:
    """The gradients of `composed`, which computes the block again."""
    with use_backend(backend):
        return reference.temporal_attention_block_bwd(dout, *args)

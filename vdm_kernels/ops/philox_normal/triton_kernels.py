"""`philox_normal` on Triton: one Philox counter and four normals to a thread, written once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.ops.step.launch import GROUPS_PER_BLOCK, NUM_WARPS, sm_count, step_launch
from vdm_kernels.ops.step.triton_block import block_bounds, on_device
from vdm_kernels.ops.step.triton_noise import normal4


@triton.jit
def philox_normal_kernel(
    out_ptr, seed_ptr, draw_ptr, n, groups, blocks, splits, VECTOR: tl.constexpr, BLOCK: tl.constexpr
):
    sample = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    seed = tl.load(seed_ptr + sample)
    draw = tl.load(draw_ptr)
    lanes = tl.arange(0, 4 * BLOCK)
    for block in range(split, blocks, splits):
        group, base, limit = block_bounds(sample, block, n, groups, BLOCK, VECTOR)
        normal = normal4(group + tl.arange(0, BLOCK), seed, draw)
        tl.store(out_ptr + base + lanes, normal.to(out_ptr.dtype.element_ty), mask=lanes < limit)


def philox_normal(shape: Sequence[int], seed: Tensor, draw: Tensor, dtype: torch.dtype) -> Tensor:
    """See `vdm_kernels.philox_normal`; `draw` is an int64 tensor of one element on seed's device."""
    out = torch.empty(list(shape), dtype=dtype, device=seed.device)
    if out.numel() == 0:
        return out
    n = math.prod(shape[1:])
    launch = step_launch(shape[0], n, sm_count(out.device))
    with on_device(out):
        philox_normal_kernel[(launch.programs,)](
            out,
            seed,
            draw,
            n,
            launch.groups,
            launch.blocks,
            launch.splits,
            VECTOR=n % 4 == 0,
            BLOCK=GROUPS_PER_BLOCK,
            num_warps=NUM_WARPS,
        )
    return out


def supports_philox_normal(
    shape: Sequence[int], seed: Tensor, draw: Tensor, dtype: torch.dtype
) -> str | None:
    """None, or why this call cannot run."""
    return None if dtype in (torch.float32, torch.bfloat16, torch.float16) else f"has no kernel for {dtype}"

"""`q_sample` on Triton: x is read once, z and eps are written once, the noise is made in registers."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.ops.step.launch import GROUPS_PER_BLOCK, NUM_WARPS, sm_count, step_launch
from vdm_kernels.ops.step.triton_block import block_bounds, on_device, unsupported_dtype
from vdm_kernels.ops.step.triton_coefficients import alpha_squared, sigma_squared
from vdm_kernels.ops.step.triton_noise import normal4


@triton.jit
def q_sample_kernel(
    x_ptr,
    z_ptr,
    eps_ptr,
    logsnr_ptr,
    seed_ptr,
    draw_ptr,
    n,
    groups,
    blocks,
    splits,
    VARIANCE_PRESERVING: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    logsnr = tl.load(logsnr_ptr + sample)
    alpha = tl.sqrt_rn(alpha_squared(logsnr, VARIANCE_PRESERVING))
    sigma = tl.sqrt_rn(sigma_squared(logsnr, VARIANCE_PRESERVING))
    seed = tl.load(seed_ptr + sample)
    draw = tl.load(draw_ptr)
    lanes = tl.arange(0, 4 * BLOCK)
    for block in range(split, blocks, splits):
        group, base, limit = block_bounds(sample, block, n, groups, BLOCK, VECTOR)
        mask = lanes < limit
        x = tl.load(x_ptr + base + lanes, mask=mask).to(tl.float32)
        eps = normal4(group + tl.arange(0, BLOCK), seed, draw)
        z = alpha * x + sigma * eps
        tl.store(z_ptr + base + lanes, z.to(z_ptr.dtype.element_ty), mask=mask)
        tl.store(eps_ptr + base + lanes, eps.to(eps_ptr.dtype.element_ty), mask=mask)


def q_sample(
    x: Tensor, logsnr: Tensor, seed: Tensor, draw: Tensor, variance_preserving: bool
) -> tuple[Tensor, Tensor]:
    """See `vdm_kernels.q_sample`; `x` is contiguous, `draw` an int64 tensor of one element."""
    z, eps = torch.empty_like(x), torch.empty_like(x)
    if x.numel() == 0:
        return z, eps
    n = x.numel() // x.shape[0]
    launch = step_launch(x.shape[0], n, sm_count(x.device))
    with on_device(x):
        q_sample_kernel[(launch.programs,)](
            x,
            z,
            eps,
            logsnr,
            seed,
            draw,
            n,
            launch.groups,
            launch.blocks,
            launch.splits,
            VARIANCE_PRESERVING=variance_preserving,
            VECTOR=n % 4 == 0,
            BLOCK=GROUPS_PER_BLOCK,
            num_warps=NUM_WARPS,
        )
    return z, eps


def supports_q_sample(x: Tensor, *args: Any) -> str | None:
    """None, or why this call cannot run."""
    return unsupported_dtype(x)

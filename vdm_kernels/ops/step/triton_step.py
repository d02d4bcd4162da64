"""The forward and backward Triton kernels of ancestral_step, ddim_step and langevin_step.

Tiling: a block is 128 groups of four consecutive elements, one group to a thread (one Philox counter, one vector
access of 16 bytes for float32 and 8 for the 16-bit types); programs walk the blocks of one sample (see launch.py).
Traffic: z, prediction and uncond are read once and z_s is written once; every per-sample scalar comes from device
memory, so that a captured CUDA graph replays the step for new times, seeds and draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.ops.step.launch import (
    BACKWARD_PROGRAMS_PER_SM,
    GROUPS_PER_BLOCK,
    NUM_WARPS,
    sm_count,
    step_launch,
)
from vdm_kernels.ops.step.triton_block import block_bounds, on_device
from vdm_kernels.ops.step.triton_coefficients import prediction_coefficients, step_coefficients
from vdm_kernels.ops.step.triton_noise import normal4


@triton.jit
def effective_threshold(threshold_ptr):
    """s' = max(s, 1), NaN where s is."""
    threshold = tl.load(threshold_ptr)
    return tl.where(threshold < 1.0, 1.0, threshold)


@triton.jit
def step_kernel(
    z_ptr,
    prediction_ptr,
    uncond_ptr,
    out_ptr,
    logsnr_t_ptr,
    logsnr_s_ptr,
    weight_ptr,
    threshold_ptr,
    seed_ptr,
    draw_ptr,
    n,
    groups,
    blocks,
    splits,
    strength,
    RULE: tl.constexpr,
    PARAMETERIZATION: tl.constexpr,
    GUIDED: tl.constexpr,
    THRESHOLDED: tl.constexpr,
    NOISY: tl.constexpr,
    VARIANCE_PRESERVING: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    logsnr_t = tl.load(logsnr_t_ptr + sample)
    logsnr_s = tl.load(logsnr_s_ptr + sample)
    a, b, c = step_coefficients(logsnr_t, logsnr_s, strength, RULE, VARIANCE_PRESERVING)
    p, r = prediction_coefficients(logsnr_t, PARAMETERIZATION, VARIANCE_PRESERVING)
    if GUIDED:
        weight = tl.load(weight_ptr + sample)
    if THRESHOLDED:
        limit_x = effective_threshold(threshold_ptr + sample)
        b = b / limit_x
    if NOISY:
        seed = tl.load(seed_ptr + sample)
        draw = tl.load(draw_ptr)
    lanes = tl.arange(0, 4 * BLOCK)
    for block in range(split, blocks, splits):
        group, base, limit = block_bounds(sample, block, n, groups, BLOCK, VECTOR)
        mask = lanes < limit
        z = tl.load(z_ptr + base + lanes, mask=mask).to(tl.float32)
        prediction = tl.load(prediction_ptr + base + lanes, mask=mask).to(tl.float32)
        if GUIDED:
            uncond = tl.load(uncond_ptr + base + lanes, mask=mask).to(tl.float32)
            prediction = (1.0 + weight) * prediction - weight * uncond
        x = p * z + r * prediction
        if THRESHOLDED:
            x = tl.where(x > limit_x, limit_x, tl.where(x < -limit_x, -limit_x, x))
        z_s = a * z + b * x
        if NOISY:
            z_s += c * normal4(group + tl.arange(0, BLOCK), seed, draw)
        tl.store(out_ptr + base + lanes, z_s.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def step_bwd_kernel(
    dout_ptr,
    z_ptr,
    prediction_ptr,
    uncond_ptr,
    dz_ptr,
    dprediction_ptr,
    duncond_ptr,
    logsnr_t_ptr,
    logsnr_s_ptr,
    weight_ptr,
    threshold_ptr,
    n,
    groups,
    blocks,
    splits,
    strength,
    RULE: tl.constexpr,
    PARAMETERIZATION: tl.constexpr,
    GUIDED: tl.constexpr,
    THRESHOLDED: tl.constexpr,
    VARIANCE_PRESERVING: tl.constexpr,
    NEEDS_Z: tl.constexpr,
    NEEDS_PREDICTION: tl.constexpr,
    NEEDS_UNCOND: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dz = a dout + p dx, dprediction = (1 + w) r dx, duncond = -w r dx, dx = b / s' dout where |x̂| <= s', else 0.

    z, prediction and uncond are read only where there is a threshold.
    """
    sample = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    logsnr_t = tl.load(logsnr_t_ptr + sample)
    logsnr_s = tl.load(logsnr_s_ptr + sample)
    a, b, _ = step_coefficients(logsnr_t, logsnr_s, strength, RULE, VARIANCE_PRESERVING)
    p, r = prediction_coefficients(logsnr_t, PARAMETERIZATION, VARIANCE_PRESERVING)
    if GUIDED:
        weight = tl.load(weight_ptr + sample)
    if THRESHOLDED:
        limit_x = effective_threshold(threshold_ptr + sample)
        b = b / limit_x
    lanes = tl.arange(0, 4 * BLOCK)
    for block in range(split, blocks, splits):
        _group, base, limit = block_bounds(sample, block, n, groups, BLOCK, VECTOR)
        mask = lanes < limit
        dout = tl.load(dout_ptr + base + lanes, mask=mask).to(tl.float32)
        dx = b * dout
        if THRESHOLDED:
            z = tl.load(z_ptr + base + lanes, mask=mask).to(tl.float32)
            prediction = tl.load(prediction_ptr + base + lanes, mask=mask).to(tl.float32)
            if GUIDED:
                uncond = tl.load(uncond_ptr + base + lanes, mask=mask).to(tl.float32)
                prediction = (1.0 + weight) * prediction - weight * uncond
            x = p * z + r * prediction
            dx = tl.where(tl.abs(x) <= limit_x, dx, 0.0)
        if NEEDS_Z:
            tl.store(dz_ptr + base + lanes, (a * dout + p * dx).to(dz_ptr.dtype.element_ty), mask=mask)
        dprediction = r * dx
        if NEEDS_UNCOND:
            duncond = -weight * dprediction
            tl.store(duncond_ptr + base + lanes, duncond.to(duncond_ptr.dtype.element_ty), mask=mask)
        if NEEDS_PREDICTION:
            if GUIDED:
                dprediction = (1.0 + weight) * dprediction
            tl.store(
                dprediction_ptr + base + lanes, dprediction.to(dprediction_ptr.dtype.element_ty), mask=mask
            )


def triton_step(
    rule: str,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    strength: float,
    noisy: bool,
    variance_preserving: bool,
) -> Tensor:
    """Runs `step_kernel` by `rule` ("ancestral", "ddim" or "langevin" with its strength); contiguous inputs."""
    out = torch.empty_like(z)
    if z.numel() == 0:
        return out
    n = z.numel() // z.shape[0]
    launch = step_launch(z.shape[0], n, sm_count(z.device))
    with on_device(z):
        step_kernel[(launch.programs,)](
            z,
            prediction,
            uncond,
            out,
            logsnr_t,
            logsnr_s,
            guidance_weight,
            threshold,
            seed,
            draw,
            n,
            launch.groups,
            launch.blocks,
            launch.splits,
            strength,
            RULE=rule,
            PARAMETERIZATION=parameterization,
            GUIDED=uncond is not None and guidance_weight is not None,
            THRESHOLDED=threshold is not None,
            NOISY=noisy,
            VARIANCE_PRESERVING=variance_preserving,
            VECTOR=n % 4 == 0,
            BLOCK=GROUPS_PER_BLOCK,
            num_warps=NUM_WARPS,
        )
    return out


def triton_step_bwd(
    rule: str,
    dout: Tensor,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    parameterization: str,
    strength: float,
    variance_preserving: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (z, prediction, uncond) by `step_bwd_kernel`; empty where `needs` is False."""
    guided = uncond is not None and guidance_weight is not None
    needs_z, needs_prediction, needs_uncond = needs[0], needs[1], needs[2] and guided
    dz = torch.empty_like(z) if needs_z else z.new_empty(0)
    dprediction = torch.empty_like(prediction) if needs_prediction else prediction.new_empty(0)
    duncond = torch.empty_like(prediction) if needs_uncond else prediction.new_empty(0)
    if z.numel() == 0 or not (needs_z or needs_prediction or needs_uncond):
        return [dz, dprediction, duncond]
    n = z.numel() // z.shape[0]
    launch = step_launch(z.shape[0], n, sm_count(z.device), BACKWARD_PROGRAMS_PER_SM)
    with on_device(z):
        step_bwd_kernel[(launch.programs,)](
            dout,
            z,
            prediction,
            uncond,
            dz,
            dprediction,
            duncond,
            logsnr_t,
            logsnr_s,
            guidance_weight,
            threshold,
            n,
            launch.groups,
            launch.blocks,
            launch.splits,
            strength,
            RULE=rule,
            PARAMETERIZATION=parameterization,
            GUIDED=guided,
            THRESHOLDED=threshold is not None,
            VARIANCE_PRESERVING=variance_preserving,
            NEEDS_Z=needs_z,
            NEEDS_PREDICTION=needs_prediction,
            NEEDS_UNCOND=needs_uncond,
            VECTOR=n % 4 == 0,
            BLOCK=GROUPS_PER_BLOCK,
            num_warps=NUM_WARPS,
        )
    return [dz, dprediction, duncond]

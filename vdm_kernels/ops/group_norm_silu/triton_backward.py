"""The backward pass of a GroupNorm with SiLU on Triton, from x and its statistics alone.

With u = (x - center) gain + offset recomputed, dz = dout silu'(u), and the sums over the pixels of an image and channel

    S1 = sum dz,  S2 = sum dz x_hat,                            x_hat = (x - mean) rstd
    dshift = S1,  dscale = weight S2 + bias S1                   summed over frames for a modulation per row
    dweight = sum_n (1 + scale) S2,  dbias = sum_n (1 + scale) S1
    dx = gain dz - k1 - (x - mean) k2,   k1 = mean_group(gain dz),  k2 = rstd mean_group(gain dz x_hat)

where mean_group is over the channels and pixels (and frames) that share statistics, and so a sum of S1 or S2.

Tiling: channel_statistics/launch.py. Chunks make partial sums, which one program per image and block of channels adds
up in a fixed order; dx is a second pass over x and dout, walked backwards as in the forward pass. No atomics.

Traffic: x and dout are read twice, and dx is written once. 8 x 16 x 64 x 64 x 64 in bfloat16 (67 MB): 78 us at
4.3 TB/s, less what L2 keeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.op import fake_gradients
from vdm_kernels.ops.channel_statistics.launch import (
    BACKWARD_PROGRAMS_PER_SM,
    MAX_CHUNKS,
    NUM_WARPS,
    SUM_CHANNELS,
    image_launch,
    next_power_of_2,
)
from vdm_kernels.ops.channel_statistics.triton_kernels import image_shape, locate_chunk
from vdm_kernels.ops.step.launch import sm_count
from vdm_kernels.ops.step.triton_block import on_device

_MAX_BLOCK = 1024
_BLOCK_FRAMES = 16
_BLOCK_CHANNELS = 32


@triton.jit
def silu_gradient(dout, u):
    """dout silu'(u)."""
    sigmoid = tl.sigmoid(u)
    return dout * (sigmoid * (1.0 + u * (1.0 - sigmoid)))


@triton.jit
def gradient_sums_kernel(
    dout_ptr,
    x_ptr,
    affine_ptr,
    s1_ptr,
    s2_ptr,
    plane,
    pixels,
    channels,
    all_channels,
    first,
    out_channels,
    out_first,
    chunk_pixels,
    chunks,
    channel_blocks,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """S1 and S2 of every chunk and channel of `x`, to channels `out_first`... of (image, chunk, out_channels).

    `dout` and the affine have `all_channels`, of which `x` has those from `first`.
    """
    image, chunk, begin, end, lanes, inside = locate_chunk(
        tl.program_id(0), pixels, channels, chunk_pixels, chunks, channel_blocks, BLOCK_CHANNELS
    )
    rows = tl.arange(0, BLOCK_PIXELS)
    offsets = rows[:, None] * channels + lanes[None, :]
    all_offsets = rows[:, None] * all_channels + first + lanes[None, :]
    affine = affine_ptr + image * all_channels + first + lanes
    center = tl.load(affine, mask=inside, other=0.0)[None, :]
    gain = tl.load(affine + plane, mask=inside, other=0.0)[None, :]
    offset = tl.load(affine + 2 * plane, mask=inside, other=0.0)[None, :]
    s1 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    s2 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for start in range(begin, end, BLOCK_PIXELS):
        mask = (rows < end - start)[:, None] & inside[None, :]
        place = image * pixels + start
        x = tl.load(x_ptr + place * channels + offsets, mask=mask, other=0.0).to(tl.float32) - center
        dout = tl.load(dout_ptr + place * all_channels + all_offsets, mask=mask, other=0.0).to(tl.float32)
        dz = silu_gradient(dout, x * gain + offset)
        s1 += dz
        s2 += dz * x
    rstd = tl.load(affine + 3 * plane, mask=inside, other=0.0)
    rest = tl.load(affine + 4 * plane, mask=inside, other=0.0)
    sum1 = tl.sum(s1, 0)
    out = (image * chunks + chunk) * out_channels + out_first + lanes
    tl.store(s1_ptr + out, sum1, mask=inside)
    tl.store(s2_ptr + out, (tl.sum(s2, 0) - rest * sum1) * rstd, mask=inside)


@triton.jit
def sum_terms_kernel(
    a_ptr,
    b_ptr,
    a_out_ptr,
    b_out_ptr,
    terms,
    channels,
    out_channels,
    first,
    channel_blocks,
    BLOCK_TERMS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Sums of two (row, terms, channels) tensors over their terms, to channels `first`... of (row, out_channels)."""
    row = (tl.program_id(0) // channel_blocks).to(tl.int64)
    lanes = tl.program_id(0) % channel_blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = lanes < channels
    terms_here = tl.arange(0, BLOCK_TERMS)
    a = tl.zeros((BLOCK_TERMS, BLOCK_CHANNELS), tl.float32)
    b = tl.zeros((BLOCK_TERMS, BLOCK_CHANNELS), tl.float32)
    for start in range(0, terms, BLOCK_TERMS):
        term = start + terms_here
        mask = (term < terms)[:, None] & inside[None, :]
        place = (row * terms + term)[:, None] * channels + lanes[None, :]
        a += tl.load(a_ptr + place, mask=mask, other=0.0)
        b += tl.load(b_ptr + place, mask=mask, other=0.0)
    out = row * out_channels + first + lanes
    tl.store(a_out_ptr + out, tl.sum(a, 0).to(a_out_ptr.dtype.element_ty), mask=inside)
    tl.store(b_out_ptr + out, tl.sum(b, 0).to(b_out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def group_means_kernel(
    s1_ptr,
    s2_ptr,
    affine_ptr,
    k1_ptr,
    k2_ptr,
    plane,
    channels,
    num_groups,
    group_channels,
    per_element,
    IMAGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """k1, less what (x - center) k2 has too much, and k2 for one group of IMAGES consecutive images."""
    row = (tl.program_id(0) // num_groups).to(tl.int64) * IMAGES
    start = tl.program_id(0) % num_groups * group_channels
    count = IMAGES * group_channels
    lanes = tl.arange(0, BLOCK)
    sum1 = tl.zeros((BLOCK,), tl.float32)
    sum2 = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        i = first + lanes
        place = (row + i // group_channels) * channels + start + i % group_channels
        gain = tl.load(affine_ptr + plane + place, mask=i < count, other=0.0)
        sum1 += gain * tl.load(s1_ptr + place, mask=i < count, other=0.0)
        sum2 += gain * tl.load(s2_ptr + place, mask=i < count, other=0.0)
    rstd = tl.load(affine_ptr + 3 * plane + row * channels + start)
    rest = tl.load(affine_ptr + 4 * plane + row * channels + start)
    k2 = tl.sum(sum2, 0) * per_element * rstd
    k1 = tl.sum(sum1, 0) * per_element - rest * k2
    for first in range(0, count, BLOCK):
        i = first + lanes
        place = (row + i // group_channels) * channels + start + i % group_channels
        every = tl.zeros((BLOCK,), tl.float32)
        tl.store(k1_ptr + place, every + k1, mask=i < count)
        tl.store(k2_ptr + place, every + k2, mask=i < count)


@triton.jit
def modulation_gradients_kernel(
    s1_ptr,
    s2_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    dweight_ptr,
    dbias_ptr,
    dscale_ptr,
    dshift_ptr,
    frames,
    channels,
    channel_blocks,
    SCALE_PER_FRAME: tl.constexpr,
    SHIFT_PER_FRAME: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """dscale and dshift where there are such, and one row's terms of dweight and dbias, (row, channels)."""
    row = (tl.program_id(0) // channel_blocks).to(tl.int64)
    lanes = tl.program_id(0) % channel_blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = lanes < channels
    weight = tl.load(weight_ptr + lanes, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + lanes, mask=inside, other=0.0).to(tl.float32)
    one_plus_scale = tl.full((BLOCK_CHANNELS,), 1.0, tl.float32)
    if scale_ptr is not None and not SCALE_PER_FRAME:
        one_plus_scale += tl.load(scale_ptr + row * channels + lanes, mask=inside, other=0.0).to(tl.float32)
    sum1 = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    sum2 = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    dweight = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    dbias = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    for start in range(0, frames, BLOCK_FRAMES):
        frame = start + tl.arange(0, BLOCK_FRAMES)
        mask = (frame < frames)[:, None] & inside[None, :]
        place = (row * frames + frame)[:, None] * channels + lanes[None, :]
        s1 = tl.load(s1_ptr + place, mask=mask, other=0.0)
        s2 = tl.load(s2_ptr + place, mask=mask, other=0.0)
        sum1 += tl.sum(s1, 0)
        sum2 += tl.sum(s2, 0)
        if SCALE_PER_FRAME:
            factor = 1.0 + tl.load(scale_ptr + place, mask=mask, other=0.0).to(tl.float32)
            dweight += tl.sum(factor * s2, 0)
            dbias += tl.sum(factor * s1, 0)
            if dscale_ptr is not None:
                dscale = weight[None, :] * s2 + bias[None, :] * s1
                tl.store(dscale_ptr + place, dscale.to(dscale_ptr.dtype.element_ty), mask=mask)
        if dshift_ptr is not None and SHIFT_PER_FRAME:
            tl.store(dshift_ptr + place, s1.to(dshift_ptr.dtype.element_ty), mask=mask)
    if not SCALE_PER_FRAME:
        dweight = one_plus_scale * sum2
        dbias = one_plus_scale * sum1
    out = row * channels + lanes
    tl.store(dweight_ptr + out, dweight, mask=inside)
    tl.store(dbias_ptr + out, dbias, mask=inside)
    if dscale_ptr is not None and not SCALE_PER_FRAME:
        dscale = weight * sum2 + bias * sum1
        tl.store(dscale_ptr + out, dscale.to(dscale_ptr.dtype.element_ty), mask=inside)
    if dshift_ptr is not None and not SHIFT_PER_FRAME:
        tl.store(dshift_ptr + out, sum1.to(dshift_ptr.dtype.element_ty), mask=inside)


@triton.jit
def input_gradient_kernel(
    dout_ptr,
    x_ptr,
    affine_ptr,
    k1_ptr,
    k2_ptr,
    dx_ptr,
    plane,
    pixels,
    channels,
    all_channels,
    first,
    chunk_pixels,
    chunks,
    channel_blocks,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """dx = gain dz - k1 - (x - center) k2 for an `x` that has the channels from `first` of `dout`."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    image, _chunk, begin, end, lanes, inside = locate_chunk(
        program, pixels, channels, chunk_pixels, chunks, channel_blocks, BLOCK_CHANNELS
    )
    rows = tl.arange(0, BLOCK_PIXELS)
    offsets = rows[:, None] * channels + lanes[None, :]
    all_offsets = rows[:, None] * all_channels + first + lanes[None, :]
    column = image * all_channels + first + lanes
    center = tl.load(affine_ptr + column, mask=inside, other=0.0)[None, :]
    gain = tl.load(affine_ptr + plane + column, mask=inside, other=0.0)[None, :]
    offset = tl.load(affine_ptr + 2 * plane + column, mask=inside, other=0.0)[None, :]
    k1 = tl.load(k1_ptr + column, mask=inside, other=0.0)[None, :]
    k2 = tl.load(k2_ptr + column, mask=inside, other=0.0)[None, :]
    tiles = tl.cdiv(end - begin, BLOCK_PIXELS)
    for tile in range(tiles):
        start = begin + (tiles - 1 - tile) * BLOCK_PIXELS
        mask = (rows < end - start)[:, None] & inside[None, :]
        place = image * pixels + start
        x = tl.load(x_ptr + place * channels + offsets, mask=mask, other=0.0).to(tl.float32) - center
        dout = tl.load(dout_ptr + place * all_channels + all_offsets, mask=mask, other=0.0).to(tl.float32)
        dx = gain * silu_gradient(dout, x * gain + offset) - k1 - x * k2
        tl.store(dx_ptr + place * channels + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def group_norm_silu_gradients(
    dout: Tensor,
    x: Tensor,
    affine: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    x2: Tensor | None,
    num_groups: int,
    norm_scope: str,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (x, weight, bias, scale, shift, x2), empty where `needs` is False.

    Args:
        dout: gradient of the activation, channels-last with the channels of x and then of x2.
        affine: of `fold`.
    """
    gradients = fake_gradients(x, weight, bias, scale, shift, x2, needs=needs)
    if not x.numel():
        return [gradient.zero_() for gradient in gradients]
    parts = [(x, gradients[0], needs[0], 0)]
    if x2 is not None:
        parts.append((x2, gradients[5], needs[5], x.shape[1]))
    sums = torch.empty_like(affine[:2])
    for part, _, _, first in parts:
        _gradient_sums(dout, part, affine, sums, first)
    if needs[0] or needs[5]:
        means = _group_means(sums, affine, num_groups, norm_scope, x)
        for part, gradient, need, first in parts:
            if need:
                _input_gradient(dout, part, affine, means, gradient, first)
    if any(needs[1:5]):
        _affine_gradients(sums, weight, bias, scale, shift, gradients[1:5], needs[1:5])
    return gradients


def _gradient_sums(dout: Tensor, x: Tensor, affine: Tensor, sums: Tensor, first: int) -> None:
    images, pixels, channels = image_shape(x)
    all_channels = dout.shape[1]
    launch = image_launch(images, pixels, channels, sm_count(x.device), BACKWARD_PROGRAMS_PER_SM)
    whole = launch.chunks == 1
    partial = sums if whole else sums.new_empty(2, images, launch.chunks, channels)
    with on_device(x):
        gradient_sums_kernel[(launch.programs,)](
            dout,
            x,
            affine,
            partial[0],
            partial[1],
            affine[0].numel(),
            pixels,
            channels,
            all_channels,
            first,
            *((all_channels, first) if whole else (channels, 0)),
            launch.chunk_pixels,
            launch.chunks,
            launch.channel_blocks,
            BLOCK_PIXELS=launch.block_pixels,
            BLOCK_CHANNELS=launch.block_channels,
            num_warps=NUM_WARPS,
        )
    if not whole:
        _sum_terms(partial, sums[0], sums[1], all_channels, first)


def _sum_terms(terms: Tensor, a_out: Tensor, b_out: Tensor, out_channels: int, first: int) -> None:
    """Sums of (2, rows, terms, channels) over the terms."""
    _, rows, count, channels = terms.shape
    blocks = -(-channels // SUM_CHANNELS)
    with on_device(terms):
        sum_terms_kernel[(rows * blocks,)](
            terms[0],
            terms[1],
            a_out,
            b_out,
            count,
            channels,
            out_channels,
            first,
            blocks,
            BLOCK_TERMS=min(next_power_of_2(count), MAX_CHUNKS),
            BLOCK_CHANNELS=SUM_CHANNELS,
            num_warps=NUM_WARPS,
        )


def _group_means(sums: Tensor, affine: Tensor, num_groups: int, norm_scope: str, x: Tensor) -> Tensor:
    batch, frames, channels = affine.shape[1:]
    images = frames if norm_scope == "video" else 1
    group_channels = channels // num_groups
    block = min(next_power_of_2(images * group_channels), _MAX_BLOCK)
    means = torch.empty_like(sums)
    with on_device(affine):
        group_means_kernel[(batch * frames // images * num_groups,)](
            sums[0],
            sums[1],
            affine,
            means[0],
            means[1],
            affine[0].numel(),
            channels,
            num_groups,
            group_channels,
            1.0 / (images * group_channels * x.shape[3] * x.shape[4]),
            IMAGES=images,
            BLOCK=block,
            num_warps=max(1, block // 256),
        )
    return means


def _input_gradient(dout: Tensor, x: Tensor, affine: Tensor, means: Tensor, dx: Tensor, first: int) -> None:
    images, pixels, channels = image_shape(x)
    launch = image_launch(images, pixels, channels, sm_count(x.device), BACKWARD_PROGRAMS_PER_SM)
    with on_device(x):
        input_gradient_kernel[(launch.programs,)](
            dout,
            x,
            affine,
            means[0],
            means[1],
            dx,
            affine[0].numel(),
            pixels,
            channels,
            dout.shape[1],
            first,
            launch.chunk_pixels,
            launch.chunks,
            launch.channel_blocks,
            BLOCK_PIXELS=launch.block_pixels,
            BLOCK_CHANNELS=launch.block_channels,
            num_warps=NUM_WARPS,
        )


def _affine_gradients(
    sums: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    gradients: Sequence[Tensor],
    needs: Sequence[bool],
) -> None:
    _, batch, frames, channels = sums.shape
    dweight, dbias, dscale, dshift = gradients
    terms = sums.new_empty(2, 1, batch, channels)
    blocks = -(-channels // _BLOCK_CHANNELS)
    with on_device(sums):
        modulation_gradients_kernel[(batch * blocks,)](
            sums[0],
            sums[1],
            weight,
            bias,
            scale,
            terms[0],
            terms[1],
            dscale if scale is not None and needs[2] else None,
            dshift if shift is not None and needs[3] else None,
            frames,
            channels,
            blocks,
            SCALE_PER_FRAME=scale is not None and scale.dim() == 3,
            SHIFT_PER_FRAME=shift is not None and shift.dim() == 3,
            BLOCK_FRAMES=_BLOCK_FRAMES,
            BLOCK_CHANNELS=_BLOCK_CHANNELS,
            num_warps=NUM_WARPS,
        )
    if needs[0] or needs[1]:
        _sum_terms(
            terms,
            dweight if needs[0] else torch.empty_like(weight),
            dbias if needs[1] else torch.empty_like(bias),
            channels,
            0,
        )

"""`channel_statistics` on Triton, and how every kernel of the norms walks channels-last images.

Tiling: see launch.py. A program shifts the values of its chunk by the mean k of its first tile: sum (x - k)^2 is at
most (1 + tiles) times sum (x - mean)^2 whatever the data, and hardly more than it for most, so that float32 sums are
right where mean >> std. Elements are added up in the thread that reads them; threads are combined at the end of a
chunk, and chunks by a second kernel, in a fixed order (Chan et al. 1983): no atomics. Only the
sums with an origin are float64.

Traffic: x is read once. 8 x 16 x 64 x 64 x 64 in bfloat16 is 67 MB: 16 us at 4.3 TB/s. It takes 1024 programs of 16
tiles, one wave of 132 x 8; 1 x 64 x 1 x 256 x 256 takes 512 programs, four to a multiprocessor.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.ops.channel_statistics.launch import (
    NUM_WARPS,
    SUM_CHANNELS,
    image_launch,
    next_power_of_2,
)
from vdm_kernels.ops.step.launch import sm_count
from vdm_kernels.ops.step.triton_block import on_device, unsupported_dtype


@triton.jit
def locate_chunk(
    program, pixels, channels, chunk_pixels, chunks, channel_blocks, BLOCK_CHANNELS: tl.constexpr
):
    """(image, chunk, its first pixel, the pixel after its last, channels, which of these exist)."""
    image = (program // (chunks * channel_blocks)).to(tl.int64)
    chunk = program // channel_blocks % chunks
    lanes = program % channel_blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    begin = chunk * chunk_pixels
    return image, chunk, begin, tl.minimum(begin + chunk_pixels, pixels), lanes, lanes < channels


@triton.jit
def chunk_statistics_kernel(
    x_ptr,
    out_ptr,
    pixels,
    channels,
    out_channels,
    first,
    chunk_pixels,
    chunks,
    channel_blocks,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The mean and variance of every chunk and channel, to channels `first`... of (image, chunk, out_channels, 2)."""
    image, chunk, begin, end, lanes, inside = locate_chunk(
        tl.program_id(0), pixels, channels, chunk_pixels, chunks, channel_blocks, BLOCK_CHANNELS
    )
    rows = tl.arange(0, BLOCK_PIXELS)
    offsets = rows[:, None] * channels + lanes[None, :]
    tile = x_ptr + (image * pixels + begin) * channels + offsets
    mask = (rows < end - begin)[:, None] & inside[None, :]
    head = tl.minimum(end - begin, BLOCK_PIXELS).to(tl.float32)
    shift = tl.sum(tl.load(tile, mask=mask, other=0.0).to(tl.float32), 0) / head
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    squares = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for start in range(begin, end, BLOCK_PIXELS):
        tile = x_ptr + (image * pixels + start) * channels + offsets
        mask = (rows < end - start)[:, None] & inside[None, :]
        x = tl.load(tile, mask=mask, other=0.0).to(tl.float32)
        x = tl.where(mask, x - shift[None, :], 0.0)
        sums += x
        squares += x * x
    count = (end - begin).to(tl.float32)
    mean = tl.sum(sums, 0) / count
    variance = tl.maximum(tl.sum(squares, 0) / count - mean * mean, 0.0)
    out = out_ptr + ((image * chunks + chunk) * out_channels + first + lanes) * 2
    tl.store(out, shift.to(tl.float64) + mean, mask=inside)
    tl.store(out + 1, variance, mask=inside)


@triton.jit
def combine_statistics_kernel(
    partial_ptr,
    out_ptr,
    pixels,
    channels,
    out_channels,
    first,
    chunk_pixels,
    chunks,
    channel_blocks,
    BLOCK_CHUNKS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The mean and variance of all chunks of an image, to channels `first`... of (image, out_channels, 2)."""
    image = (tl.program_id(0) // channel_blocks).to(tl.int64)
    lanes = tl.program_id(0) % channel_blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = lanes < channels
    chunk = tl.arange(0, BLOCK_CHUNKS)
    size = tl.where(chunk < chunks, tl.minimum(pixels - chunk * chunk_pixels, chunk_pixels), 0)
    share = (size.to(tl.float32) / pixels)[:, None]
    partial = partial_ptr + (image * chunks * channels + lanes) * 2
    origin = tl.load(partial, mask=inside, other=0.0)
    offsets = partial[None, :] + chunk[:, None] * channels * 2
    mask = (chunk < chunks)[:, None] & inside[None, :]
    # From here on means are relative to the first chunk's.
    means = (tl.load(offsets, mask=mask, other=0.0) - origin[None, :]).to(tl.float32)
    variances = tl.load(offsets + 1, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(share * means, 0)
    rest = means - mean[None, :]
    variance = tl.sum(share * (variances + rest * rest), 0)
    out = out_ptr + (image * out_channels + first + lanes) * 2
    tl.store(out, origin + mean, mask=inside)
    tl.store(out + 1, variance, mask=inside)


def image_shape(x: Tensor) -> tuple[int, int, int]:
    """(N, P, C) of a video: B * F images, H * W pixels, channels."""
    batch, channels, frames, height, width = x.shape
    return batch * frames, height * width, channels


def write_statistics(x: Tensor, out: Tensor, first: int = 0) -> None:
    """Writes the statistics of `x` to channels `first`, ... of `out` (B, F, C, 2); NaN where there are no pixels."""
    if not x.numel():
        out.fill_(math.nan)
        return
    images, pixels, channels = image_shape(x)
    launch = image_launch(images, pixels, channels, sm_count(x.device))
    to_out = (out.shape[2], first)
    whole = launch.chunks == 1
    partial = out if whole else out.new_empty(images, launch.chunks, channels, 2)
    chunking = (launch.chunk_pixels, launch.chunks)
    with on_device(x):
        chunk_statistics_kernel[(launch.programs,)](
            x,
            partial,
            pixels,
            channels,
            *(to_out if whole else (channels, 0)),
            *chunking,
            launch.channel_blocks,
            BLOCK_PIXELS=launch.block_pixels,
            BLOCK_CHANNELS=launch.block_channels,
            num_warps=NUM_WARPS,
        )
        if not whole:
            blocks = -(-channels // SUM_CHANNELS)
            combine_statistics_kernel[(images * blocks,)](
                partial,
                out,
                pixels,
                channels,
                *to_out,
                *chunking,
                blocks,
                BLOCK_CHUNKS=next_power_of_2(launch.chunks),
                BLOCK_CHANNELS=SUM_CHANNELS,
                num_warps=NUM_WARPS,
            )


def channel_statistics(x: Tensor) -> Tensor:
    """See `vdm_kernels.channel_statistics`; `x` is channels-last float32, bfloat16 or float16."""
    batch, channels, frames = x.shape[:3]
    out = torch.empty(batch, frames, channels, 2, dtype=torch.float64, device=x.device)
    write_statistics(x, out)
    return out


def supports_channel_statistics(x: Tensor) -> str | None:
    """None, or why this call cannot run."""
    return unsupported_dtype(x)

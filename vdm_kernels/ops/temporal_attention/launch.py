"""Launch arithmetic of the Triton kernels that hold all frames of a pixel at once, in plain, tested Python.

A tile is `pixels` x `frames` rows of one head, `frames` padded to a power of two: four pixels of up to 16 frames, or
one pixel of more. A program has one head and walks the tiles split, split + splits, ... of a group of sequences: of all
there are, or, where bias or segments differ from sample to sample, of one sample. The grid has one axis; neighbouring
programs have neighbouring heads of the same pixels, as memory has.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdm_kernels.ops.attention.launch import MIN_BLOCK, split_columns
from vdm_kernels.ops.channel_statistics.launch import next_power_of_2

PIXELS = 4
# What registers hold at once of programs of 16 frames and 128 threads with heads of 32 numbers.
FORWARD_PROGRAMS_PER_SM = 7
BACKWARD_PROGRAMS_PER_SM = 4


@dataclass(frozen=True)
class PackedLaunch:
    """`programs` = groups x `splits` x heads programs that walk the `blocks` tiles of `group_pixels` sequences.

    `separate`: dqkv and dbias take a pass each, since together, or for odd widths, they need too many registers.
    """

    programs: int
    group_pixels: int
    splits: int
    blocks: int
    pixels: int
    frames: int
    num_warps: int
    num_stages: int
    separate: bool


def is_packed(frames: int, width: int, itemsize: int, wgmma: bool) -> bool:
    """Whether registers hold all frames of a pixel, forward and backward; else attention goes block by block."""
    if itemsize == 4:
        return frames <= 32 and width <= 64
    return frames <= (64 if wgmma or width <= 32 else 32)


def packed_launch(
    groups: int,
    group_pixels: int,
    frames: int,
    heads: int,
    width: int,
    itemsize: int,
    resident: int,
    wgmma: bool,
) -> PackedLaunch:
    """Splits the sequences of each group over programs so that `resident` programs are busy; see `split_columns`.

    A warp has one of four pixels, so that no softmax crosses warps; one pixel has four warps, or eight where four do
    not have the registers. Matrix units that read shared memory (`wgmma`) leave more of those; float32 leaves fewer.
    """
    block_frames = max(MIN_BLOCK, next_power_of_2(frames))
    if itemsize == 4 and width > 32:
        block_frames = 32  # with four warps to a pixel
    pixels = PIXELS if block_frames == MIN_BLOCK else 1
    blocks = -(-group_pixels // pixels)
    splits = split_columns(groups * heads, blocks, resident)
    full, single = block_frames == 64, itemsize == 4
    return PackedLaunch(
        programs=groups * heads * splits,
        group_pixels=group_pixels,
        splits=splits,
        blocks=blocks,
        pixels=pixels,
        frames=block_frames,
        num_warps=8 if full and (width > 32 or not wgmma) else 4,
        num_stages=1 if single or (full and not wgmma) or (pixels > 1 and width > 64) else 2,
        separate=width % 16 != 0 or (pixels == 1 and (single or (full and width > 64))),
    )


# Where temporal attention runs on a GPU: CUDA C++, one warp to 16 frames of a pixel and head, has up to this many
# frames by the size of an element in bytes, and heads of whole accesses of 16 bytes; Triton has the rest.
CUDA_MAX_FRAMES = {2: 64, 4: 32}
CUDA_MAX_WIDTH = 128
CUDA_MAX_SEQUENCES = 2**31 - 1

# The warps that a multiprocessor holds at once, by (size of an element, backward): of up to 16 frames and heads of up
# to 32, 64 and 128 numbers; of up to 32 frames; of up to 64. temporal_attention_cuda.cuh has the same table.
_CUDA_WARPS_PER_SM = {
    (2, False): (24, 16, 12, 16, 12),
    (2, True): (16, 12, 12, 12, 8),
    (4, False): (12, 12, 12, 12),
    (4, True): (8, 12, 12, 8),
}


@dataclass(frozen=True)
class CudaLaunch:
    """`groups` x `splits` x heads teams, of a warp to 16 frames, that walk the sequences of their group."""

    groups: int
    splits: int


def cuda_launch(
    groups: int,
    group_sequences: int,
    frames: int,
    heads: int,
    width: int,
    itemsize: int,
    sm_count: int,
    backward: bool,
) -> CudaLaunch:
    """Splits the sequences of each group over teams so that the device is full; see `split_columns`."""
    column = (width > 32) + (width > 64) if frames <= 16 else 3 + (frames > 32)
    warps = 1 if frames <= 16 else 2 if frames <= 32 else 4
    resident = sm_count * _CUDA_WARPS_PER_SM[itemsize, backward][column] // warps
    return CudaLaunch(groups, split_columns(groups * heads, group_sequences, resident))

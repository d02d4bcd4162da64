"""Launch arithmetic of the fused Triton kernel, in plain, tested Python.

A tile is `pixels` x 16 tokens with all of their channels; a program walks the tiles split, split + splits, ... of a
group of sequences: of all there are, or, where bias or segments differ from sample to sample, of one sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdm_kernels.ops.attention.launch import split_columns

MAX_FRAMES = 16
MAX_CHANNELS = 128
MAX_WIDTH = 64
NUM_WARPS = 8
PROGRAMS_PER_SM = 1  # of up to 255 registers a thread


@dataclass(frozen=True)
class BlockLaunch:
    """`programs` = groups x `splits` programs that walk the `blocks` tiles of `group_pixels` sequences."""

    programs: int
    group_pixels: int
    splits: int
    blocks: int
    pixels: int


def is_fused(frames: int, channels: int, heads: int, itemsize: int) -> bool:
    """Whether one kernel has the whole block: of 16-bit types, whose tiles and sums fit in registers."""
    return (
        itemsize == 2 and frames <= MAX_FRAMES and channels <= MAX_CHANNELS and channels // heads <= MAX_WIDTH
    )


def block_launch(groups: int, group_pixels: int, channels: int, sm_count: int) -> BlockLaunch:
    """Splits the sequences of each group over programs so that the device is full; see `split_columns`."""
    pixels = 2 if channels > 64 else 4
    blocks = -(-group_pixels // pixels)
    splits = split_columns(groups, blocks, sm_count * PROGRAMS_PER_SM)
    return BlockLaunch(groups * splits, group_pixels, splits, blocks, pixels)

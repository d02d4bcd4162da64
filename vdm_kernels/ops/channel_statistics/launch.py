"""Launch arithmetic of the Triton kernels that walk channels-last images, in plain Python so that it is tested.

N images of P pixels and C channels are (N, P, C) in memory. A tile is block_pixels x block_channels elements, 16 to a
thread: whole rows of at most 64 channels, so that a warp reads 128 consecutive bytes or more and a thread 16 at a time.
A program walks the tiles of one chunk: consecutive pixels of one image in one block of channels. The grid has one axis;
neighbouring programs have neighbouring channels, then chunks, then images, as memory has.
"""

from __future__ import annotations

from dataclasses import dataclass

TILE = 2048
NUM_WARPS = 4
MAX_BLOCK_CHANNELS = 64
# A sector of memory is 32 bytes; blocks of channels that share none need no more than this many.
MIN_BLOCK_CHANNELS = 16
# What 65,536 registers hold at once of programs of 128 threads with 64 registers each (128 in the backward pass).
PROGRAMS_PER_SM = 8
BACKWARD_PROGRAMS_PER_SM = 4
# One program adds up the chunks of an image, in SUM_CHANNELS channels, and holds all of them in registers.
MAX_CHUNKS = 512
SUM_CHANNELS = 8
MAX_GRID = 2**31 - 1


@dataclass(frozen=True)
class ImageLaunch:
    """`programs` = images x `chunks` x `channel_blocks` programs, each with up to `chunk_pixels` pixels."""

    programs: int
    chunks: int
    chunk_pixels: int
    channel_blocks: int
    block_pixels: int
    block_channels: int


def next_power_of_2(n: int) -> int:
    """The least power of two that is n or more; n is positive."""
    return 1 << (n - 1).bit_length()


def channel_block(channels: int) -> int:
    """A power of two that divides `channels` where that makes whole sectors, else one that covers them with a mask."""
    divisor = channels & -channels
    covering = divisor if divisor >= MIN_BLOCK_CHANNELS else next_power_of_2(channels)
    return min(covering, MAX_BLOCK_CHANNELS)


def image_launch(
    images: int, pixels: int, channels: int, sm_count: int, programs_per_sm: int = PROGRAMS_PER_SM
) -> ImageLaunch:
    """Splits the pixels of each image into chunks so that the device is full.

    Where images and blocks of channels alone make up to a quarter of the resident programs, the grid is one wave, as
    full as whole tiles and MAX_CHUNKS let it be; else it is four waves or more, so that a partial last one costs
    little.
    """
    block_channels = channel_block(channels)
    block_pixels = min(TILE // block_channels, next_power_of_2(pixels))
    channel_blocks = -(-channels // block_channels)
    tiles = -(-pixels // block_pixels)
    resident, columns = sm_count * programs_per_sm, images * channel_blocks
    wanted = resident // columns if 4 * columns <= resident else -(-4 * resident // columns)
    chunk_tiles = -(-tiles // min(wanted, MAX_CHUNKS))
    chunks = -(-tiles // chunk_tiles)
    programs = columns * chunks
    if programs > MAX_GRID:
        raise ValueError(f"image_launch: B * F must be at most {MAX_GRID // channel_blocks}, got {images}")
    chunk_pixels = chunk_tiles * block_pixels
    return ImageLaunch(programs, chunks, chunk_pixels, channel_blocks, block_pixels, block_channels)

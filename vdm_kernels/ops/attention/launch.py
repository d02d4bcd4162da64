"""Launch arithmetic that the Triton kernels of attention share, in plain Python so that it is tested at every size."""

from __future__ import annotations

from dataclasses import dataclass

from vdm_kernels.ops.channel_statistics.launch import next_power_of_2

MIN_BLOCK = 16  # of a matrix unit
MAX_WIDTH = 128
MAX_GRID = 2**31 - 1
# Programs of the bias gradient that a multiprocessor holds at once.
PROGRAMS_PER_SM = 2


@dataclass(frozen=True)
class Sequences:
    """`count` sequences of `length` tokens, `inner` apart, whose bias is a matrix or a table; see triton_flash.py.

    Tokens are in rows of `columns`: the whole sequence, or one row of an image.
    """

    count: int
    length: int
    inner: int
    heads: int
    width: int
    columns: int
    bias_columns: int
    bias_plane: int
    origin: int
    relative: bool = False
    bias_per_sample: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """What the kernels are given, in their order."""
        return (
            self.length,
            self.inner,
            self.heads,
            self.width,
            self.columns,
            self.bias_columns,
            self.bias_plane,
            self.origin,
        )


@dataclass(frozen=True)
class Blocks:
    """Rows of queries and of keys to a program of `num_warps` warps, and the depth of its pipeline of loads."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class BiasGradientLaunch:
    """`programs` = (2 rows - 1) x groups x `splits` x heads x `tiles`^2 programs with tiles of `block` x `block`."""

    programs: int
    splits: int
    tiles: int
    block: int


def split_columns(columns: int, blocks: int, resident: int) -> int:
    """Over how many programs each of `columns` loops of `blocks` turns is split so that the device is full.

    With columns up to a quarter of the resident programs, the grid is one wave, at least four fifths full; with more it
    is four waves or more, so that a partial last one costs little.
    """
    wanted = resident // columns if 4 * columns <= resident else -(-4 * resident // columns)
    splits = max(1, min(wanted, blocks))
    if columns * splits > MAX_GRID:
        raise ValueError(f"attention: batch * heads must be at most {MAX_GRID}, got {columns}")
    return splits


def flash_blocks(length: int, width: int, itemsize: int, backward: bool) -> Blocks:
    """The blocks of the flash kernels."""
    limit = max(MIN_BLOCK, next_power_of_2(length))
    return Blocks(min(limit, 64), min(limit, 64), 4, 2)


def flash_programs(sequences: Sequences, block: int) -> int:
    """The number of programs that walk one block each."""
    programs = sequences.count * sequences.heads * -(-sequences.length // block)
    if programs > MAX_GRID:
        raise ValueError(f"attention: too many sequences for one grid: {sequences.count}")
    return programs


def bias_gradient_launch(sequences: Sequences, groups: int, sm_count: int) -> BiasGradientLaunch:
    """Splits the sums over each group's sequences so that two waves of programs or more fill the device."""
    block = min(64, max(MIN_BLOCK, next_power_of_2(sequences.columns)))
    tiles = -(-sequences.columns // block)
    rows = sequences.length // sequences.columns
    columns = (2 * rows - 1) * groups * sequences.heads * tiles * tiles
    turns = sequences.count // groups * rows
    splits = max(1, min(-(-2 * sm_count * PROGRAMS_PER_SM // columns), turns))
    if columns * splits > MAX_GRID:
        raise ValueError(f"attention: too many bias tiles for one grid: {columns}")
    return BiasGradientLaunch(columns * splits, splits, tiles, block)

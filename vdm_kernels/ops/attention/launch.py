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
    """`programs` = (2 rows - 1) x groups x `splits` x heads x `tiles`^2 programs with tiles of `block` x `block`.

    `part`: of the width of a head, that is multiplied at once.
    """

    programs: int
    splits: int
    tiles: int
    block: int
    part: int
    num_warps: int
    num_stages: int


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


def flash_blocks(width: int, itemsize: int, wgmma: bool, relative: bool, backward: bool) -> Blocks:
    """The largest blocks whose operands and sums fit in registers.

    Matrix units that read shared memory (`wgmma`) leave more of those; float32 has operands of twice the size, in three
    products; a matrix with segments takes more than a table.
    """
    if itemsize == 4:
        return Blocks(32 if width <= 64 else 16, 16, 8, 1)
    if not wgmma:
        return Blocks(32 if backward else 64, 32, 8, 2)
    if width > 64:
        return Blocks(64, 32, 8, 2)
    return Blocks(64, 64, 4 if relative else 8, 2)


def flash_programs(sequences: Sequences, block: int) -> int:
    """The number of programs that walk one block each."""
    programs = sequences.count * sequences.heads * -(-sequences.length // block)
    if programs > MAX_GRID:
        raise ValueError(f"attention: too many sequences for one grid: {sequences.count}")
    return programs


def bias_gradient_launch(
    sequences: Sequences, groups: int, itemsize: int, sm_count: int, wgmma: bool
) -> BiasGradientLaunch:
    """Splits the sums over each group's sequences so that two waves of programs or more fill the device."""
    largest = 16 if itemsize == 4 else 64 if wgmma else 32
    block = min(largest, max(MIN_BLOCK, next_power_of_2(sequences.columns)))
    tiles = -(-sequences.columns // block)
    rows = sequences.length // sequences.columns
    columns = (2 * rows - 1) * groups * sequences.heads * tiles * tiles
    turns = sequences.count // groups * rows
    splits = max(1, min(-(-2 * sm_count * PROGRAMS_PER_SM // columns), turns))
    if columns * splits > MAX_GRID:
        raise ValueError(f"attention: too many bias tiles for one grid: {columns}")
    part, warps, stages = (64, 8, 1) if itemsize == 4 else (MAX_WIDTH, min(8, block * block // 256), 2)
    return BiasGradientLaunch(columns * splits, splits, tiles, block, part, warps, stages)

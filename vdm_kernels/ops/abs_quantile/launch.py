"""Launch arithmetic of the Triton kernels of `abs_quantile`, in plain Python so that it is tested at every size."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK = 2048
BINS = 256
NUM_WARPS = 8
PROGRAMS_PER_SM = 8
MAX_GRID = 2**31 - 1
# One program's counts are 32-bit.
MAX_PER_PROGRAM = 2**30
# A sample of this size or less is not worth a launch per digit.
SINGLE_PROGRAM_ELEMENTS = 8 * BLOCK


@dataclass(frozen=True)
class QuantileLaunch:
    """`splits` programs to a sample of `blocks` blocks; with one split, a single kernel finds every digit."""

    programs: int
    splits: int
    blocks: int


def quantile_launch(batch: int, n: int, sm_count: int) -> QuantileLaunch:
    """Splits each of `batch` samples of `n` elements over programs.

    Samples are split where there are too few of them to fill the device or where one is too large for 32-bit counts.
    The histograms in global memory, which only split samples need, then stay small: batch is below 2 sm_count there.
    """
    blocks = -(-n // BLOCK)
    splits = 1
    if n > SINGLE_PROGRAM_ELEMENTS and batch < 2 * sm_count:
        splits = min(blocks, -(-sm_count * PROGRAMS_PER_SM // batch))
    splits = max(splits, -(-n // MAX_PER_PROGRAM))
    if batch * splits > MAX_GRID:
        raise ValueError(f"quantile_launch: batch must be at most {MAX_GRID}, got {batch}")
    return QuantileLaunch(batch * splits, splits, blocks)

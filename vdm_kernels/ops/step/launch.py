"""Launch arithmetic of the elementwise step kernels, in plain Python so that it is tested at every size.

A sample of n elements is `groups` = ceil(n / 4) groups of four (one Philox counter each), and a block is
GROUPS_PER_BLOCK of them, one to a thread. Every program serves one sample, whose coefficients it computes once, and
walks the blocks split, split + splits, split + 2 splits, ... of that sample. The grid has one axis, of
batch * splits programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

GROUPS_PER_BLOCK = 128
NUM_WARPS = 4
# What 65,536 registers hold at once of programs of 128 threads with 40 registers each (48 in the backward pass).
PROGRAMS_PER_SM = 12
BACKWARD_PROGRAMS_PER_SM = 10
MAX_GRID = 2**31 - 1
# The interpreter has no processors to count; two let a test tensor need more than one turn of the loop.
_INTERPRETER_SM_COUNT = 2


@dataclass(frozen=True)
class StepLaunch:
    """The grid of a step kernel: `programs` programs, `splits` to a sample of `groups` groups in `blocks` blocks."""

    programs: int
    splits: int
    blocks: int
    groups: int


def step_launch(batch: int, n: int, sm_count: int, programs_per_sm: int = PROGRAMS_PER_SM) -> StepLaunch:
    """Splits each of `batch` samples of `n` elements over programs so that the device is full.

    With samples up to a quarter of the resident programs, the grid is one wave, at least four fifths full; with more it
    is four waves or more, so that a partial last one costs little. A small sample is split no further than its blocks.
    """
    groups = -(-n // 4)
    blocks = -(-groups // GROUPS_PER_BLOCK)
    resident = sm_count * programs_per_sm
    wanted = resident // batch if 4 * batch <= resident else -(-4 * resident // batch)
    splits = max(1, min(wanted, blocks))
    programs = batch * splits
    if programs > MAX_GRID:
        raise ValueError(f"step_launch: batch must be at most {MAX_GRID}, got {batch}")
    return StepLaunch(programs, splits, blocks, groups)


@cache
def sm_count(device: torch.device) -> int:
    """The number of multiprocessors of a CUDA device; a small constant for CPU tensors in Triton's interpreter."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return _INTERPRETER_SM_COUNT

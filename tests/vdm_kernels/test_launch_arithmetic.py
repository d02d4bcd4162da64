"""The grids of the Triton kernels, at sizes that no test could allocate."""

from __future__ import annotations

import pytest

from vdm_kernels.ops.abs_quantile import launch as quantile
from vdm_kernels.ops.step import launch as step

# (batch, elements per sample): empty ends, ragged ends, one huge sample, many small ones, and the products beyond 2^31.
SIZES = [
    (1, 1),
    (3, 4),
    (2, 511),
    (2, 513),
    (7, 40_961),
    (1, 2**24 + 1),
    (8, 3 * 16 * 64 * 64),
    (1, 2**31 + 5),
    (2, 2**33),
    (1, 2**40),
    (65_537, 3),
    (100_000, 196_608),
    (3_000_000, 4096),
]
SM_COUNTS = [1, 2, 84, 108, 132]


@pytest.mark.parametrize("sm_count", SM_COUNTS)
@pytest.mark.parametrize(("batch", "n"), SIZES)
def test_step_grid_fits_and_covers(batch: int, n: int, sm_count: int) -> None:
    launch = step.step_launch(batch, n, sm_count)
    assert launch.programs == batch * launch.splits <= 2**31 - 1
    assert 4 * (launch.groups - 1) < n <= 4 * launch.groups
    per_block = step.GROUPS_PER_BLOCK
    assert per_block * (launch.blocks - 1) < launch.groups <= per_block * launch.blocks
    assert 1 <= launch.splits <= launch.blocks  # so that no program is idle


@pytest.mark.parametrize(("batch", "n"), [(b, n) for b, n in SIZES if b * n < 10**6])
def test_step_programs_visit_every_element_once(batch: int, n: int) -> None:
    launch = step.step_launch(batch, n, sm_count=2)
    visits = [0] * (batch * n)
    for program in range(launch.programs):  # as in the kernels
        sample, split = divmod(program, launch.splits)
        for block in range(split, launch.blocks, launch.splits):
            group = block * step.GROUPS_PER_BLOCK
            for element in range(min(4 * step.GROUPS_PER_BLOCK, n - 4 * group)):
                visits[sample * n + 4 * group + element] += 1
    assert visits == [1] * (batch * n)


@pytest.mark.parametrize("sm_count", SM_COUNTS[2:])
def test_step_grid_fills_the_device(sm_count: int) -> None:
    resident = sm_count * step.PROGRAMS_PER_SM
    for batch in range(1, 3 * resident, 7):
        programs = step.step_launch(batch, 2**24, sm_count).programs
        waves = programs / resident
        assert 0.8 <= waves <= 1 if 4 * batch <= resident else waves >= 3.9


def test_step_grid_refuses_a_batch_beyond_the_grid() -> None:
    with pytest.raises(ValueError, match="batch must be at most"):
        step.step_launch(2**31, 4, 132)


@pytest.mark.parametrize("sm_count", SM_COUNTS)
@pytest.mark.parametrize(("batch", "n"), SIZES)
def test_quantile_grid_fits_and_counts_in_32_bits(batch: int, n: int, sm_count: int) -> None:
    launch = quantile.quantile_launch(batch, n, sm_count)
    assert launch.programs == batch * launch.splits <= 2**31 - 1
    assert quantile.BLOCK * (launch.blocks - 1) < n <= quantile.BLOCK * launch.blocks
    assert 1 <= launch.splits <= launch.blocks
    blocks_of_one = -(-launch.blocks // launch.splits)
    assert blocks_of_one * quantile.BLOCK < 2**31
    if launch.splits > 1:  # what needs histograms in global memory, of 8 KiB a sample
        assert batch < 2 * sm_count or n > quantile.MAX_PER_PROGRAM

"""The grids of the Triton kernels, at sizes that no test could allocate."""

from __future__ import annotations

import pytest

from vdm_kernels.ops.abs_quantile import launch as quantile
from vdm_kernels.ops.channel_statistics import launch as image
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


# (images, pixels, channels): the presets' levels, one pixel, one channel, ragged sizes, and products beyond 2^31.
IMAGES = [
    (1, 1, 1),
    (1, 7, 15),
    (3, 64, 512),
    (16, 4096, 64),
    (128, 4096, 64),
    (128, 64, 1024),
    (1, 65_536, 64),
    (1, 65_537, 65),
    (5, 3969, 96),
    (64, 1024, 320),
    (2, 999, 24),
    (4096, 65_536, 192),
    (100_000, 64, 64),
    (1, 2**24, 3),
]


@pytest.mark.parametrize("programs_per_sm", [image.PROGRAMS_PER_SM, image.BACKWARD_PROGRAMS_PER_SM])
@pytest.mark.parametrize("sm_count", SM_COUNTS)
@pytest.mark.parametrize(("images", "pixels", "channels"), IMAGES)
def test_image_grid_fits_and_covers(
    images: int, pixels: int, channels: int, sm_count: int, programs_per_sm: int
) -> None:
    launch = image.image_launch(images, pixels, channels, sm_count, programs_per_sm)
    assert launch.programs == images * launch.chunks * launch.channel_blocks <= 2**31 - 1
    assert launch.chunk_pixels * (launch.chunks - 1) < pixels <= launch.chunk_pixels * launch.chunks
    assert launch.chunk_pixels % launch.block_pixels == 0
    covered = launch.block_channels * launch.channel_blocks
    assert covered - launch.block_channels < channels <= covered
    assert launch.block_pixels * launch.block_channels <= image.TILE
    assert launch.chunks <= image.MAX_CHUNKS
    # What kernels compute in 32 bits: places within a tile, and pixels, also those of masked chunks.
    assert launch.block_pixels * channels < 2**31
    assert image.next_power_of_2(launch.chunks) * launch.chunk_pixels < 2**31


@pytest.mark.parametrize(
    ("images", "pixels", "channels"), [(2, 999, 24), (1, 7, 15), (3, 64, 130), (1, 5000, 1)]
)
def test_image_programs_visit_every_element_once(images: int, pixels: int, channels: int) -> None:
    launch = image.image_launch(images, pixels, channels, sm_count=2)
    visits = [0] * (images * pixels * channels)
    for program in range(launch.programs):  # as in locate_chunk
        n = program // (launch.chunks * launch.channel_blocks)
        begin = program // launch.channel_blocks % launch.chunks * launch.chunk_pixels
        first = program % launch.channel_blocks * launch.block_channels
        for pixel in range(begin, min(begin + launch.chunk_pixels, pixels)):
            for channel in range(first, min(first + launch.block_channels, channels)):
                visits[(n * pixels + pixel) * channels + channel] += 1
    assert visits == [1] * len(visits)


@pytest.mark.parametrize("programs_per_sm", [image.PROGRAMS_PER_SM, image.BACKWARD_PROGRAMS_PER_SM])
@pytest.mark.parametrize("sm_count", SM_COUNTS[2:])
def test_image_grid_fills_the_device(sm_count: int, programs_per_sm: int) -> None:
    resident = sm_count * programs_per_sm
    for images in range(1, 3 * resident, 7):
        waves = image.image_launch(images, 2**20, 64, sm_count, programs_per_sm).programs / resident
        assert waves <= 1 if 4 * images <= resident else waves >= 3.9
        assert waves >= 0.8 or images * image.MAX_CHUNKS < resident


def test_a_single_image_of_a_few_groups_occupies_every_multiprocessor() -> None:
    for pixels, channels in ((256 * 256, 64), (128 * 128, 128), (64 * 64, 256), (64 * 64, 512)):
        launch = image.image_launch(1, pixels, channels, 132)
        assert launch.programs >= 2 * 132
        assert launch.chunks <= image.MAX_CHUNKS


@pytest.mark.parametrize(
    ("channels", "block"),
    [
        (1, 1),
        (3, 4),
        (8, 8),
        (15, 16),
        (24, 32),
        (33, 64),
        (48, 16),
        (64, 64),
        (96, 32),
        (192, 64),
        (320, 64),
        (1000, 64),
    ],
)
def test_channel_block(channels: int, block: int) -> None:
    assert image.channel_block(channels) == block


def test_image_grid_refuses_images_beyond_the_grid() -> None:
    with pytest.raises(ValueError, match=r"B \* F must be at most"):
        image.image_launch(2**31, 4, 4, 132)

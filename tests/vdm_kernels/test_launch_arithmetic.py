"""The grids of the Triton kernels, at sizes that no test could allocate."""

from __future__ import annotations

import pytest

from vdm_kernels.ops.abs_quantile import launch as quantile
from vdm_kernels.ops.attention import launch as attention
from vdm_kernels.ops.channel_statistics import launch as image
from vdm_kernels.ops.step import launch as step
from vdm_kernels.ops.temporal_attention import launch as packed
from vdm_kernels.ops.temporal_attention_block import launch as fused_block

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


# (groups, sequences of each, frames, heads, width, bytes): one pixel, many, a batch of single pixels, all widths.
PACKED = [
    (1, 1, 1, 1, 1, 4),
    (1, 131_072, 16, 8, 32, 2),
    (131_072, 1, 16, 8, 32, 2),
    (8, 4096, 16, 8, 64, 2),
    (2, 65, 5, 3, 20, 4),
    (3, 7, 24, 2, 64, 4),
    (2, 4096, 64, 8, 64, 2),
    (1, 2**33, 64, 16, 128, 2),
]


@pytest.mark.parametrize("wgmma", [False, True])
@pytest.mark.parametrize("sm_count", SM_COUNTS)
@pytest.mark.parametrize(("groups", "group_pixels", "frames", "heads", "width", "itemsize"), PACKED)
def test_packed_grid_fits_and_covers(
    groups: int,
    group_pixels: int,
    frames: int,
    heads: int,
    width: int,
    itemsize: int,
    sm_count: int,
    wgmma: bool,
) -> None:
    assert packed.is_packed(frames, width, itemsize, wgmma=True)
    resident = sm_count * packed.FORWARD_PROGRAMS_PER_SM
    launch = packed.packed_launch(groups, group_pixels, frames, heads, width, itemsize, resident, wgmma)
    assert launch.programs == groups * launch.splits * heads <= 2**31 - 1
    assert launch.pixels * (launch.blocks - 1) < group_pixels <= launch.pixels * launch.blocks
    assert 1 <= launch.splits <= launch.blocks
    assert launch.frames >= max(frames, 16)
    assert launch.frames & (launch.frames - 1) == 0
    # Products of several pixels go to a warp each; one pixel's rows go to warps of 16 or less.
    assert launch.num_warps == launch.pixels if launch.pixels > 1 else launch.num_warps in (4, 8)


@pytest.mark.parametrize(("groups", "group_pixels", "heads"), [(1, 65, 3), (2, 33, 2), (3, 1, 1)])
def test_packed_programs_visit_every_sequence_once(groups: int, group_pixels: int, heads: int) -> None:
    launch = packed.packed_launch(groups, group_pixels, 16, heads, 32, 2, 2 * 8, True)
    visits = [0] * (groups * group_pixels * heads)
    for program in range(launch.programs):  # as in the kernels
        head, split = program % heads, program // heads % launch.splits
        group = program // heads // launch.splits
        for block in range(split, launch.blocks, launch.splits):
            for pixel in range(block * launch.pixels, min((block + 1) * launch.pixels, group_pixels)):
                visits[(group * group_pixels + pixel) * heads + head] += 1
    assert visits == [1] * len(visits)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("sm_count", SM_COUNTS)
@pytest.mark.parametrize(("groups", "sequences", "frames", "heads", "width", "itemsize"), PACKED)
def test_cuda_attention_grid_fits(
    groups: int,
    sequences: int,
    frames: int,
    heads: int,
    width: int,
    itemsize: int,
    sm_count: int,
    backward: bool,
) -> None:
    sequences = min(sequences, packed.CUDA_MAX_SEQUENCES // groups)
    launch = packed.cuda_launch(groups, sequences, frames, heads, width, itemsize, sm_count, backward)
    teams = groups * launch.splits * heads
    assert teams <= 2**31 - 1  # also where a thread block has one team
    assert 1 <= launch.splits <= sequences
    # A turn is counted in 32 bits, and the last one goes beyond the last sequence.
    assert sequences + launch.splits < 2**32
    # Partial sums of the bias gradient stay near the size of those of a wave, or of four where groups fill it.
    warps = 1 if frames <= 16 else 2 if frames <= 32 else 4
    assert launch.splits == 1 or teams * warps <= 4 * 24 * sm_count + groups * heads * warps


@pytest.mark.parametrize(("groups", "sequences", "heads"), [(1, 65, 3), (2, 33, 2), (3, 1, 1), (2, 1000, 1)])
def test_cuda_teams_visit_every_sequence_once(groups: int, sequences: int, heads: int) -> None:
    launch = packed.cuda_launch(groups, sequences, 16, heads, 32, 2, 2, False)
    visits = [0] * (groups * sequences * heads)
    for team in range(groups * launch.splits * heads):  # as in part_of
        head, split, group = team % heads, team // heads % launch.splits, team // heads // launch.splits
        for turn in range(split, sequences, launch.splits):
            visits[(group * sequences + turn) * heads + head] += 1
    assert visits == [1] * len(visits)


@pytest.mark.parametrize("sm_count", SM_COUNTS[2:])
def test_attention_grid_fills_the_device(sm_count: int) -> None:
    resident = sm_count * packed.FORWARD_PROGRAMS_PER_SM
    for columns in range(1, 3 * resident, 7):
        waves = columns * attention.split_columns(columns, 2**20, resident) / resident
        assert 0.8 <= waves <= 1 if 4 * columns <= resident else waves >= 3.9


@pytest.mark.parametrize("channels", [16, 64, 128])
@pytest.mark.parametrize("sm_count", SM_COUNTS)
@pytest.mark.parametrize(
    ("groups", "group_pixels"), [(1, 1), (1, 131_072), (131_072, 1), (8, 4096), (2, 65), (1, 2**33)]
)
def test_block_grid_fits_and_covers(groups: int, group_pixels: int, channels: int, sm_count: int) -> None:
    launch = fused_block.block_launch(groups, group_pixels, channels, sm_count)
    assert launch.programs == groups * launch.splits <= 2**31 - 1
    assert launch.pixels * (launch.blocks - 1) < group_pixels <= launch.pixels * launch.blocks
    assert 1 <= launch.splits <= launch.blocks


def test_one_kernel_has_blocks_of_few_frames_and_channels() -> None:
    assert fused_block.is_fused(16, 128, 2, itemsize=2)
    assert not fused_block.is_fused(16, 128, 2, itemsize=4)
    assert not fused_block.is_fused(17, 128, 2, itemsize=2)
    assert not fused_block.is_fused(16, 256, 4, itemsize=2)
    assert not fused_block.is_fused(16, 128, 1, itemsize=2)


# (images, height, width, heads): the presets' levels, one pixel, odd sizes, rows of several tiles.
GRIDS = [(1, 1, 1, 1), (16, 16, 16, 8), (128, 64, 64, 8), (3, 7, 70, 2), (2, 1, 256, 4), (8, 128, 128, 16)]


def _images(images: int, height: int, width: int, heads: int) -> attention.Sequences:
    return attention.Sequences(
        count=images,
        length=height * width,
        inner=1,
        heads=heads,
        width=64,
        columns=width,
        bias_columns=2 * width - 1,
        bias_plane=(2 * height - 1) * (2 * width - 1),
        origin=(height - 1) * (2 * width - 1) + width - 1,
        relative=True,
    )


@pytest.mark.parametrize("sm_count", SM_COUNTS)
@pytest.mark.parametrize("shape", GRIDS)
def test_bias_gradient_grid_fits_and_covers(shape: tuple[int, int, int, int], sm_count: int) -> None:
    images, height, width, heads = shape
    launch = attention.bias_gradient_launch(_images(*shape), 1, 2, sm_count, wgmma=True)
    columns = (2 * height - 1) * heads * launch.tiles**2
    assert launch.programs == columns * launch.splits <= 2**31 - 1
    assert launch.block * (launch.tiles - 1) < width <= launch.block * launch.tiles
    assert 1 <= launch.splits <= images * height
    # The partial sums stay near the size of those of two waves, or are one for each pair of columns.
    assert launch.splits == 1 or launch.programs < 2 * sm_count * attention.PROGRAMS_PER_SM + columns


def test_bias_gradient_programs_visit_every_pair_of_rows_once() -> None:
    images, height, heads = 3, 5, 2
    launch = attention.bias_gradient_launch(_images(images, height, 70, heads), 1, 2, 40, True)
    assert launch.tiles == 2
    assert launch.splits > 1
    visits: dict[tuple[int, ...], int] = {}
    for program in range(launch.programs):  # as in the kernel
        tile_j, tile_i = program % launch.tiles, program // launch.tiles % launch.tiles
        rest = program // launch.tiles // launch.tiles
        head, split, order = rest % heads, rest // heads % launch.splits, rest // heads // launch.splits
        dy = (order + 1) // 2 * (1 - 2 * (order % 2))
        pairs = height - abs(dy)
        for turn in range(split, images * pairs, launch.splits):
            y = max(dy, 0) + turn % pairs
            key = (head, turn // pairs, y, y - dy, tile_i, tile_j)
            visits[key] = visits.get(key, 0) + 1
    assert set(visits.values()) == {1}
    assert len(visits) == heads * images * height * height * launch.tiles**2


def test_attention_grids_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="at most"):
        attention.split_columns(2**31, 4, 1000)
    with pytest.raises(ValueError, match="sequences"):
        attention.flash_programs(_images(2**20, 128, 128, 16), 64)

"""Frames between frames: imputation, and temporal super-resolution."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vdm.diffusion.checks import check_integer
from vdm.generation.blocks import Known, complete_blocks
from vdm.generation.conditional import ConditionalSampler, check_how
from vdm.generation.lazy_video import LazyVideo
from vdm.generation.plan import MAX_FRAMES, blocks_from
from vdm.samplers.loop import Seeds, sample_seeds


def interpolate(
    how: ConditionalSampler,
    video: Tensor,
    positions: Sequence[int],
    *,
    seeds: Seeds,
    num_frames: int | None = None,
    block_frames: int | None = None,
    context_frames: int | None = None,
) -> Tensor:
    """Draw the frames that are missing between (before, after) given ones.

    Temporal super-resolution by a factor k is positions = range(0, k F, k): F frames become k (F - 1) + 1.
    Arguments and errors as in `interpolate_blocks`.

    Returns:
        (B, C, num_frames, H, W), the given frames at their positions.
    """
    blocks = interpolate_blocks(
        how,
        video,
        positions,
        seeds=seeds,
        num_frames=num_frames,
        block_frames=block_frames,
        context_frames=context_frames,
    )
    return torch.cat(list(blocks), dim=2)


def interpolate_blocks(
    how: ConditionalSampler,
    video: Tensor | LazyVideo,
    positions: Sequence[int],
    *,
    seeds: Seeds,
    num_frames: int | None = None,
    block_frames: int | None = None,
    context_frames: int | None = None,
    first_block: int = 0,
    completed: Tensor | None = None,
) -> Iterator[Tensor]:
    """`interpolate`, block by block in the memory of one block.

    The blocks are those of `plan_blocks`; to start again at block i, give first_block = i and the frames before
    it as `completed`.

    Args:
        how: denoiser, sampler and method.
        video: (B, C, F, H, W) in [-1, 1], finite; the given frames.
        positions: where each of them belongs in the result, strictly increasing from 0 or more.
        seeds: one per sample, as for the samplers.
        num_frames: frames of the result, more than the last position; by default that + 1.
        block_frames: frames that the model draws at once, at most num_frames; by default all of them.
        context_frames: complete frames that a block sees at least, 0 .. block_frames - 1; by default a quarter
            of a block.
        first_block: the block to begin with.
        completed: (B, C, F', H, W), the frames before that block, at least those in its window.

    Yields:
        The frames of each block in order, given ones included, (B, C, n, H, W).

    Raises:
        ValueError: an argument is not as above, before anything is drawn; or the frames that are read are not,
            before their block is.
    """
    where = "interpolate_blocks"
    check_how(where, how)
    given = LazyVideo.of(where, "video", video)
    sample_seeds(where, seeds, given.shape[0], None)
    places = _checked_positions(where, positions, given.shape[2])
    total = places[-1] + 1
    if num_frames is not None:
        check_integer(where, "num_frames", num_frames, minimum=total, maximum=MAX_FRAMES)
        total = int(num_frames)
    if total == len(places):
        raise ValueError(f"{where}: positions must leave frames to draw, got all of 0 to {total - 1}")
    at = set(places)
    blocks = blocks_from(
        where, [frame in at for frame in range(total)], block_frames, context_frames, first_block
    )

    def read(start: int, stop: int) -> Known:
        low, high = bisect_left(places, start), bisect_left(places, stop)
        values = given.zeros(stop - start)
        mask = torch.zeros((1, 1, stop - start, 1, 1), dtype=torch.bool, device=values.device)
        if low < high:
            inside = [place - start for place in places[low:high]]
            values[:, :, inside] = given.frames(where, "video", low, high)
            mask[:, :, inside] = True
        return Known(values, mask)

    return complete_blocks(how, blocks, read, seeds=seeds, completed=completed)


def _checked_positions(where: str, positions: object, count: int) -> list[int]:
    if isinstance(positions, (str, bytes)) or not isinstance(positions, Sequence):
        raise ValueError(f"{where}: positions must be a sequence of integers, got {type(positions).__name__}")
    if len(positions) != count:
        raise ValueError(f"{where}: positions must be one per frame of video, {count}, got {len(positions)}")
    for position in positions:
        check_integer(where, "positions", position, minimum=0, maximum=MAX_FRAMES - 1)
    if any(after <= before for before, after in pairwise(positions)):
        raise ValueError(f"{where}: positions must be strictly increasing, got {list(positions)!r:.60}")
    return [int(position) for position in positions]

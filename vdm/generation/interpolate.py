"""Frames between frames: imputation, and temporal super-resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from vdm.generation.blocks import LazyVideo
from vdm.generation.conditional import ConditionalSampler
from vdm.samplers.loop import Seeds


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
    raise NotImplementedError


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
    raise NotImplementedError

"""Block-autoregressive extension of a video."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from vdm.generation.conditional import ConditionalSampler
from vdm.samplers.loop import Seeds


def extend(
    how: ConditionalSampler,
    video: Tensor,
    *,
    num_frames: int,
    block_frames: int,
    context_frames: int,
    stride: int | None = None,
    seeds: Seeds,
) -> Tensor:
    """Add frames to a video: each block is drawn given the last context_frames frames before it.

        x_{i+1} ~ p(new frames | last n frames of x_i)

    Ho et al. 2022 (arXiv 2204.03458), section 3.1. Arguments and errors as in `extend_blocks`.

    Returns:
        (B, C, F + num_frames, H, W): the video and what was added.
    """
    raise NotImplementedError


def extend_blocks(
    how: ConditionalSampler,
    video: Tensor,
    *,
    num_frames: int,
    block_frames: int,
    context_frames: int,
    stride: int | None = None,
    seeds: Seeds,
    first_block: int = 0,
) -> Iterator[Tensor]:
    """`extend`, block by block in the memory of one block.

    The first k frames do not depend on num_frames. To start again at block i of `plan_extension`, give
    first_block = i and a video that ends where that block begins: the result is identical.

    Args:
        how: denoiser, sampler and method.
        video: (B, C, F, H, W) in [-1, 1], finite; its last context_frames frames are used.
        num_frames: how many frames are added in all, counted from block 0.
        block_frames: frames that the model draws at once, context included.
        context_frames: n, 1 .. block_frames - 1, at most F.
        stride: new frames per block, 1 .. block_frames - context_frames, the default; what a block draws beyond
            is thrown away.
        seeds: one per sample, as for the samplers.
        first_block: the block to begin with.

    Yields:
        The new frames of each block, (B, C, at most stride, H, W).

    Raises:
        ValueError: an argument is not as above, before anything is drawn.
    """
    raise NotImplementedError

"""Block-autoregressive extension of a video."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vdm.diffusion.checks import check_integer
from vdm.generation.blocks import Known, complete_blocks
from vdm.generation.conditional import ConditionalSampler, check_how
from vdm.generation.plan import plan_extension
from vdm.guidance.known import check_video
from vdm.samplers.loop import Seeds, sample_seeds


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
    added = extend_blocks(
        how,
        video,
        num_frames=num_frames,
        block_frames=block_frames,
        context_frames=context_frames,
        stride=stride,
        seeds=seeds,
    )
    return torch.cat([video, *added], dim=2)


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
    where = "extend_blocks"
    check_how(where, how)
    check_video(where, "video", video)
    blocks = plan_extension(
        num_frames, block_frames=block_frames, context_frames=context_frames, stride=stride
    )
    check_integer(where, "first_block", first_block, minimum=0, maximum=len(blocks) - 1)
    sample_seeds(where, seeds, len(video), None)
    if video.shape[2] < context_frames:
        raise ValueError(
            f"{where}: video must have at least context_frames={context_frames} frames, got {video.shape[2]}"
        )
    context = video[:, :, video.shape[2] - context_frames :]
    if not bool(context.isfinite().all()):
        raise ValueError(f"{where}: video must be finite in its last frames, got NaN or infinite values")
    unknown = video.new_zeros((1, 1, 1, 1, 1))
    nothing = Known(
        unknown.expand(*video.shape[:2], block_frames, *video.shape[3:]),
        torch.zeros_like(unknown, dtype=torch.bool),
    )
    return complete_blocks(
        how, blocks[first_block:], lambda start, stop: nothing, seeds=seeds, completed=context
    )

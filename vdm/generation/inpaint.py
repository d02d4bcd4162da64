"""Inpainting: any mask over frames and pixels."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from vdm.generation.blocks import LazyVideo
from vdm.generation.conditional import ConditionalSampler
from vdm.samplers.loop import Seeds


def inpaint(
    how: ConditionalSampler,
    video: Tensor,
    mask: Tensor,
    *,
    seeds: Seeds,
    block_frames: int | None = None,
    context_frames: int | None = None,
) -> Tensor:
    """Draw a video again where a mask does not cover it. Arguments and errors as in `inpaint_blocks`.

    Returns:
        (B, C, F, H, W), equal to `video` where the mask is True.
    """
    raise NotImplementedError


def inpaint_blocks(
    how: ConditionalSampler,
    video: Tensor | LazyVideo,
    mask: Tensor | LazyVideo,
    *,
    seeds: Seeds,
    block_frames: int | None = None,
    context_frames: int | None = None,
    first_block: int = 0,
    completed: Tensor | None = None,
) -> Iterator[Tensor]:
    """`inpaint`, block by block in the memory of one block.

    Args:
        how: denoiser, sampler and method.
        video: (B, C, F, H, W) in [-1, 1]; finite where the mask is True, ignored elsewhere.
        mask: bool, True where known (kept); every axis 1 or as long as that of `video`.
        seeds: one per sample, as for the samplers.
        block_frames: frames that the model draws at once, at most F; by default all of them.
        context_frames: complete frames that a block sees at least, 0 .. block_frames - 1; by default a quarter
            of a block.
        first_block: the block of `plan_blocks` to begin with.
        completed: (B, C, F', H, W), the frames before that block, at least those in its window.

    Yields:
        The frames of each block in order, (B, C, n, H, W).

    Raises:
        ValueError: an argument is not as above, before anything is drawn; or the frames that are read are not,
            before their block is.
    """
    raise NotImplementedError

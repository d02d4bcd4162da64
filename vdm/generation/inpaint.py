"""Inpainting: any mask over frames and pixels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vdm.generation.blocks import Known, complete_blocks
from vdm.generation.conditional import ConditionalSampler, check_how
from vdm.generation.lazy_video import LazyVideo
from vdm.generation.plan import blocks_from
from vdm.guidance.known import check_mask
from vdm.samplers.loop import Seeds, sample_seeds


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
    blocks = inpaint_blocks(
        how, video, mask, seeds=seeds, block_frames=block_frames, context_frames=context_frames
    )
    return torch.cat(list(blocks), dim=2)


def inpaint_blocks(
    how: ConditionalSampler,
    video: Tensor | LazyVideo,
    mask: Tensor,
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
    where = "inpaint_blocks"
    check_how(where, how)
    given = LazyVideo.of(where, "video", video)
    sample_seeds(where, seeds, given.shape[0], None)
    check_mask(where, mask, given.shape, torch.empty(0, device=given.device).device)
    if bool(mask.all()) or not bool(mask.any()):
        raise ValueError(
            f"{where}: mask must be True somewhere and not everywhere, got all {bool(mask.all())}"
        )
    whole = mask.all(dim=1, keepdim=True).all(dim=0).all(dim=-1).all(dim=-1).flatten().expand(given.shape[2])
    blocks = blocks_from(where, whole.tolist(), block_frames, context_frames, first_block)

    def read(start: int, stop: int) -> Known:
        window = mask if mask.shape[2] == 1 else mask[:, :, start:stop]
        return Known(given.frames(where, "video", start, stop), window)

    return complete_blocks(how, blocks, read, seeds=seeds, completed=completed)

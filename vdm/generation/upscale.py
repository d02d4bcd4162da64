"""Spatial super-resolution by a model of high-resolution videos that knows nothing of low-resolution ones."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from vdm.generation.blocks import LazyVideo
from vdm.generation.conditional import ConditionalSampler
from vdm.samplers.loop import Seeds


def upscale(
    how: ConditionalSampler,
    low_resolution: Tensor,
    *,
    size: tuple[int, int],
    seeds: Seeds,
    block_frames: int | None = None,
    context_frames: int | None = None,
) -> Tensor:
    """Draw a video whose antialiased bilinear downsampling is (nearly) the given one.

    Reconstruction guidance in space, and in time too where a long video is drawn in blocks. Ho et al. 2022
    (arXiv 2204.03458), eq. 8. Arguments and errors as in `upscale_blocks`.

    Returns:
        (B, C, F, H, W).
    """
    raise NotImplementedError


def upscale_blocks(
    how: ConditionalSampler,
    low_resolution: Tensor | LazyVideo,
    *,
    size: tuple[int, int],
    seeds: Seeds,
    block_frames: int | None = None,
    context_frames: int | None = None,
    first_block: int = 0,
    completed: Tensor | None = None,
) -> Iterator[Tensor]:
    """`upscale`, block by block in the memory of one block.

    Args:
        how: denoiser (of videos of `size`), sampler; the method must be "reconstruction".
        low_resolution: (B, C, F, h, w) in [-1, 1], finite.
        size: (H, W) of the result, multiples of h and w.
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

"""Spatial super-resolution by a model of high-resolution videos that knows nothing of low-resolution ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vdm.diffusion.checks import check_integer
from vdm.generation.blocks import Known, complete_blocks
from vdm.generation.conditional import ConditionalSampler, check_how
from vdm.generation.lazy_video import LazyVideo
from vdm.generation.plan import blocks_from
from vdm.samplers.loop import Seeds, sample_seeds


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
    blocks = upscale_blocks(
        how,
        low_resolution,
        size=size,
        seeds=seeds,
        block_frames=block_frames,
        context_frames=context_frames,
    )
    return torch.cat(list(blocks), dim=2)


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
    where = "upscale_blocks"
    check_how(where, how)
    if how.method != "reconstruction":
        raise ValueError(f"{where}: how must have method='reconstruction', got {how.method!r}")
    given = LazyVideo.of(where, "low_resolution", low_resolution)
    sample_seeds(where, seeds, given.shape[0], None)
    height, width = _checked_size(where, size, given.shape)
    blocks = blocks_from(where, [False] * given.shape[2], block_frames, context_frames, first_block)

    def read(start: int, stop: int) -> Known:
        values = given.zeros(stop - start, size=(height, width))
        nothing = torch.zeros((1, 1, 1, 1, 1), dtype=torch.bool, device=values.device)
        return Known(values, nothing, given.frames(where, "low_resolution", start, stop))

    return complete_blocks(how, blocks, read, seeds=seeds, completed=completed)


def _checked_size(where: str, size: object, shape: tuple[int, ...]) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(f"{where}: size must be (H, W), got {size!r}")
    for length, low in zip(size, shape[3:]):
        check_integer(where, "size", length, minimum=1)
        if length % low:
            raise ValueError(
                f"{where}: size must be multiples of low_resolution's {tuple(shape[3:])}, got {tuple(size)}"
            )
    return int(size[0]), int(size[1])

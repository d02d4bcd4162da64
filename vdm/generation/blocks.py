"""Long videos block by block: which frames every block sees, draws and keeps, and the loop over them.

A block is drawn given what is known of its window and the frames of the window that are complete already. Its
noise is a function of (seed, index of the block) alone, so that drawing can start again at any block, given the
frames before it, and goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from vdm.generation.conditional import ConditionalSampler
from vdm.samplers.loop import Seeds


@dataclass(frozen=True)
class Block:
    """One block of a long video, in frames of that video: start <= first < end <= stop.

    Attributes:
        index: its number, which its noise depends on.
        start: the first frame of its window; frames start .. first - 1 are complete before it is drawn.
        first: the first frame that it adds.
        end: one past the last frame that it adds; frames end .. stop - 1 are drawn and thrown away.
        stop: one past the last frame of its window.
    """

    index: int
    start: int
    first: int
    end: int
    stop: int


@dataclass(frozen=True)
class Known:
    """What is known of a window of F frames; tensors as for `complete`, but nothing may be known too.

    Attributes:
        values: (B, C, F, H, W); device and dtype of the result.
        mask: bool, True where known.
        low_resolution: (B, C, F, h, w) or None.
    """

    values: Tensor
    mask: Tensor
    low_resolution: Tensor | None = None


KnownReader: TypeAlias = Callable[[int, int], Known]
"""(start, stop) -> what is known of the frames start .. stop - 1."""


@dataclass(frozen=True)
class LazyVideo:
    """A video that is read a window at a time, for those that do not fit in memory.

    Attributes:
        shape: (B, C, F, H, W).
        read: (start, stop) -> frames start .. stop - 1, (B, C, stop - start, H, W), always on one device and of
            one dtype.
    """

    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]


def plan_extension(
    num_frames: int, *, block_frames: int, context_frames: int, stride: int | None = None
) -> list[Block]:
    """The blocks of `extend`: each sees the context_frames before it and adds `stride` new ones.

    Frames count from the first new one, so that block i adds the frames from i stride on, and the window of
    block 0 begins at -context_frames. The last block adds what is left.

    Args:
        num_frames: how many frames are added, >= 1.
        block_frames: frames that the model draws at once, context included.
        context_frames: 1 .. block_frames - 1.
        stride: 1 .. block_frames - context_frames, the default; what a block draws beyond is thrown away.

    Returns:
        The blocks, in order.

    Raises:
        ValueError: a number is not as above.
    """
    raise NotImplementedError


def plan_blocks(
    frames_known: Sequence[bool],
    *,
    block_frames: int,
    context_frames: int,
    stride: int | None = None,
) -> list[Block]:
    """Blocks that cover a video of which some frames are known.

    A window sees at least the context_frames before the frames it adds, and lies within the video: the last one
    is moved back. A block ends at the last known frame that it reaches, where the window after it sees the next
    one: frames in a gap are drawn in one block, with both of its sides in view, if a block is long enough.

    Args:
        frames_known: for every frame whether all of it is known.
        block_frames: frames that the model draws at once, 1 .. number of frames.
        context_frames: 0 .. block_frames - 1.
        stride: 1 .. block_frames - context_frames, the default: at most so many frames are added by a block.

    Returns:
        The blocks, in order; the first begins at frame 0, the last ends with the video.

    Raises:
        ValueError: an argument is not as above.
    """
    raise NotImplementedError


def complete_blocks(
    how: ConditionalSampler,
    blocks: Sequence[Block],
    known: KnownReader,
    *,
    seeds: Seeds,
    completed: Tensor | None = None,
) -> Iterator[Tensor]:
    """Draw a long video block by block, in the memory of one block.

    To start again at block i, give `blocks[i:]` and the frames before it.

    Args:
        how: denoiser, sampler and method.
        blocks: from `plan_extension` or `plan_blocks`, or a part of them in order.
        known: reads what is known of a window. Frames that are complete already are known besides.
        seeds: one per sample; block 0 draws from them, block i from `block_seeds(seeds, i)`.
        completed: (B, C, F, H, W), F >= blocks[0].first - blocks[0].start: the frames before blocks[0].first, the
            last of them being frame blocks[0].first - 1. None where the first block needs none.

    Yields:
        The frames that each block adds, (B, C, block.end - block.first, H, W). A block of which everything is
        known is not drawn.

    Raises:
        ValueError: an argument is not as above (before anything is drawn), or what is read of a window is not
            (before the window is drawn).
    """
    raise NotImplementedError


def block_seeds(seeds: Seeds, block: int, batch_size: int) -> Tensor:
    """The seeds of block i: the samples' own for block 0, else hashes of (seed, i).

        s_i = splitmix64(s + i 0x9e3779b97f4a7c15),  Steele et al. 2014

    Args:
        seeds: one per sample, as for the samplers.
        block: i >= 0.
        batch_size: number of samples.

    Returns:
        (B,) int64 on the seeds' device, the CPU where they have none.

    Raises:
        ValueError: an argument is not as above.
    """
    raise NotImplementedError

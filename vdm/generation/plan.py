"""Which frames of a long video every block sees, draws and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vdm.diffusion.checks import check_integer

MAX_FRAMES = 2**24


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
    where = "plan_extension"
    check_integer(where, "num_frames", num_frames, minimum=1, maximum=MAX_FRAMES)
    stride = _checked_stride(where, block_frames, context_frames, stride, minimum_context=1)
    return [
        Block(
            index,
            first - context_frames,
            first,
            min(first + stride, num_frames),
            first - context_frames + block_frames,
        )
        for index, first in enumerate(range(0, num_frames, stride))
    ]


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
    where = "plan_blocks"
    known = [bool(frame) for frame in _checked_flags(where, frames_known)]
    total = len(known)
    check_integer(where, "block_frames", block_frames, minimum=1, maximum=total)
    stride = _checked_stride(where, block_frames, context_frames, stride, minimum_context=0)
    dropped = block_frames - context_frames - stride
    blocks: list[Block] = []
    first = 0
    while first < total:
        start = min(max(first - context_frames, 0), total - block_frames)
        stop = start + block_frames
        end = (
            total if stop == total else _kept_end(known, first, stop - dropped, block_frames - context_frames)
        )
        blocks.append(Block(len(blocks), start, first, end, stop))
        first = end
    return blocks


def blocks_from(
    where: str,
    frames_known: list[bool],
    block_frames: int | None,
    context_frames: int | None,
    first_block: int,
) -> list[Block]:
    """`plan_blocks` from first_block on; by default one block, and a quarter of a block as context."""
    size = len(frames_known) if block_frames is None else block_frames
    check_integer(where, "block_frames", size, minimum=1, maximum=len(frames_known))
    context = size // 4 if context_frames is None else context_frames
    blocks = plan_blocks(frames_known, block_frames=size, context_frames=context)
    check_integer(where, "first_block", first_block, minimum=0, maximum=len(blocks) - 1)
    return blocks[first_block:]


def _kept_end(known: list[bool], first: int, end: int, reach: int) -> int:
    """Where a block that could add frames first .. end - 1 ends; the block after it sees `reach` frames on."""
    anchor = max((frame for frame in range(first, end) if known[frame]), default=None)
    if anchor is None:
        return end
    nearby = known[end : anchor + 1 + reach]
    return anchor + 1 if any(nearby) else end


def _checked_stride(
    where: str, block_frames: int, context_frames: int, stride: int | None, *, minimum_context: int
) -> int:
    check_integer(where, "block_frames", block_frames, minimum=1, maximum=MAX_FRAMES)
    check_integer(where, "context_frames", context_frames, minimum=minimum_context)
    if context_frames >= block_frames:
        raise ValueError(
            f"{where}: context_frames must be less than block_frames={block_frames}, got {context_frames}"
        )
    room = block_frames - context_frames
    if stride is None:
        return room
    check_integer(where, "stride", stride, minimum=1)
    if stride > room:
        raise ValueError(
            f"{where}: stride must be at most block_frames - context_frames = {room}, got {stride}"
        )
    return int(stride)


def _checked_flags(where: str, frames_known: object) -> Sequence[bool]:
    if not isinstance(frames_known, (list, tuple)) or not all(
        isinstance(flag, bool) for flag in frames_known
    ):
        raise ValueError(f"{where}: frames_known must be a list of bool, got {frames_known!r:.60}")
    if not frames_known:
        raise ValueError(f"{where}: frames_known must have one value per frame, got none")
    return frames_known

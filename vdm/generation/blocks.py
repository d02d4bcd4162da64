"""Long videos block by block: the loop, and the noise of every block.

A block is drawn given what is known of its window and the frames of the window that are complete already. Its
noise is a function of (seed, index of the block) alone, so that drawing can start again at any block, given the
frames before it, and goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from vdm.diffusion.checks import check_callable, check_integer
from vdm.generation.conditional import ConditionalSampler, check_how, draw
from vdm.generation.plan import Block
from vdm.guidance.known import check_known, check_video
from vdm.samplers.loop import Seeds, sample_seeds

_GOLDEN = 0x9E3779B97F4A7C15


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
    where = "complete_blocks"
    check_how(where, how)
    check_callable(where, "known", known)
    _check_blocks(where, blocks)
    context = blocks[0].first - blocks[0].start
    if completed is not None:
        check_video(where, "completed", completed)
        if not bool(completed.isfinite().all()):
            raise ValueError(f"{where}: completed must be finite, got NaN or infinite values")
    length = 0 if completed is None else completed.shape[2]
    if length < context:
        raise ValueError(
            f"{where}: completed must hold the {context} frames before block {blocks[0].index}, got {length} frames"
        )
    if completed is not None:
        sample_seeds(where, seeds, len(completed), None)
    return _draw_blocks(where, how, blocks, known, seeds, completed)


def _draw_blocks(
    where: str,
    how: ConditionalSampler,
    blocks: Sequence[Block],
    known: KnownReader,
    seeds: Seeds,
    completed: Tensor | None,
) -> Iterator[Tensor]:
    for block in blocks:
        window = _read(where, known, block)
        values, mask = window.values, window.mask
        context = block.first - block.start
        if context:
            assert completed is not None
            values, mask = _with_completed(
                where, values, mask, completed[:, :, completed.shape[2] - context :]
            )
        frames = values
        if not bool(mask.all()):
            seed = block_seeds(seeds, block.index, len(values))
            frames = draw(where, how, values, mask, seeds=seed, low_resolution=window.low_resolution)
        completed = frames[:, :, : block.end - block.start]
        yield frames[:, :, context : block.end - block.start].clone()


def _read(where: str, known: KnownReader, block: Block) -> Known:
    window = known(block.start, block.stop)
    if not isinstance(window, Known):
        raise ValueError(f"{where}: known must give a Known, got {type(window).__name__}")
    check_known(where, window.values, window.mask)
    length = block.stop - block.start
    if window.values.shape[2] != length:
        raise ValueError(
            f"{where}: known must give {length} frames for {block.start} to {block.stop}, got {window.values.shape[2]}"
        )
    return window


def _with_completed(where: str, values: Tensor, mask: Tensor, completed: Tensor) -> tuple[Tensor, Tensor]:
    """The window with its first frames complete."""
    context = completed.shape[2]
    batch, channels, length, height, width = values.shape
    if completed.shape != (batch, channels, context, height, width):
        raise ValueError(
            f"{where}: completed must have shape {(batch, channels, context, height, width)},"
            f" got {tuple(completed.shape)}"
        )
    if completed.dtype != values.dtype or completed.device != values.device:
        raise ValueError(
            f"{where}: completed must be {values.dtype} on {values.device} as known's values,"
            f" got {completed.dtype} on {completed.device}"
        )
    mask = mask.expand(-1, -1, length, -1, -1).clone()
    mask[:, :, :context] = True
    return torch.cat([completed, values[:, :, context:]], dim=2), mask


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
    where = "block_seeds"
    check_integer(where, "block", block, minimum=0)
    check_integer(where, "batch_size", batch_size, minimum=1, maximum=2**31)
    seed = sample_seeds(where, seeds, batch_size, None)
    if block == 0:
        return seed
    hashed = [_splitmix64(s + int(block) * _GOLDEN) for s in seed.tolist()]
    return torch.tensor(hashed, dtype=torch.int64, device=seed.device)


def _splitmix64(state: int) -> int:
    """The finalizer of splitmix64, a bijection of 64 bits, as a signed number."""
    z = state % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    z ^= z >> 31
    return z - 2**64 if z >= 2**63 else z


def _check_blocks(where: str, blocks: object) -> None:
    if not isinstance(blocks, (list, tuple)) or not all(isinstance(block, Block) for block in blocks):
        raise ValueError(f"{where}: blocks must be a list of Block, got {type(blocks).__name__}")
    if not blocks:
        raise ValueError(f"{where}: blocks must have at least one Block, got none")
    for block in blocks:
        if not block.start <= block.first < block.end <= block.stop:
            raise ValueError(f"{where}: blocks must have start <= first < end <= stop, got {block}")
    for before, after in pairwise(blocks):
        if after.first != before.end or after.start < before.start or after.index != before.index + 1:
            raise ValueError(f"{where}: blocks must follow one another, got {before} and {after}")

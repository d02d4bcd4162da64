"""`vdm inpaint`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from vdm.cli.conditional import Job, Options, completed_frames, conditional_command, file_hash, portions
from vdm.data import VideoFile, VideoParts
from vdm.generation import ConditionalSampler, Known, complete_blocks, plan_blocks
from vdm.training import ConfigError


@conditional_command
def inpaint_command(
    options: Options,
    *,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="An image, or a video of as many frames; white is drawn anew."),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            "--box", metavar="TOP,LEFT,HEIGHT,WIDTH", help="The pixels to draw anew, in place of --mask."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", min=0, help="Frames that a block sees at least.", show_default="a quarter of a block"
        ),
    ] = None,
) -> None:
    """Draw a part of a video anew, given the rest.

    Run the same command again to go on after an interruption: the result is the same.
    """
    if (mask is None) == (box is None):
        raise ConfigError(
            f"vdm inpaint: one of --mask and --box is needed, got {'both' if mask else 'neither'}"
        )
    job = Job.prepare("vdm inpaint", options)
    given = job.source.num_frames
    is_known = _known_box(box, job) if mask is None else _known_mask(mask, job)
    frames_known, some_known = [], False
    for start, stop in portions(given):
        pixels = is_known(start, stop)[0, 0].flatten(1)
        frames_known += pixels.all(1).tolist()
        some_known = some_known or bool(pixels.any())
    if all(frames_known):
        raise ConfigError(f"vdm inpaint: the mask must be white somewhere, got none of it in {mask}")
    if not some_known:
        raise ConfigError("vdm inpaint: the mask must leave something of the video, got all of it")
    block = job.block_frames(given)
    context = block // 4 if context is None else context
    blocks = plan_blocks(frames_known, block_frames=block, context_frames=context)

    def known(start: int, stop: int) -> Known:
        return Known(job.read(start, stop), is_known(start, stop))

    def draw(how: ConditionalSampler, parts: VideoParts) -> Iterator[Tensor]:
        completed = completed_frames(job, parts, blocks)
        return complete_blocks(how, blocks[len(parts) :], known, seeds=job.seed, completed=completed)

    marked = box if mask is None else file_hash(mask)
    job.run(draw, blocks, fps=job.source.fps, mask=marked, context=context)


def _known_box(box: str | None, job: Job) -> Callable[[int, int], Tensor]:
    """All but a box, in every frame: (start, stop) -> (1, 1, F, H, W) bool."""
    match = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", box or "")
    if match is None:
        raise ConfigError(f"vdm inpaint: --box must be TOP,LEFT,HEIGHT,WIDTH in pixels, got {box!r}")
    top, left, rows, columns = map(int, match.groups())
    height, width = job.source.size
    if not (rows >= 1 and columns >= 1 and top + rows <= height and left + columns <= width):
        raise ConfigError(f"vdm inpaint: --box must lie within the {height}x{width} pixels, got {box}")
    known = torch.ones(1, 1, 1, height, width, dtype=torch.bool, device=job.device)
    known[..., top : top + rows, left : left + columns] = False
    return lambda start, stop: known.expand(-1, -1, stop - start, -1, -1)


def _known_mask(path: Path, job: Job) -> Callable[[int, int], Tensor]:
    """What is not white, of an image or a video: (start, stop) -> (1, 1, F, H, W) bool."""
    resize, size = job.options.resize, job.source.size
    mask = VideoFile(path, size=size if resize else None, channels=1)
    if mask.size != size:
        raise ConfigError(
            f"vdm inpaint: --mask must have {size[0]}x{size[1]} pixels, got {mask.size[0]}x{mask.size[1]}; "
            "--resize makes it fit"
        )
    if mask.num_frames not in (1, job.source.num_frames):
        raise ConfigError(
            f"vdm inpaint: --mask must be an image or have {job.source.num_frames} frames, got {mask.num_frames}"
        )
    if mask.num_frames == 1:
        known = mask.read(0, 1)[None].to(job.device) < 0
        return lambda start, stop: known.expand(-1, -1, stop - start, -1, -1)
    return lambda start, stop: mask.read(start, stop)[None].to(job.device) < 0

"""`vdm extend`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
import typer
from torch import Tensor

from vdm.cli.conditional import Job, Options, conditional_command
from vdm.data import VideoParts
from vdm.generation import ConditionalSampler, extend_blocks, plan_extension
from vdm.training import ConfigError


@conditional_command
def extend_command(
    options: Options,
    *,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames of the result, the given ones included.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.0, help="Length of the result, in place of --frames.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Frames that a block sees.", show_default="half a block"),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option("--stride", min=1, help="New frames per block.", show_default="all that fit"),
    ] = None,
) -> None:
    """Go on with a video, block by block: each is drawn given the last frames before it.

    Run the same command again to go on after an interruption: the result is the same.
    """
    if (frames is None) == (seconds is None):
        raise ConfigError(
            f"vdm extend: one of --frames and --seconds is needed, got {'both' if frames else 'neither'}"
        )
    job = Job.prepare("vdm extend", options)
    given, fps = job.source.num_frames, job.source.fps
    total = frames if frames is not None else round((seconds or 0.0) * fps)
    block = job.config.data.frames
    context = min(block // 2, given) if context is None else context
    if context > given:
        raise ConfigError(f"vdm extend: the video needs --context={context} frames, got {given}")
    if total <= given:
        raise ConfigError(
            f"vdm extend: the result must be longer than the video's {given} frames, got {total}"
        )
    blocks = plan_extension(total - given, block_frames=block, context_frames=context, stride=stride)

    def draw(how: ConditionalSampler, parts: VideoParts) -> Iterator[Tensor]:
        drawn = min(context, parts.num_frames)
        seen = [parts.frames(parts.num_frames - drawn, parts.num_frames)] if drawn else []
        if drawn < context:
            seen.insert(0, job.source.read(given - (context - drawn), given))
        return extend_blocks(
            how,
            torch.cat(seen, dim=1)[None].to(job.device),
            num_frames=total - given,
            block_frames=block,
            context_frames=context,
            stride=stride,
            seeds=job.seed,
            first_block=len(parts),
        )

    job.run(draw, blocks, fps=fps, starts_with_source=True, frames=total, context=context, stride=stride)

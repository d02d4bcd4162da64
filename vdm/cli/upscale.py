"""`vdm upscale`."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Annotated

import typer
from torch import Tensor

from vdm.cli.conditional import Job, Options, completed_frames, conditional_command
from vdm.data import VideoParts
from vdm.generation import ConditionalSampler, plan_blocks, upscale_blocks
from vdm.training import ConfigError


@conditional_command
def upscale_command(
    options: Options,
    *,
    factor: Annotated[
        int | None,
        typer.Option(
            "--factor",
            min=2,
            help="The model's size over the video's.",
            show_default="what the video's size makes it",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", min=0, help="Frames that a block sees at least.", show_default="a quarter of a block"
        ),
    ] = None,
) -> None:
    """Draw a video at the model's resolution that looks like the given one at the given one's.

    Run the same command again to go on after an interruption: the result is the same.
    """
    if options.method != "reconstruction":
        raise ConfigError(f"vdm upscale: --method must be reconstruction, got {options.method}")
    job = Job.prepare("vdm upscale", options, size_divisor=factor)
    given = job.source.num_frames
    block = job.block_frames(given)
    context = block // 4 if context is None else context
    blocks = plan_blocks([False] * given, block_frames=block, context_frames=context)

    def draw(how: ConditionalSampler, parts: VideoParts) -> Iterator[Tensor]:
        return upscale_blocks(
            how,
            job.lazy(),
            size=job.config.data.shape,
            seeds=job.seed,
            block_frames=block,
            context_frames=context,
            first_block=len(parts),
            completed=completed_frames(job, parts, blocks),
        )

    # Without noise the exact weight is (D D^T)^-1 of the downsampling D, about the pixels that it averages.
    job.run(
        draw,
        blocks,
        fps=job.source.fps,
        default_weight=prod(job.config.data.shape) / prod(job.source.size),
        size=list(job.source.size),
        context=context,
    )

"""`vdm interpolate`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from torch import Tensor

from vdm.cli.conditional import Job, Options, completed_frames, conditional_command
from vdm.data import VideoParts
from vdm.generation import ConditionalSampler, interpolate_blocks, plan_blocks
from vdm.training import ConfigError


@conditional_command
def interpolate_command(
    options: Options,
    *,
    factor: Annotated[
        int | None,
        typer.Option("--factor", min=2, help="Frames of the result per given one: that many times the rate."),
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option("--positions", help="Where the given frames belong, as 0,5,15, in place of --factor."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", min=0, help="Frames that a block sees at least.", show_default="a quarter of a block"
        ),
    ] = None,
) -> None:
    """Draw the frames between the frames of a video, which lasts as long as before at a higher frame rate.

    Run the same command again to go on after an interruption: the result is the same.
    """
    if (factor is None) == (positions is None):
        raise ConfigError(
            f"vdm interpolate: one of --factor and --positions is needed, got {'both' if factor else 'neither'}"
        )
    listed = None if positions is None else _parse_positions(positions)
    multiplier = float(factor or 1) if listed is None else (listed[-1] - listed[0]) / (len(listed) - 1)
    job = Job.prepare("vdm interpolate", options, rate_divisor=multiplier)
    given = job.source.num_frames
    known: Sequence[int] = range(0, (factor or 1) * given, factor or 1) if listed is None else listed
    if given < 2 or len(known) != given:
        needed = "at least 2" if listed is None else f"{len(known)}, as there are positions"
        raise ConfigError(f"vdm interpolate: the video's frames must be {needed}, got {given}")
    total = known[-1] + 1
    block = job.block_frames(total)
    context = min(block - 1, max(1, block // 4)) if context is None else context
    is_known = set(known)
    blocks = plan_blocks([i in is_known for i in range(total)], block_frames=block, context_frames=context)

    def draw(how: ConditionalSampler, parts: VideoParts) -> Iterator[Tensor]:
        return interpolate_blocks(
            how,
            job.lazy(),
            known,
            seeds=job.seed,
            block_frames=block,
            context_frames=context,
            first_block=len(parts),
            completed=completed_frames(job, parts, blocks),
        )

    job.run(draw, blocks, fps=job.source.fps * multiplier, positions=list(known), context=context)


def _parse_positions(text: str) -> list[int]:
    numbers = [int(number) for number in text.split(",")] if re.fullmatch(r"\d+(,\d+)+", text) else []
    if not numbers or any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
        raise ConfigError(
            f"vdm interpolate: --positions must be two or more increasing frame numbers as 0,5,15, got {text!r}"
        )
    return numbers

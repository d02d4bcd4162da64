"""`vdm data`: make data sets as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from vdm.data import MovingDigits, write_video

data_app = typer.Typer(help="Make data sets as files on disk.", no_args_is_help=True)


@data_app.callback()
def _root() -> None:
    """Keeps `moving-digits` a subcommand however many there are."""


@data_app.command("moving-digits")
def moving_digits_command(
    out: Annotated[Path, typer.Option("--out", help="Folder; one sub-folder per class.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many videos.")] = 100,
    size: Annotated[int, typer.Option("--size", min=8, help="Height and width in pixels.")] = 32,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Frames per video.")] = 24,
    fps: Annotated[float, typer.Option("--fps", help="Frames per second.")] = 8.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same videos.")] = 0,
    file_format: Annotated[str, typer.Option("--format", help="gif, mp4, webm, avi, mkv or mov.")] = "mp4",
    mnist: Annotated[
        Path | None,
        typer.Option("--mnist", help="Folder of MNIST's IDX files, in place of the built-in digits."),
    ] = None,
) -> None:
    """Write videos of a handwritten digit that bounces around, in folders 0 to 9 as `VideoFolder` reads them."""
    digits = MovingDigits(image_size=size, num_frames=frames, seed=seed, fps=fps, mnist_dir=mnist)
    for i in track(range(count), description="moving digits", console=Console(stderr=True)):
        clip = digits[i]
        folder = out / str(clip.label)
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{i:06d}.{file_format}", clip.video, fps=fps)
    typer.echo(out)

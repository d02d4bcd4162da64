"""`vdm sample`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from torch import Tensor

from vdm.cli.progress import SamplingProgress
from vdm.data import write_contact_sheet, write_video
from vdm.models import VideoUNet
from vdm.pretrained import MOVING_DIGITS
from vdm.training import Config, ConfigError, apply_overrides, load_model
from vdm.training.sampling import sample_labels, sample_videos, tiled

_SHOWN_PIXELS = 128
_SHEET_FRAMES = 8


def sample_command(
    out: Annotated[Path, typer.Option("--out", help="Folder that the videos are written to.")] = Path(
        "samples"
    ),
    model_path: Annotated[
        Path,
        typer.Option(
            "--model",
            help="An exported .safetensors file, or the folder of a run or of a checkpoint (EMA weights).",
            show_default="moving digits, ships with the package",
        ),
    ] = MOVING_DIGITS,
    count: Annotated[int | None, typer.Option("--count", min=1, help="How many videos.")] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Classes, as 3,1,4; repeated to the count.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of the first video; the others count on from it.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps.")] = None,
    guidance_weight: Annotated[
        float | None,
        typer.Option("--guidance-weight", min=0.0, help="w of classifier-free guidance; 0 = none."),
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Frames per video.")] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="Pixels: 32, or height x width as 32x48.")
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="Frames per second of the files.")] = None,
    file_format: Annotated[Literal["gif", "mp4"], typer.Option("--format", help="Of the videos.")] = "gif",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Videos per network call.")] = 4,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other value, as sampling.sampler=ddim."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Draw videos from a model: one file each, all of them as one (samples.gif), and a contact sheet (samples.png).

    A video depends on its own seed and class, and not on how many others are drawn.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model, config = load_model(model_path, device=device)
    given = {
        "sampling.count": count,
        "sampling.seed": seed,
        "sampling.steps": steps,
        "sampling.guidance_weight": guidance_weight,
        "sampling.fps": fps,
        "sampling.labels": None if labels is None else f"[{labels}]",
        "data.frames": frames,
    }
    shortcuts = [f"{key}={value}" for key, value in given.items() if value is not None]
    config = apply_overrides(config, shortcuts + (overrides or []))
    if size is not None:
        height, width = _parse_size(size)
        config = replace(config, data=replace(config.data, height=height, width=width))
    if out.exists() and not out.is_dir():
        raise ConfigError(f"vdm sample: --out must be a folder, got the file {out}")
    chosen = sample_labels(config, config.sampling.count)
    videos = draw_videos(model, config, chosen, batch_size=batch_size, console=Console(stderr=True))
    for path in write_videos(out, videos, chosen, fps=config.sampling.fps, file_format=file_format):
        typer.echo(path)


def draw_videos(
    model: VideoUNet, config: Config, labels: list[int] | None, *, batch_size: int, console: Console
) -> Tensor:
    """`config.sampling.count` videos (N, C, F, H, W) on the CPU, `batch_size` at a time, with a progress bar."""
    sampling = config.sampling
    seeds = [sampling.seed + i for i in range(sampling.count)]
    starts = range(0, sampling.count, batch_size)
    videos = []
    with SamplingProgress(console, blocks=len(starts)) as progress, torch.inference_mode():
        for start in starts:
            rows = slice(start, start + batch_size)
            row_labels = None if labels is None else labels[rows]
            drawn = sample_videos(model, config, seeds=seeds[rows], labels=row_labels, callback=progress)
            progress.finish_block()
            videos.append(drawn.float().cpu())
    return torch.cat(videos)


def write_videos(
    out: Path, videos: Tensor, labels: list[int] | None, *, fps: float, file_format: str
) -> Iterator[Path]:
    """Write samples.png, samples.<format> and one file per video into a folder; yields each path when it is there."""
    out.mkdir(parents=True, exist_ok=True)
    scale = max(1, _SHOWN_PIXELS // max(videos.shape[-2:]))
    sheet = out / "samples.png"
    frames = min(_SHEET_FRAMES, videos.shape[2])
    write_contact_sheet(sheet, videos, frames=frames, labels=labels, scale=max(1, scale // 2))
    yield sheet
    together = out / f"samples.{file_format}"
    write_video(together, tiled(videos), fps=fps, scale=scale)
    yield together
    for i, video in enumerate(videos):
        label = "" if labels is None else f"-class-{labels[i]}"
        path = out / f"{i:04d}{label}.{file_format}"
        write_video(path, video, fps=fps, scale=scale)
        yield path


def _parse_size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if match is None:
        raise ConfigError(
            f"vdm sample: --size must be pixels as 32, or height x width as 32x48, got {size!r}"
        )
    height = int(match[1])
    return height, int(match[2] or height)

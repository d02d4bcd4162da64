"""`vdm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from vdm.training import PRESETS, Config, ConfigError, apply_overrides, load_config, preset, train


def train_command(
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; a run that is there goes on.")],
    preset_name: Annotated[
        str | None, typer.Option("--preset", help=f"Start from: {', '.join(PRESETS)}.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="A .toml or .json file; what it leaves out is the preset's."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one value; repeatable."),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Require a run to go on with, or require that there is none. Neither: go on if there is one.",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Go on from this checkpoint, not the newest.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Train a video diffusion model; interrupt it at any time, and run the same command to go on."""
    config = resolve_config(preset_name, config_file, overrides or [], out=out)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    status = train(config, out, resume=resume, checkpoint=checkpoint, device=device)
    raise typer.Exit(status)


def resolve_config(
    preset_name: str | None, config_file: Path | None, overrides: list[str], *, out: Path
) -> Config:
    """Preset, then file, then overrides. With neither preset nor file, the run in `out` gives the start.

    Raises:
        ConfigError: nothing to start from, or a key or value is not known.
    """
    if preset_name is None and config_file is None:
        config_file = out / "config.json"
        if not config_file.is_file():
            raise ConfigError(
                f"vdm train: --preset or --config is needed for a new run; presets: {', '.join(PRESETS)}"
            )
    base = preset(preset_name) if preset_name is not None else None
    config = load_config(config_file, base=base) if config_file is not None else base
    assert config is not None
    return apply_overrides(config, overrides)

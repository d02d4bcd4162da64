"""`vdm export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdm.training import export_model, newest_checkpoint
from vdm.training.export import StorageDtype


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run (its newest checkpoint) or of a checkpoint.")],
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file to write.")],
    dtype: Annotated[
        StorageDtype, typer.Option("--dtype", help="How weights are stored: fp32, fp16 or bf16.")
    ] = "fp32",
    sampling: Annotated[
        list[str] | None,
        typer.Option(
            "--sampling", metavar="KEY=VALUE", help="Change a default of `vdm sample`, as steps=40."
        ),
    ] = None,
) -> None:
    """Write the EMA weights and the configuration of a run as one file for `vdm sample --model`."""
    typer.echo(export_model(newest_checkpoint(run), out, dtype=dtype, sampling=sampling or ()))

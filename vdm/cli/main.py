"""The `vdm` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from vdm.cli.data import data_app
from vdm.cli.doctor import doctor_command
from vdm.cli.export import export_command
from vdm.cli.extend import extend_command
from vdm.cli.inpaint import inpaint_command
from vdm.cli.interpolate import interpolate_command
from vdm.cli.sample import sample_command
from vdm.cli.train import train_command
from vdm.cli.upscale import upscale_command
from vdm_kernels import set_allocator_policy

app = typer.Typer(
    name="vdm",
    help="Video diffusion models: train and sample.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("sample")(sample_command)
app.command("extend")(extend_command)
app.command("interpolate")(interpolate_command)
app.command("upscale")(upscale_command)
app.command("inpaint")(inpaint_command)
app.command("train")(train_command)
app.command("export")(export_command)
app.add_typer(data_app, name="data")
app.command("doctor")(doctor_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; what a user can put right is one line on stderr and exit status 1.

    Args:
        arguments: of the command line; by default those of the process.
    """
    set_allocator_policy()
    try:
        app(arguments)
    except ValueError as error:
        if os.environ.get("VDM_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()

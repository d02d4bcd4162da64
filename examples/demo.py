"""What `make demo` runs: sample the shipped model, then train a tiny one from video files and sample that.

Every step is a `vdm` command, printed as it is run. Usage: python examples/demo.py FOLDER
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

# The installed command: `python -m` would take the package from the folder it is run in.
VDM = Path(sys.executable).with_name("vdm")


def vdm(*arguments: str | Path) -> None:
    """Run a `vdm` command and stop where it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ vdm {' '.join(words)}", flush=True)
    started = time.monotonic()
    status = subprocess.run([VDM, *words]).returncode
    if status != 0:
        sys.exit(status)
    print(f"({time.monotonic() - started:.0f} s)", flush=True)


def main(folder: Path) -> None:
    """Fill `folder` with samples, a data set, a training run and its samples."""
    data, run = folder / "videos", folder / "run"
    if run.exists():
        shutil.rmtree(run)  # a demo starts anew; `vdm train` itself would go on with the run

    vdm("doctor")
    vdm("sample", "--out", folder / "shipped")

    vdm("data", "moving-digits", "--out", data, "--count", "200", "--size", "16", "--frames", "16")
    settings = ["training.steps=600", "data.kind=video-folder", f"data.path={data}"]
    vdm(
        "train",
        "--preset",
        "tiny",
        "--out",
        run,
        *(word for setting in settings for word in ("--set", setting)),
    )
    vdm("sample", "--model", run, "--out", folder / "trained")

    print(f"\nLook at {folder}/shipped/samples.gif, {folder}/trained/samples.gif and {run}/loss.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))

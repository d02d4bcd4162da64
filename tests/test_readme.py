"""The README's examples run as they stand, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
# Set-up is what `make test` did before this test ran.
_SET_UP = ("make", "pip")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_python_examples_run_in_order(tmp_path: Path) -> None:
    script = "\n".join(blocks("python"))
    assert "import" in script
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "five.gif").stat().st_size > 1000


def test_command_lines_run_in_order(tmp_path: Path) -> None:
    lines = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    commands = [words for words in lines if words and words[0] not in _SET_UP]
    assert len(commands) >= 5
    for words in commands:
        if words[0] != "vdm":
            pytest.fail(f"the README has a command that is neither set-up nor vdm: {' '.join(words)}")
        done = subprocess.run(
            [sys.executable, "-m", "vdm.cli.main", *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-3000:]}"
    for name in (
        "samples/samples.gif",
        "samples/samples.png",
        "tiny-samples/samples.mp4",
        "tiny.safetensors",
        "longer.mp4",
        "smooth.gif",
        "sharp.mp4",
        "filled.gif",
    ):
        assert (tmp_path / name).stat().st_size > 1000, name
    assert len(list((tmp_path / "samples").glob("*-class-*.gif"))) == 3

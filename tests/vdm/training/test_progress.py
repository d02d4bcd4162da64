"""What a run shows: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from vdm.training import progress as module
from vdm.training.progress import TrainingProgress

VALUES = {"loss": 0.12345, "lr": 3e-4, "grad_norm": 1.5, "clips_per_second": 7.25}


def shown(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_bar_on_a_terminal() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120)
    with TrainingProgress(first_step=2, steps=10, console=console) as progress:
        progress.update(4, VALUES)
        progress.note("step 4: [not markup]")
        progress.update(10, VALUES)
    text = shown(console)
    assert "10/10" in text
    assert "loss 0.1235  lr 3.0e-04  grad 1.50  7.25 clips/s" in text
    assert "step 4: [not markup]" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again


def test_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    console = Console(file=StringIO(), width=200)
    with TrainingProgress(first_step=100, steps=5100, console=console) as progress:
        for step in range(101, 131):
            now += 1.0
            progress.update(step, VALUES)
        now += 1.0
        progress.update(5100, VALUES)
    lines = shown(console).splitlines()
    # One line per ten seconds, and the last step. At one step a second, step 110 leaves 4990 seconds.
    assert [line.split()[1] for line in lines] == ["110/5100", "120/5100", "130/5100", "5100/5100"]
    assert lines[0].endswith("7.25 clips/s  1:23:10 left")

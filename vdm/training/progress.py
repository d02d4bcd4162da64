"""Progress of a run: a bar on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_PLAIN_SECONDS = 10.0


class TrainingProgress:
    """Shows step, loss, learning rate, gradient norm, clips per second and the time left."""

    def __init__(self, *, first_step: int, steps: int, console: Console) -> None:
        self.console = console
        self._steps = steps
        self._first = first_step
        self._started = self._printed = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
                console=console,
                speed_estimate_period=120.0,
            )
            self._task = self._bar.add_task("training", total=steps, completed=first_step, status="")

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the state after `step` steps."""
        status = (
            f"loss {values['loss']:.4f}  lr {values['lr']:.1e}  grad {values['grad_norm']:.2f}  "
            f"{values['clips_per_second']:.2f} clips/s"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, status=status)
            return
        now = time.monotonic()
        if now - self._printed >= _PLAIN_SECONDS or step == self._steps:
            self._printed = now
            per_step = (now - self._started) / max(1, step - self._first)
            left = _duration(per_step * (self._steps - step))
            self.note(f"step {step}/{self._steps}  {status}  {left} left")

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"

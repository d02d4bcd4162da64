"""Progress of sampling: a bar on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vdm.samplers import SamplerStep

_PLAIN_STEPS = 10


class SamplingProgress:
    """A sampler's callback that shows its steps, through several calls of the sampler; a context manager.

    Args:
        console: where to show them.
        blocks: how often the sampler is called in all.
        done: how many of these calls were made before.
    """

    def __init__(self, console: Console, *, blocks: int, done: int = 0) -> None:
        self._console, self._blocks, self._done = console, blocks, done
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn()
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("sampling", total=blocks, completed=done)

    def __enter__(self) -> SamplingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: SamplerStep) -> None:
        """Show a step of the current block."""
        taken = step.index + 1
        block = f"block {self._done + 1}/{self._blocks}, " if self._blocks > 1 else ""
        status = f"sampling {block}step {taken}/{step.num_steps}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done + taken / step.num_steps, description=status)
        elif taken == step.num_steps or taken % _PLAIN_STEPS == 0:
            self._console.print(status)

    def finish_block(self) -> None:
        """Count the current block as done, whether the sampler was called for it or not."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)

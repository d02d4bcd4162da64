"""SIGINT and SIGTERM as a request to finish the step, save and stop."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Within the block, the first SIGINT or SIGTERM only sets `received`; another ends the process at once.

    Ending at once is safe: files are complete or not there, whatever happens. Only a process's main thread can
    receive signals; in other threads the block does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def exit_status(self) -> int:
        """What the process exits with: 128 + signal number as shells count, 0 without a signal."""
        return 0 if self.received is None else 128 + self.received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress display may have hidden it
        sys.stderr.write(f"{show_cursor}\nstopping: finishing this step and saving; again to stop at once\n")
        sys.stderr.flush()

"""What a run writes down as it goes: `log.jsonl`, one JSON object per line, and the same as TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from vdm.data import atomic_file


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a `log.jsonl`, oldest first; none without a file. A line cut short by a kill is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    return records


def truncate_log(path: Path, step: int) -> None:
    """Drop the records after `step`, atomically, so that the steps done again are not there twice."""
    if not path.is_file():
        return
    kept = [record for record in read_log(path) if record["step"] <= step]
    with atomic_file(path) as file:
        file.write("".join(json.dumps(record) + "\n" for record in kept).encode())


class RunLog:
    """Appends records to `folder/log.jsonl` and `folder/tensorboard/`, starting after `step`.

    A disk that refuses does not end a run: `warn` is told once, and what could not be written to `log.jsonl` is
    written with a later record.
    """

    def __init__(self, folder: Path, *, step: int, warn: Callable[[str], None]) -> None:
        self.path = folder / "log.jsonl"
        self._warn = warn
        self._warned = False
        truncate_log(self.path, step)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._file).st_size
        self._pending = b""
        self._events: EventsWriter | None = None
        try:
            self._events = _open_events(folder / "tensorboard", step)
        except OSError as error:
            self._report(error)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one record."""
        self._pending += (json.dumps({"step": step, **values}) + "\n").encode()
        try:
            self._write_pending()
            if self._events is not None:
                for name, value in values.items():
                    self._events.write_event(
                        Event(step=step, summary=scalar(name, value), wall_time=time.time())
                    )
                self._events.flush()
        except OSError as error:
            self._report(error)

    def sync(self) -> None:
        """Make what was written durable; called before each checkpoint."""
        try:
            self._write_pending()
            os.fsync(self._file)
        except OSError as error:
            self._report(error)

    def _write_pending(self) -> None:
        written = 0
        try:
            while written < len(self._pending):
                written += os.write(self._file, self._pending[written:])
        except OSError:
            os.ftruncate(self._file, self._size)  # half a line must not stay: others would be appended to it
            raise
        self._size += written
        self._pending = b""

    def _report(self, error: OSError) -> None:
        if not self._warned:
            self._warn(f"warning: could not write the log: {error.strerror}; training goes on without it")
            self._warned = True


def _open_events(folder: Path, step: int) -> EventsWriter:
    """A new event file that makes readers drop the events after `step` of the files before it."""
    folder.mkdir(exist_ok=True)
    # The library's own queue and thread would stop for good on a full disk: this writes at once.
    events = EventsWriter(str(folder / "events"), f".{step:08d}.{os.getpid()}")
    start = SessionLog(status=SessionLog.START)
    events.write_event(Event(step=step + 1, session_log=start, wall_time=time.time()))
    events.flush()
    return events

"""What a run writes down as it goes: `log.jsonl`, one JSON object per line, and the same as TensorBoard events."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a `log.jsonl`, oldest first. A last line cut short by a kill is left out; empty without a file."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def truncate_log(path: Path, step: int) -> None:
    """Drop the records after `step`, atomically, so that the steps done again are not there twice."""
    if not path.is_file():
        return
    kept = [record for record in read_log(path) if record["step"] <= step]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is complete or not there, also after a power cut."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class RunLog:
    """Appends records to `folder/log.jsonl` and `folder/tensorboard/`, starting after `step`."""

    def __init__(self, folder: Path, *, step: int) -> None:
        self.path = folder / "log.jsonl"
        truncate_log(self.path, step)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1, flush_secs=30)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one record."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """Make what was written durable; called before each checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())

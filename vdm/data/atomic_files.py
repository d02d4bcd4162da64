"""Files that are complete or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def check_target(where: str, path: str | os.PathLike[str]) -> Path:
    """Returns `path` as the file to write (symbolic links followed), if it can be one.

    Raises:
        ValueError: it is not a path, its folder does not exist, or it is a folder itself.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"{where}: path must be the path of a file, got {path!r}")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise ValueError(f"{where}: path must be the path of a file, got the folder {os.fspath(path)}")
    if not target.parent.is_dir():
        raise ValueError(f"{where}: path must lie in an existing folder, got {os.fspath(path)}")
    return target


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path`, which takes its place when the block ends without an exception.

    The content is on the disk (fsync) before the name changes, and the new name before this returns. When the
    block or the disk fails, the temporary file is removed and what was at `path` is untouched.
    """
    target = check_target("atomic_file", path)
    temporary = target.parent / f".vdm-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Folders of videos or images, with classes and captions."""

from __future__ import annotations

import abc
import json
import logging
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vdm.data.arguments import check_bool
from vdm.data.clip import Clip
from vdm.data.draws import DrawDataset
from vdm.data.video_index import UnreadableFileError

logger = logging.getLogger(__name__)

CAPTIONS_FILE = "captions.jsonl"


class MediaFolder(DrawDataset):
    """A data set of the files below a folder.

    Classes come from folders: root/class/.../file, by sorted class names. Captions come from a text file
    beside the media file, of the same name with the extension .txt, or else from `captions.jsonl` in the
    root, with lines {"file": "class/name.mp4", "caption": "..."}. Where only some files have a caption,
    that of the others is "".

    A file that cannot be used is logged once, by name, and replaced by the next usable one in the epoch's
    order.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, seed: int, extensions: Sequence[str], labels: bool
    ) -> None:
        super().__init__(seed=seed)
        where = type(self).__name__
        if not isinstance(root, (str, os.PathLike)) or not os.path.isdir(root):
            raise ValueError(f"{where}: root must be a folder, got {str(root)!r}")
        self.root = Path(root)
        self.extensions = _normalize_extensions(where, extensions)
        check_bool(where, "labels", labels)
        self.files, texts = _scan(self.root, self.extensions)
        """The files found, relative to the root, sorted."""
        if not self.files:
            raise ValueError(
                f"{where}: {self.root} must contain {', '.join(self.extensions)} files, got none"
            )
        self._labels = self._find_classes() if labels else None
        self._text_files = frozenset(
            file for file in self.files if str(Path(file).with_suffix(".txt")) in texts
        )
        self._captions = _read_captions(where, self.root, self.files)
        self._has_captions = bool(self._text_files or self._captions)
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Clip:
        draw, order, position = self._locate(index)
        return self._first_usable(order, position, lambda: self._generator(draw), self._load)

    def draw_frame(self, rng: np.random.Generator) -> Clip:
        position, seed = int(rng.integers(len(self))), int(rng.integers(2**63))
        order = np.arange(len(self))
        return self._first_usable(order, position, lambda: np.random.default_rng(seed), self._load_frame)

    @abc.abstractmethod
    def _load(self, file: int, rng: np.random.Generator) -> Clip:
        """Returns a random clip of a file, or raises `UnreadableFileError`."""

    @abc.abstractmethod
    def _load_frame(self, file: int, rng: np.random.Generator) -> Clip:
        """Returns a random frame of a file as a clip, or raises `UnreadableFileError`."""

    def _first_usable(
        self,
        order: np.ndarray,
        position: int,
        make_rng: Callable[[], np.random.Generator],
        load: Callable[[int, np.random.Generator], Clip],
    ) -> Clip:
        # Every file gets a fresh generator, so that a draw does not depend on how far a broken file could
        # be read.
        for step in range(len(order)):
            file = int(order[(position + step) % len(order)])
            try:
                return load(file, make_rng())
            except UnreadableFileError as error:
                self._report(file, str(error))
        raise self._nothing_usable()

    def _require_one_usable(self, check: Callable[[int], object]) -> None:
        """Raises if `check` raises `UnreadableFileError` for every file; stops at the first usable one."""
        for file in range(len(self.files)):
            try:
                check(file)
            except UnreadableFileError as error:
                self._report(file, str(error))
            else:
                return
        raise self._nothing_usable()

    def _nothing_usable(self) -> ValueError:
        return ValueError(
            f"{type(self).__name__}: {self.root} must contain a usable file ({', '.join(self.extensions)}), "
            f"got {len(self.files)} that are broken or too short"
        )

    def _report(self, file: int, reason: str) -> None:
        if file not in self._reported:
            self._reported.add(file)
            logger.warning("%s: skipping %s: %s", type(self).__name__, self.root / self.files[file], reason)

    def _find_classes(self) -> np.ndarray | None:
        folders = [Path(file).parts[0] if len(Path(file).parts) > 1 else None for file in self.files]
        names = sorted({folder for folder in folders if folder is not None})
        if not names:
            return None
        if None in folders:
            outside = self.files[folders.index(None)]
            raise ValueError(
                f"{type(self).__name__}: files must all lie in class folders or all in the root "
                f"(or labels=False be given), got {outside} beside the folder {names[0]}"
            )
        self.classes = tuple(names)
        numbers = {name: number for number, name in enumerate(names)}
        return np.array([numbers[folder] for folder in folders if folder is not None], np.int64)

    def _label(self, file: int) -> int | None:
        return None if self._labels is None else int(self._labels[file])

    def _caption(self, file: int) -> str | None:
        if not self._has_captions:
            return None
        name = self.files[file]
        if name not in self._text_files:
            return self._captions.get(name, "")
        text = Path(name).with_suffix(".txt")
        try:
            return (self.root / text).read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise UnreadableFileError(f"its caption {text} is not UTF-8 text") from error
        except FileNotFoundError as error:
            raise UnreadableFileError(f"its caption {text} is gone") from error


def _normalize_extensions(where: str, extensions: Sequence[str]) -> tuple[str, ...]:
    valid = isinstance(extensions, Sequence) and not isinstance(extensions, str) and len(extensions) > 0
    if not valid or not all(isinstance(extension, str) and extension.strip(".") for extension in extensions):
        raise ValueError(
            f"{where}: extensions must be a sequence such as ('.mp4', '.gif'), got {extensions!r}"
        )
    return tuple(dict.fromkeys("." + extension.lower().lstrip(".") for extension in extensions))


def _scan(root: Path, extensions: tuple[str, ...]) -> tuple[tuple[str, ...], set[str]]:
    """Returns the media files and the text files below a folder, as sorted relative paths with '/'."""
    media: list[str] = []
    texts: set[str] = set()
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        for name in names:
            extension = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if extension in extensions:
                media.append((relative / name).as_posix())
            elif extension == ".txt":
                texts.add((relative / name).as_posix())
    return tuple(sorted(media)), texts


def _raise(error: OSError) -> None:
    raise error


def _read_captions(where: str, root: Path, files: Sequence[str]) -> dict[str, str]:
    """Returns captions by file from `captions.jsonl`, if there is one."""
    path = root / CAPTIONS_FILE
    if not path.is_file():
        return {}
    # The same name may be composed of other code points on disk than in the text (é, or e and an accent).
    known = {unicodedata.normalize("NFC", file): file for file in files}
    captions: dict[str, str] = {}
    unknown: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {path} must be UTF-8 text, got other bytes") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, caption = entry["file"], entry["caption"]
        except (json.JSONDecodeError, KeyError, TypeError):
            name = caption = None
        if not isinstance(name, str) or not isinstance(caption, str):
            raise ValueError(
                f'{where}: {path} line {number} must be {{"file": "...", "caption": "..."}}, got {line[:80]}'
            )
        file = known.get(unicodedata.normalize("NFC", Path(name).as_posix()))
        if file is None:
            unknown.append(name)
        else:
            captions[file] = caption
    if unknown:
        logger.warning(
            "%s: %s names %d files that are not there, first %s", where, path, len(unknown), unknown[0]
        )
    return captions

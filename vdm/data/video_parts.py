"""A video in the making: finished blocks of frames on the disk, which a kill cannot break."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from vdm.data.atomic_files import atomic_file, check_target, sync_folder
from vdm.data.video_writer import video_writer, write_video

_ARGUMENTS = "arguments.json"


class VideoParts:
    """The blocks of a video that is made block by block, in the folder `<file>.parts` beside the file it becomes.

    A block is on the disk, whole, when `append` returns. After a kill at any moment, the same target and arguments
    find the finished blocks again. `finish` makes the file of them, one block in memory at a time, and removes the
    folder; until then, whatever the file was before stays.

    Args:
        target: the video file: .gif, .mp4, .mov, .mkv, .webm or .avi.
        arguments: everything that the frames depend on, as JSON values.
        fps, scale: of the file, see `video_writer`.

    Raises:
        ValueError: the file cannot be written; or the folder holds blocks of other arguments.
    """

    def __init__(
        self, target: str | os.PathLike[str], arguments: Mapping[str, Any], *, fps: float, scale: int = 1
    ) -> None:
        self.target = check_target("VideoParts", target)
        self.folder = self.target.with_name(self.target.name + ".parts")
        self._fps, self._scale = fps, scale
        self._arguments: dict[str, Any] = json.loads(json.dumps(dict(arguments)))
        video_writer(self.target, fps=fps, scale=scale)  # refuses what it cannot write
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"VideoParts: {self.folder} must be a folder of blocks, got a file")
        self._lengths: list[int] = []
        if (self.folder / _ARGUMENTS).is_file():
            self._check_arguments()
            while self._block(len(self._lengths)).is_file():
                self._lengths.append(self._shape(len(self._lengths))[1])

    def __len__(self) -> int:
        """The number of blocks that are there."""
        return len(self._lengths)

    @property
    def num_frames(self) -> int:
        """The number of frames in them."""
        return sum(self._lengths)

    def append(self, frames: Tensor) -> None:
        """Stores the next block: (C, F, H, W), exactly as it is."""
        if not self._lengths:
            self._begin()
        with atomic_file(self._block(len(self._lengths))) as file:
            file.write(save({"frames": frames.detach().cpu().contiguous()}))
        self._lengths.append(frames.shape[1])

    def __iter__(self) -> Iterator[Tensor]:
        """The blocks, (C, F, H, W) each, one in memory at a time."""
        for number in range(len(self._lengths)):
            yield self._read(number)

    def frames(self, start: int, stop: int) -> Tensor:
        """Frames start .. stop - 1, (C, stop - start, H, W), from the blocks that hold them.

        Raises:
            ValueError: there are no such frames.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise ValueError(
                f"VideoParts: 0 <= start < stop <= {self.num_frames} is needed, got {start} and {stop}"
            )
        found, first = [], 0
        for number, length in enumerate(self._lengths):
            low, high = max(start - first, 0), min(stop - first, length)
            if low < high:
                found.append(self._read(number)[:, low:high])
            first += length
        return torch.cat(found, dim=1)

    def finish(self, before: Iterable[Tensor] = ()) -> Path:
        """Writes the file, which takes its place in one step, and removes the folder; returns the file's path.

        Args:
            before: parts of the video, (C, F, H, W) each, that come before the blocks.
        """
        video = self.folder / f"video{self.target.suffix}"
        write_video(video, itertools.chain(before, self), fps=self._fps, scale=self._scale)
        os.replace(video, self.target)
        sync_folder(self.target.parent)
        (self.folder / _ARGUMENTS).unlink()  # from here on, what is left is no video in the making
        self._clear()
        with contextlib.suppress(OSError):  # not empty: something that is not ours
            self.folder.rmdir()
        return self.target

    def _begin(self) -> None:
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / _ARGUMENTS).is_file():
            self._clear()
            with atomic_file(self.folder / _ARGUMENTS) as file:
                file.write(json.dumps(self._arguments, indent=1).encode())

    def _clear(self) -> None:
        """Removes blocks, and what a kill left of a file half written."""
        for pattern in ("block-*.safetensors", ".vdm-*.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _check_arguments(self) -> None:
        try:
            found = json.loads((self.folder / _ARGUMENTS).read_text())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"VideoParts: {self.folder / _ARGUMENTS} is not readable; remove the folder")
        names = [
            name for name in {**found, **self._arguments} if found.get(name) != self._arguments.get(name)
        ]
        if names:
            changes = ", ".join(
                f"{name} {found.get(name)} (now {self._arguments.get(name)})" for name in names
            )
            raise ValueError(
                f"VideoParts: {self.folder} holds blocks of an interrupted run with {changes}; "
                "give the same again to go on, or remove the folder to start anew"
            )

    def _block(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.safetensors"

    def _shape(self, number: int) -> list[int]:
        with self._opened(number) as file:
            return list(file.get_slice("frames").get_shape())

    def _read(self, number: int) -> Tensor:
        with self._opened(number) as file:
            frames: Tensor = file.get_tensor("frames")
        return frames

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[Any]:
        path = self._block(number)
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(f"VideoParts: {path} must be a readable block, got: {error}") from error

"""A video file as a sequence of frames, of which a few are in memory at a time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from vdm.data.arguments import check_choice, check_int, check_positive, check_size
from vdm.data.pixels import from_uint8
from vdm.data.video_index import FrameIndex, UnreadableFileError
from vdm.data.video_reader import VideoReader
from vdm.data.view import View

# Grey videos come back from lossy colour formats with differences between channels of a few levels.
_GREY_TOLERANCE = 12


class VideoFile:
    """The frames of a video file, read in any order and portions.

    Args:
        path: of the file, in any format that FFmpeg reads.
        size: (H, W): the picture is scaled to cover it, its middle cropped; by default its own size.
        channels: 3, or 1 for luma.
        fps: take the frames nearest to times 0, 1 / fps, ...; by default every frame.

    Raises:
        ValueError: an argument out of its range; or the file is missing or broken.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        fps: float | None = None,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise ValueError(f"VideoFile: path must be the path of a file, got {path!r}")
        self.path = Path(path)
        self._channels = check_choice("VideoFile", "channels", channels, (1, 3))
        self._size = None if size is None else check_size("VideoFile", "size", size)
        self._resampled = None if fps is None else check_positive("VideoFile", "fps", fps)
        self._reader = VideoReader()
        first, index = self._read(np.zeros(1, np.int64), View(size=None, channels=3))
        self.size: tuple[int, int] = first.shape[1:3] if self._size is None else self._size
        """Height and width of what is read."""
        self.own_size: tuple[int, int] = first.shape[1:3]
        """Height and width in the file."""
        self.own_fps = _nominal_fps(index)
        """Frames per second of the file."""
        self.fps = self.own_fps if self._resampled is None else self._resampled
        """Frames per second of what is read."""
        self._seconds = index.seconds
        last = self._seconds[-1] + 0.5 / index.fps
        self.num_frames = len(index) if self._resampled is None else int(last * self._resampled) + 1
        """How many frames there are to read."""

    def read(self, start: int, stop: int) -> Tensor:
        """Returns frames start .. stop - 1, (C, F, H, W) float32 in [-1, 1].

        Raises:
            ValueError: there are no such frames, or they cannot be decoded.
        """
        return from_uint8(self._chosen(start, stop, self._channels))

    def is_grey(self, start: int, stop: int) -> bool:
        """Whether frames start .. stop - 1 are without colour, but for what compression does."""
        colours = self._chosen(start, stop, 3).astype(np.int16)
        return int((colours.max(-1) - colours.min(-1)).max()) <= _GREY_TOLERANCE

    def _chosen(self, start: int, stop: int, channels: int) -> np.ndarray:
        check_int("VideoFile", "start", start, minimum=0)
        check_int("VideoFile", "stop", stop, minimum=start + 1)
        if stop > self.num_frames:
            raise ValueError(f"VideoFile: stop must be at most num_frames={self.num_frames}, got {stop}")
        wanted = np.arange(start, stop)
        if self._resampled is not None:
            between = (self._seconds[1:] + self._seconds[:-1]) / 2
            wanted = np.searchsorted(between, wanted / self._resampled, side="right")
        return self._read(wanted, View(size=self._size, channels=channels))[0]

    def _read(self, wanted: np.ndarray, view: View) -> tuple[np.ndarray, FrameIndex]:
        def choose(index: FrameIndex) -> np.ndarray:
            if wanted[-1] >= len(index):
                raise UnreadableFileError(f"only {len(index)} of its frames can be decoded")
            return wanted

        try:
            return self._reader.read(self.path, choose, view)
        except UnreadableFileError as error:
            raise ValueError(f"VideoFile: {self.path} cannot be read: {error}") from error


def _nominal_fps(index: FrameIndex) -> float:
    """The rate of a video: the nearest whole number where rounding explains all time stamps, else the mean.

    A GIF of 8 frames per second has durations of 12 and 13 hundredths, and a mean that depends on where it ends.
    """
    whole = round(index.fps)
    if whole < 1:
        return index.fps
    units = np.arange(len(index)) / (whole * float(index.time_base))
    return float(whole) if np.abs(index.pts - index.pts[0] - units).max() <= 0.5 + 1e-6 else index.fps

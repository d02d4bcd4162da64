"""Reading chosen frames of video files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from torch import Tensor

from vdm.data.arguments import check_choice, check_int, check_size
from vdm.data.pixels import from_uint8
from vdm.data.video_index import (
    FrameIndex,
    UnreadableFileError,
    decode,
    index_by_decoding,
    index_from_header,
    index_from_packets,
    open_video,
)
from vdm.data.view import View

logger = logging.getLogger(__name__)

# Indexes of about this many frames are kept (tens of megabytes).
_MAX_CACHED_FRAMES = 1 << 22
_STAGES: tuple[Callable[[Path], FrameIndex | None], ...] = (
    index_from_header,
    index_from_packets,
    index_by_decoding,
)


class _MissingFramesError(Exception):
    """An index promised frames that decoding did not find."""


class VideoReader:
    """Reads frames of video files by number, and remembers the files' indexes.

    What it returns for a file depends on the file only, never on what was read before. It holds no open
    files, so it can be copied into other processes; there it starts without memory.
    """

    def __init__(self) -> None:
        self._outcomes: dict[tuple[Path, int], FrameIndex | UnreadableFileError | None] = {}
        self._cached_frames = 0
        self._reported: set[Path] = set()

    def __reduce__(self) -> tuple[type[VideoReader], tuple[()]]:
        return VideoReader, ()

    def read(
        self, path: Path, choose: Callable[[FrameIndex], np.ndarray], view: View
    ) -> tuple[np.ndarray, FrameIndex]:
        """Returns chosen frames, and the index they were chosen by.

        Args:
            path: of the file.
            choose: from an index, the numbers of the wanted frames: (F,), increasing or repeating. It may be
                called again with another index of the same file, and raises `UnreadableFileError` for one
                that is too short.
            view: what to show of each frame.

        Returns:
            (F, H, W, C) uint8, and the index.

        Raises:
            UnreadableFileError: the file is broken or too short.
        """
        for stage in range(len(_STAGES)):
            index = self._index(path, stage)
            if index is None:
                continue
            wanted = choose(index)
            try:
                return _read_frames(path, index, wanted, view), index
            except _MissingFramesError:
                if path not in self._reported and stage < len(_STAGES) - 1:
                    self._reported.add(path)
                    logger.warning("%s: some frames are missing or not where its index says", path)
        raise UnreadableFileError("its frames cannot be decoded")

    def _index(self, path: Path, stage: int) -> FrameIndex | None:
        key = (path, stage)
        if key not in self._outcomes:
            outcome: FrameIndex | UnreadableFileError | None
            try:
                outcome = _STAGES[stage](path)
            except UnreadableFileError as error:
                outcome = error.with_traceback(None)
            self._cached_frames += len(outcome) if isinstance(outcome, FrameIndex) else 1
            if self._cached_frames > _MAX_CACHED_FRAMES:
                self._outcomes.clear()
                self._cached_frames = 0
            self._outcomes[key] = outcome
        outcome = self._outcomes[key]
        if isinstance(outcome, UnreadableFileError):
            raise outcome
        return outcome


def _read_frames(path: Path, index: FrameIndex, wanted: np.ndarray, view: View) -> np.ndarray:
    """Decodes the wanted frames: (F, H, W, C) uint8."""
    if index.keyframes is None:
        found = _read_by_count(path, wanted, view)
        return _stack([found[number] for number in wanted.tolist()])
    stamps = index.pts[wanted].tolist()
    last_key = int(np.searchsorted(index.keyframes, stamps[0], side="right")) - 1
    # Where seeking lands too late (an open group of pictures' leading frames): a key frame earlier, then
    # the start.
    seeks: list[int | None] = [int(index.keyframes[key]) for key in (last_key, last_key - 1) if key > 0]
    for seek in [*seeks, None]:
        frames = _read_by_pts(path, stamps, view, seek)
        if frames is not None:
            return _stack([frames[stamp] for stamp in stamps])
    raise _MissingFramesError


def _stack(frames: Sequence[np.ndarray]) -> np.ndarray:
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) > 1:
        raise UnreadableFileError(f"its frames change size, {shapes[0][:2]} to {shapes[-1][:2]}; give a size")
    return np.stack(frames)


def _read_by_pts(
    path: Path, stamps: Sequence[int], view: View, seek: int | None
) -> dict[int, np.ndarray] | None:
    """Returns frames by time stamp, or None if decoding from `seek` begins after the first one."""
    missing = set(stamps)
    frames: dict[int, np.ndarray] = {}
    with open_video(path) as (container, stream):
        if seek is not None:
            try:
                container.seek(seek, stream=stream, backward=True)
            except av.FFmpegError:
                return None
        aspect, scaler = _pixel_aspect(stream), VideoReformatter()
        previous: int | None = None
        for frame in decode(container, stream):
            if frame.pts is None or (previous is not None and frame.pts <= previous):
                raise _MissingFramesError  # time stamps that decoding does not confirm
            if previous is None and seek is not None and (frame.pts > stamps[0] or not frame.key_frame):
                return None
            previous = frame.pts
            if frame.pts in missing:
                missing.remove(frame.pts)
                frames[frame.pts] = view.of_frame(frame, scaler=scaler, pixel_aspect=aspect)
            if not missing:
                return frames
            if frame.pts > stamps[-1]:
                break
    raise _MissingFramesError


def _read_by_count(path: Path, wanted: np.ndarray, view: View) -> dict[int, np.ndarray]:
    numbers = set(wanted.tolist())
    frames: dict[int, np.ndarray] = {}
    with open_video(path) as (container, stream):
        aspect, scaler = _pixel_aspect(stream), VideoReformatter()
        for number, frame in enumerate(decode(container, stream)):
            if number in numbers:
                frames[number] = view.of_frame(frame, scaler=scaler, pixel_aspect=aspect)
            if len(frames) == len(numbers):
                return frames
    raise _MissingFramesError


def _pixel_aspect(stream: av.VideoStream) -> float:
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect and aspect > 0 else 1.0


def read_video(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    num_frames: int | None = None,
    frame_skip: int = 1,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
) -> tuple[Tensor, float]:
    """Reads a video file, or frames start, start + frame_skip, ... of it.

    Args:
        path: of the file, in any format that FFmpeg reads.
        start: number of the first frame.
        num_frames: how many frames; by default all to the end.
        frame_skip: take every frame_skip-th frame.
        size: H = W, or (H, W): the picture is scaled to cover it, its middle cropped; by default its own
            size.
        channels: 3, or 1 for luma.

    Returns:
        The video (C, F, H, W) float32 in [-1, 1], and its frames per second (after frame_skip).

    Raises:
        ValueError: an argument out of its range; or the file is missing, broken, or has too few frames.
    """
    where = "read_video"
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"{where}: path must be the path of a file, got {path!r}")
    check_int(where, "start", start, minimum=0)
    check_int(where, "frame_skip", frame_skip, minimum=1)
    if num_frames is not None:
        check_int(where, "num_frames", num_frames, minimum=1)
    sides = None if size is None else check_size(where, "size", size)
    view = View(size=sides, channels=check_choice(where, "channels", channels, (1, 3)))

    def choose(index: FrameIndex) -> np.ndarray:
        stop = len(index) if num_frames is None else start + (num_frames - 1) * frame_skip + 1
        if stop > len(index) or start >= stop:
            raise UnreadableFileError(f"it has {len(index)} frames, {max(stop, start + 1)} are needed")
        return np.arange(start, stop, frame_skip)

    try:
        frames, index = VideoReader().read(Path(path), choose, view)
    except UnreadableFileError as error:
        raise ValueError(f"{where}: {os.fspath(path)} cannot be read: {error}") from error
    return from_uint8(frames), index.fps / frame_skip

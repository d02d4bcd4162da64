"""Which frames a video file has, and when they are shown.

An index is found in up to three ways, from cheap to sure: from the header (MP4 with a constant frame rate:
a look at a table), from the packets (reads the file, decodes nothing), and by decoding everything (for
files whose time stamps are missing, doubled or wrong, or whose end is missing). Frames are numbered in the
order they are shown in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

PASSING_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
_VP8_SHOW_FRAME = 0x10


class UnreadableFileError(ValueError):
    """A file that cannot be used; the message is the reason, without the file's name."""


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """The frames of a video.

    Attributes:
        pts: (n,) int64, increasing: when each frame is shown, in units of `time_base`.
        time_base: in seconds.
        fps: mean frames per second.
        keyframes: increasing times to seek to; or None: frames are found by counting from the start.
    """

    pts: np.ndarray
    time_base: Fraction
    fps: float
    keyframes: np.ndarray | None

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def seconds(self) -> np.ndarray:
        """(n,) float64, when each frame is shown, from 0."""
        return (self.pts - self.pts[0]) * float(self.time_base)


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file's first video stream, on one thread.

    Raises:
        UnreadableFileError: from the call or the block, where FFmpeg cannot read the file. Faults of the
            machine rather than the file (too many open files, no memory, a failing disk) are raised as they
            are.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableFileError("it has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, OSError) and error.errno in PASSING_FAULTS:
            raise
        raise UnreadableFileError(getattr(error, "strerror", None) or str(error)) from error


def decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Yields the frames that can be decoded from the container's position on, in the order shown.

    After damage it goes on at the next key frame: what is between them is made from the damaged frames.
    """
    packets = container.demux(stream)
    ended = damaged = False
    while not ended:
        try:
            packet = next(packets, None)
        except (av.error.InvalidDataError, av.error.EOFError):
            packet = None
        if packet is None or (packet.size == 0 and packet.dts is None):
            packet, ended = None, True
        elif packet.size == 0:  # a dropped frame of an AVI; the decoder would take it for the end
            continue
        try:
            frames = stream.codec_context.decode(packet)
        except (av.error.InvalidDataError, av.error.EOFError):
            damaged = True
            continue
        for frame in frames:
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if not damaged:
                yield frame


def index_from_header(path: Path) -> FrameIndex | None:
    """Returns the index of an MP4 or MOV of constant frame rate, or None where the header does not tell."""
    with open_video(path) as (container, stream):
        entries = getattr(stream, "index_entries", None)
        if "mp4" not in container.format.name or not entries or len(entries) != stream.frames:
            return None
        if stream.frames < 2 or stream.start_time is None or any(entry.is_discard for entry in entries):
            return None
        decoded_at = np.array([entry.timestamp for entry in entries], np.int64)
        steps = np.diff(decoded_at)
        if steps[0] <= 0 or (steps != steps[0]).any():
            return None
        pts = stream.start_time + steps[0] * np.arange(stream.frames, dtype=np.int64)
        is_key = np.array([entry.is_keyframe for entry in entries], bool)
        fps = float(1 / (int(steps[0]) * stream.time_base))
        return FrameIndex(pts, stream.time_base, fps, keyframes=pts[is_key])


def index_from_packets(path: Path) -> FrameIndex:
    """Returns the index by reading all packets, without decoding.

    Raises:
        UnreadableFileError: the file cannot be read or has no frames.
    """
    pts: list[int | None] = []
    is_key: list[bool] = []
    with open_video(path) as (container, stream), contextlib.suppress(av.error.InvalidDataError):
        rate, time_base = stream.average_rate, stream.time_base
        # AVI has no presentation times: FFmpeg then stamps packets in the order of decoding.
        unordered = container.format.name == "avi" and stream.codec_context.has_b_frames
        hidden = stream.codec_context.name in ("vp8", "libvpx")
        for packet in container.demux(stream):
            if packet.size == 0 or getattr(packet, "is_discard", False):
                continue
            if hidden and not bytes(packet)[0] & _VP8_SHOW_FRAME:
                continue
            pts.append(packet.pts)
            is_key.append(packet.is_keyframe)
    if not pts:
        raise UnreadableFileError("it has no frames")
    stamps = np.array([stamp for stamp in pts if stamp is not None], np.int64)
    if unordered or len(np.unique(stamps)) < len(pts):
        return _counted_index(len(pts), rate)
    order = np.argsort(stamps)
    times = stamps[order]
    return FrameIndex(times, time_base, _mean_fps(times, time_base, rate), times[np.array(is_key)[order]])


def index_by_decoding(path: Path) -> FrameIndex:
    """Returns the index of the frames that can be decoded, by decoding them all.

    Raises:
        UnreadableFileError: the file cannot be read or no frame can be decoded.
    """
    with open_video(path) as (container, stream):
        rate, time_base = stream.average_rate, stream.time_base
        stamps = [frame.pts for frame in decode(container, stream)]
    if not stamps:
        raise UnreadableFileError("none of its frames can be decoded")
    times = np.array([stamp for stamp in stamps if stamp is not None], np.int64)
    if len(times) < len(stamps) or (np.diff(times) <= 0).any():
        return _counted_index(len(stamps), rate)
    return FrameIndex(times, time_base, _mean_fps(times, time_base, rate), keyframes=None)


def _mean_fps(pts: np.ndarray, time_base: Fraction, rate: Fraction | None) -> float:
    if len(pts) > 1:
        return float((len(pts) - 1) / (int(pts[-1] - pts[0]) * time_base))
    return float(rate or 1)


def _counted_index(num_frames: int, rate: Fraction | None) -> FrameIndex:
    """Returns the index of frames without usable time stamps, as if at the stream's nominal rate."""
    rate = Fraction(rate or 25)
    return FrameIndex(np.arange(num_frames, dtype=np.int64), 1 / rate, float(rate), keyframes=None)

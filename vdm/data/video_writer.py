"""Encoded video files: MP4 and its siblings, whole or frame by frame."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from torch import Tensor

from vdm.data.arguments import check_int, check_positive
from vdm.data.atomic_files import atomic_file, check_target
from vdm.data.gif import GifWriter
from vdm.data.pixels import enlarge, frames_to_uint8

# By extension: the container's name in FFmpeg, and the encoders to try, best first.
_CONTAINERS = {
    ".mp4": ("mp4", ("libx264", "libopenh264", "mpeg4")),
    ".mov": ("mov", ("libx264", "libopenh264", "mpeg4")),
    ".mkv": ("matroska", ("libx264", "libopenh264", "mpeg4")),
    ".webm": ("webm", ("libvpx-vp9", "libvpx")),
    ".avi": ("avi", ("mpeg4",)),
}
# Colour tags of H.273, without which players guess by size and colours shift. AVI has none, and means BT.601.
_BT709 = 1
_BT601 = 6
_LIMITED_RANGE = 1


class VideoWriter:
    """Writes a video file frame by frame; a context manager.

    The file appears under its name when the block ends, complete; when the block raises, it does not appear,
    and what was there before stays. Pixels are 4:2:0, limited range, BT.709 (AVI: BT.601); an odd height or
    width is made even by repeating the last row or column.

    Args:
        path: of the file: .mp4, .mov, .mkv (H.264), .webm (VP9) or .avi (MPEG-4).
        fps: frames per second.
        crf: quality from 0 (best) to 51; 18 looks like the original.
        scale: every pixel becomes a square of this side.

    Raises:
        ValueError: an argument out of its range, an unknown extension, or no encoder for it in this FFmpeg.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float, crf: int = 18, scale: int = 1) -> None:
        self._path = check_target("VideoWriter", path)
        self._format, candidates = _container("VideoWriter", self._path)
        self._rate = Fraction(check_positive("VideoWriter", "fps", fps, maximum=1000)).limit_denominator(1001)
        if self._rate <= 0:
            raise ValueError(f"VideoWriter: fps must be at least 1/1001, got {fps!r}")
        self._crf = check_int("VideoWriter", "crf", crf, minimum=0, maximum=51)
        self._scale = check_int("VideoWriter", "scale", scale, minimum=1)
        available = [name for name in candidates if name in av.codecs_available]
        if not available:
            raise ValueError(
                f"VideoWriter: {self._path.suffix} needs one of the encoders {', '.join(candidates)}"
            )
        self._codec = available[0]
        self._resources = contextlib.ExitStack()
        self._output: tuple[av.container.OutputContainer, av.VideoStream] | None = None
        self._shape: tuple[int, ...] | None = None
        self._entered = False
        self.num_frames = 0
        """Frames written so far."""

    def __enter__(self) -> VideoWriter:
        self._entered = True
        return self

    def append(self, frames: Tensor) -> None:
        """Writes frames.

        Args:
            frames: (C, F, H, W), or (C, H, W) for one; C 1 or 3; floating point in [-1, 1] (clamped) or
                uint8. C, H and W must be the same in every call.

        Raises:
            ValueError: not such a tensor, NaN or infinity in it, or called outside the `with` block.
        """
        if not self._entered:
            raise ValueError(
                "VideoWriter: append must be called inside the writer's `with` block, got outside"
            )
        pixels = frames_to_uint8("VideoWriter", frames, self._shape)
        self._shape = pixels.shape[1:]
        for frame in pixels:
            picture = enlarge(frame, self._scale)
            odd_rows, odd_columns = picture.shape[0] % 2, picture.shape[1] % 2
            picture = np.pad(picture, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
            self._encode(np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3))))

    def _encode(self, picture: np.ndarray) -> None:
        if self._output is None:
            self._output = self._open(*picture.shape[:2])
        container, stream = self._output
        colorspace = "ITU601" if self._format == "avi" else "ITU709"
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=colorspace, dst_color_range="MPEG", interpolation="BICUBIC"
        )
        frame.pts = self.num_frames
        frame.time_base = 1 / self._rate
        container.mux(stream.encode(frame))
        self.num_frames += 1

    def _open(self, height: int, width: int) -> tuple[av.container.OutputContainer, av.VideoStream]:
        file = self._resources.enter_context(atomic_file(self._path))
        container = av.open(file, mode="w", format=self._format)
        self._resources.callback(_close_quietly, container)
        stream = container.add_stream(self._codec, rate=self._rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = 1 / self._rate
        context = stream.codec_context
        context.thread_count = 1  # the bytes of a file depend on the number of threads, and must not
        colours = _BT601 if self._format == "avi" else _BT709
        context.color_primaries = context.color_trc = context.colorspace = colours
        context.color_range = _LIMITED_RANGE
        context.options = _encoder_options(self._codec, self._crf)
        return container, stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        if kind is not None:
            self._resources.__exit__(kind, error, trace)
            return
        if self._output is None:
            name = self._path.name
            raise ValueError(f"VideoWriter: at least one frame must be appended to {name}, got none")
        container, stream = self._output
        with self._resources:  # so that what fails here undoes the file like a failure inside the block
            container.mux(stream.encode(None))
            container.close()


def _close_quietly(container: av.container.OutputContainer) -> None:
    """Frees an encoder whose file is finished (then this does nothing) or is being given up."""
    with contextlib.suppress(av.FFmpegError, OSError, ValueError):
        container.close()


def _encoder_options(codec: str, crf: int) -> dict[str, str]:
    if codec == "libx264":
        # Its macroblock tree takes frames of a few macroblocks differently from one time to the next.
        return {"crf": str(crf), "x264-params": "mbtree=0"}
    if codec in ("libvpx-vp9", "libvpx"):
        return {"crf": str(crf), "b": "0", "deadline": "good", "cpu-used": "4"}
    # Quantizer scale of MPEG-4: 1 (best) to 31, in units of FF_QP2LAMBDA = 118.
    return {"flags": "+qscale", "global_quality": str(118 * max(1, min(31, round(crf / 6))))}


def _container(where: str, path: Path) -> tuple[str, tuple[str, ...]]:
    extension = path.suffix.lower()
    if extension not in _CONTAINERS:
        raise ValueError(f"{where}: path must end in {', '.join(_CONTAINERS)}, got {path.name}")
    return _CONTAINERS[extension]


def write_mp4(
    path: str | os.PathLike[str], video: Tensor, *, fps: float, crf: int = 18, scale: int = 1
) -> None:
    """Writes a video as an MP4 file (or .mov, .mkv, .webm, .avi), complete or not there; see `VideoWriter`.

    Args:
        path: of the file.
        video: (C, F, H, W), C 1 or 3, floating point in [-1, 1] (clamped) or uint8.
        fps, crf, scale: as for `VideoWriter`.

    Raises:
        ValueError: an argument out of its range, or a video with NaN or infinity.
    """
    with VideoWriter(path, fps=fps, crf=crf, scale=scale) as writer:
        writer.append(video)


def video_writer(path: str | os.PathLike[str], *, fps: float, scale: int = 1) -> VideoWriter | GifWriter:
    """Returns the writer for the format that a path's extension names.

    Args:
        path: of the file: .gif, .mp4, .mov, .mkv, .webm or .avi.
        fps: frames per second.
        scale: every pixel becomes a square of this side.

    Raises:
        ValueError: an unknown extension, or an argument out of its range.
    """
    extension = check_target("video_writer", path).suffix.lower()
    if extension == ".gif":
        return GifWriter(path, fps=fps, scale=scale)
    if extension in _CONTAINERS:
        return VideoWriter(path, fps=fps, scale=scale)
    known = ", ".join([".gif", *_CONTAINERS])
    raise ValueError(f"video_writer: path must end in {known}, got {os.path.basename(path)}")


def write_video(
    path: str | os.PathLike[str], video: Tensor | Iterable[Tensor], *, fps: float, scale: int = 1
) -> None:
    """Writes a video in the format its extension names: .gif, .mp4, .mov, .mkv, .webm or .avi.

    Args:
        path: of the file; complete or not there.
        video: (C, F, H, W), C 1 or 3, floating point in [-1, 1] (clamped) or uint8; or an iterable of such
            parts, and of frames (C, H, W), one after the other. One part is in memory at a time.
        fps: frames per second.
        scale: every pixel becomes a square of this side.

    Raises:
        ValueError: an unknown extension, an argument out of its range, or a video with NaN or infinity.
    """
    with video_writer(path, fps=fps, scale=scale) as writer:
        for part in [video] if isinstance(video, Tensor) else video:
            writer.append(part)

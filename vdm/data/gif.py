"""Animated GIF files, whole or frame by frame."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO

import numpy as np
from PIL import GifImagePlugin, Image
from torch import Tensor

from vdm.data.arguments import check_int, check_positive
from vdm.data.atomic_files import atomic_file, check_target
from vdm.data.pixels import enlarge, frames_to_uint8

# A palette is chosen from about this many pixels, spread over all frames.
_PALETTE_PIXELS = 1 << 20
# Frames wait for their palette in memory up to this many bytes, on the disk beyond.
_SPOOL_BYTES = 1 << 24


class GifWriter:
    """Writes a GIF that repeats for ever, frame by frame; a context manager.

    The file appears under its name when the block ends, complete; when the block raises, it does not appear,
    and what was there before stays. One palette serves all frames and can be chosen only after the last one:
    until then the frames wait in a temporary file, so that memory does not grow with their number.

    Grey videos, and colour videos of up to 256 colours, are stored exactly; others get one palette for all
    frames, so that what stands still does not flicker. GIF counts time in 1/100 s: durations are rounded so
    that the video as a whole keeps its speed. Every frame is kept, equal neighbours too.

    Args:
        path: of the file.
        fps: frames per second, at most 50 (browsers slow down what is faster).
        scale: every pixel becomes a square of this side.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float, scale: int = 1) -> None:
        self._path = check_target("GifWriter", path)
        self._fps = check_positive("GifWriter", "fps", fps, maximum=50)
        self._scale = check_int("GifWriter", "scale", scale, minimum=1)
        self._resources = contextlib.ExitStack()
        self._spool: IO[bytes] | None = None
        self._shape: tuple[int, ...] | None = None
        self._colours: np.ndarray | None = np.zeros(0, np.uint32)  # all so far, or None for over 256
        self.num_frames = 0
        """Frames written so far."""

    def __enter__(self) -> GifWriter:
        spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES, dir=str(self._path.parent))
        self._spool = self._resources.enter_context(spool)
        return self

    def append(self, frames: Tensor) -> None:
        """Writes frames.

        Args:
            frames: (C, F, H, W), or (C, H, W) for one; C 1 or 3; floating point in [-1, 1] (clamped) or
                uint8. C, H and W must be the same in every call, and a side at most 65535 pixels of the file.

        Raises:
            ValueError: not such a tensor, NaN or infinity in it, or called outside the `with` block.
        """
        if self._spool is None:
            raise ValueError("GifWriter: append must be called inside the writer's `with` block, got outside")
        pixels = frames_to_uint8("GifWriter", frames, self._shape)
        if max(pixels.shape[1:3]) * self._scale > 65535:
            raise ValueError(
                f"GifWriter: sides must be at most 65535 pixels, got {tuple(frames.shape)} times {self._scale}"
            )
        self._shape = pixels.shape[1:]
        if self._colours is not None and pixels.shape[-1] == 3:
            colours = np.union1d(self._colours, _packed(pixels))
            self._colours = colours if len(colours) <= 256 else None
        self._spool.write(pixels.tobytes())
        self.num_frames += len(pixels)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._resources:
            if kind is None:
                self._encode()
        self._spool = None

    def _encode(self) -> None:
        if self._shape is None:
            raise ValueError(f"GifWriter: at least one frame must be appended to {self._path.name}, got none")
        palette, indices = self._palette()
        height, width = (side * self._scale for side in self._shape[:2])
        times = [round(100 * frame / self._fps) for frame in range(self.num_frames + 1)]
        previous: np.ndarray | None = None
        with atomic_file(self._path) as file:
            # The screen and its 256 colours, then the Netscape extension that repeats for ever (GIF89a, 18, 26).
            file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + palette.tobytes())
            file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
            for pixels, start, end in zip(self._frames(), times[:-1], times[1:], strict=True):
                frame = indices(pixels)
                top, bottom, left, right = _changed(previous, frame)
                box = enlarge(frame[top:bottom, left:right, None], self._scale)
                image = Image.fromarray(box[:, :, 0], "L")
                image.putpalette(palette.tobytes())
                offset = (left * self._scale, top * self._scale)
                for block in GifImagePlugin.getdata(image, offset, duration=10 * (end - start)):
                    file.write(block)
                previous = frame
            file.write(b";")

    def _frames(self) -> Iterator[np.ndarray]:
        """The frames (H, W, C) uint8, from the first."""
        assert self._spool is not None
        assert self._shape is not None
        self._spool.seek(0)
        for _ in range(self.num_frames):
            pixels = self._spool.read(int(np.prod(self._shape)))
            yield np.frombuffer(pixels, np.uint8).reshape(self._shape)

    def _palette(self) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """The palette (256, 3) uint8, and what gives its indices (H, W) uint8 for a frame (H, W, C)."""
        assert self._shape is not None
        if self._shape[-1] == 1:
            grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
            return grey, lambda frame: frame[..., 0]
        palette, colours = np.zeros((256, 3), np.uint8), self._colours
        if colours is not None:
            palette[: len(colours)] = colours[:, None] >> np.array([16, 8, 0]) & 255
            return palette, lambda frame: np.searchsorted(colours, _packed(frame)).astype(np.uint8)
        chosen = Image.fromarray(self._sample()[None], "RGB").quantize(
            256, Image.Quantize.MEDIANCUT, kmeans=1
        )
        values = np.array(chosen.getpalette(), np.uint8).reshape(-1, 3)
        palette[: len(values)] = values

        def nearest(frame: np.ndarray) -> np.ndarray:
            return np.asarray(
                Image.fromarray(frame, "RGB").quantize(palette=chosen, dither=Image.Dither.NONE)
            )

        return palette, nearest

    def _sample(self) -> np.ndarray:
        """Every n-th pixel of the video, (about _PALETTE_PIXELS, 3) uint8."""
        assert self._shape is not None
        per_frame = self._shape[0] * self._shape[1]
        step = -(-self.num_frames * per_frame // _PALETTE_PIXELS)
        pixels = (frame.reshape(-1, 3) for frame in self._frames())
        # Copies: a view of a few pixels would keep the whole frame.
        return np.concatenate(
            [frame[-number * per_frame % step :: step].copy() for number, frame in enumerate(pixels)]
        )


def write_gif(path: str | os.PathLike[str], video: Tensor, *, fps: float, scale: int = 1) -> None:
    """Writes a video as a GIF that repeats for ever; see `GifWriter`.

    Args:
        path: of the file; complete or not there.
        video: (C, F, H, W), C 1 or 3, floating point in [-1, 1] (clamped) or uint8.
        fps: frames per second, at most 50 (browsers slow down what is faster).
        scale: every pixel becomes a square of this side.

    Raises:
        ValueError: an argument out of its range, or a video with NaN or infinity.
    """
    with GifWriter(path, fps=fps, scale=scale) as writer:
        writer.append(video)


def _packed(pixels: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 as one number each, (...) uint32."""
    return pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)


def _changed(previous: np.ndarray | None, frame: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the box (top, bottom, left, right) that holds every change to a frame; it is never empty."""
    if previous is None:
        return 0, frame.shape[0], 0, frame.shape[1]
    rows, columns = np.nonzero(previous != frame)
    if len(rows) == 0:
        return 0, 1, 0, 1
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1

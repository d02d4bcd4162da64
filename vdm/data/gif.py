"""Animated GIF files."""

from __future__ import annotations

import os
import struct

import numpy as np
from PIL import GifImagePlugin, Image
from torch import Tensor

from vdm.data.arguments import check_int, check_positive
from vdm.data.atomic_files import atomic_file, check_target
from vdm.data.pixels import enlarge, to_uint8

# A palette is chosen from about this many pixels, spread over all frames.
_PALETTE_PIXELS = 1 << 20


def write_gif(path: str | os.PathLike[str], video: Tensor, *, fps: float, scale: int = 1) -> None:
    """Writes a video as a GIF that repeats for ever.

    Grey videos, and colour videos of up to 256 colours, are stored exactly; others get one palette for all
    frames, so that what stands still does not flicker. GIF counts time in 1/100 s: durations are rounded so
    that the video as a whole keeps its speed. Every frame is kept, equal neighbours too.

    Args:
        path: of the file; complete or not there.
        video: (C, F, H, W), C 1 or 3, floating point in [-1, 1] (clamped) or uint8.
        fps: frames per second, at most 50 (browsers slow down what is faster).
        scale: every pixel becomes a square of this side.

    Raises:
        ValueError: an argument out of its range, or a video with NaN or infinity.
    """
    target = check_target("write_gif", path)
    check_positive("write_gif", "fps", fps, maximum=50)
    check_int("write_gif", "scale", scale, minimum=1)
    frames = to_uint8("write_gif", "video", video)
    if frames.ndim != 4 or max(frames.shape[1:3]) * scale > 65535:
        raise ValueError(
            f"write_gif: video must have shape (C, F, H, W) with sides up to 65535, got {tuple(video.shape)}"
        )
    indices, palette = _indexed(frames)
    height, width = (side * scale for side in frames.shape[1:3])
    times = [round(100 * frame / fps) for frame in range(len(frames) + 1)]
    previous: np.ndarray | None = None
    with atomic_file(target) as file:
        # The screen and its 256 colours, then the Netscape extension that repeats for ever (GIF89a, 18, 26).
        file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + palette.tobytes())
        file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
        for frame, start, end in zip(indices, times[:-1], times[1:], strict=True):
            top, bottom, left, right = _changed(previous, frame)
            image = Image.fromarray(enlarge(frame[top:bottom, left:right, None], scale)[:, :, 0], "L")
            image.putpalette(palette.tobytes())
            for block in GifImagePlugin.getdata(
                image, (left * scale, top * scale), duration=10 * (end - start)
            ):
                file.write(block)
            previous = frame
        file.write(b";")


def _changed(previous: np.ndarray | None, frame: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the box (top, bottom, left, right) that holds every change to a frame; it is never empty."""
    if previous is None:
        return 0, frame.shape[0], 0, frame.shape[1]
    rows, columns = np.nonzero(previous != frame)
    if len(rows) == 0:
        return 0, 1, 0, 1
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def _indexed(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns palette indices (F, H, W) uint8 and the palette (256, 3) uint8 of frames (F, H, W, C)."""
    if frames.shape[-1] == 1:
        return frames[..., 0], np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    packed = frames.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours = np.unique(packed)
    palette = np.zeros((256, 3), np.uint8)
    if len(colours) <= 256:
        palette[: len(colours)] = colours[:, None] >> np.array([16, 8, 0]) & 255
        return np.searchsorted(colours, packed).astype(np.uint8), palette
    pixels = frames.reshape(-1, 3)
    sample = np.ascontiguousarray(pixels[:: -(-len(pixels) // _PALETTE_PIXELS)])[None]
    chosen = Image.fromarray(sample, "RGB").quantize(256, Image.Quantize.MEDIANCUT, kmeans=1)
    values = np.array(chosen.getpalette(), np.uint8).reshape(-1, 3)
    palette[: len(values)] = values
    indices = [
        np.asarray(Image.fromarray(frame, "RGB").quantize(palette=chosen, dither=Image.Dither.NONE))
        for frame in frames
    ]
    return np.stack(indices), palette

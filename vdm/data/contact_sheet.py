"""Contact sheets: many videos in one picture."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vdm.data.arguments import check_int
from vdm.data.atomic_files import atomic_file, check_target
from vdm.data.pixels import enlarge, to_uint8

_GAP = 2
_MARGIN = 8
_BACKGROUND = (96, 96, 96)
_INK = (255, 255, 255)


def write_contact_sheet(
    path: str | os.PathLike[str],
    videos: Tensor,
    *,
    frames: int | None = None,
    columns: int = 1,
    labels: Sequence[object] | None = None,
    scale: int = 1,
) -> None:
    """Writes videos as one PNG: a row of frames for each, time running to the right.

    Args:
        path: of the file, ending in .png; complete or not there.
        videos: (B, C, F, H, W), C 1 or 3, floating point in [-1, 1] (clamped) or uint8.
        frames: how many frames to show of each video, evenly spaced from first to last; by default all.
        columns: how many videos to put side by side.
        labels: B texts (or anything that `str` turns into one), written to the left of the videos.
        scale: every pixel becomes a square of this side.

    Raises:
        ValueError: an argument out of its range, or videos with NaN or infinity.
    """
    where = "write_contact_sheet"
    target = check_target(where, path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"{where}: path must end in .png, got {target.name}")
    check_int(where, "columns", columns, minimum=1)
    check_int(where, "scale", scale, minimum=1)
    pixels = to_uint8(where, "videos", videos)
    if pixels.ndim != 5:
        raise ValueError(f"{where}: videos must have shape (B, C, F, H, W), got {tuple(videos.shape)}")
    count, num_frames = pixels.shape[:2]
    shown = (
        num_frames if frames is None else check_int(where, "frames", frames, minimum=1, maximum=num_frames)
    )
    texts = [""] * count if labels is None else [str(label) for label in labels]
    if len(texts) != count:
        raise ValueError(
            f"{where}: labels must have one entry for each of the {count} videos, got {len(texts)}"
        )
    picked = np.rint(np.linspace(0, num_frames - 1, shown)).astype(np.int64)
    sheet = _compose(enlarge(pixels[:, picked], scale), texts, min(columns, count))
    with atomic_file(target) as file:
        sheet.save(file, format="PNG")


def _compose(pixels: np.ndarray, texts: Sequence[str], columns: int) -> Image.Image:
    """Lays out videos (B, F, H, W, C) in a grid of `columns`, each with its text on the left."""
    count, num_frames, height, width, _ = pixels.shape
    font = ImageFont.load_default(size=max(10, min(20, height // 3)))
    text_width = max(int(font.getlength(text)) + 1 for text in texts) + _MARGIN if any(texts) else 0
    cell_width = text_width + num_frames * (width + _GAP) - _GAP
    rows = -(-count // columns)
    size = (
        2 * _GAP + columns * cell_width + (columns - 1) * _MARGIN,
        2 * _GAP + rows * (height + _GAP) - _GAP,
    )
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (video, text) in enumerate(zip(pixels, texts, strict=True)):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (cell_width + _MARGIN), _GAP + row * (height + _GAP)
        if text:
            draw.text((left + _MARGIN // 2, top + height // 2), text, fill=_INK, font=font, anchor="lm")
        for step, frame in enumerate(video):
            rgb = np.ascontiguousarray(np.broadcast_to(frame, (height, width, 3)))
            sheet.paste(Image.fromarray(rgb), (left + text_width + step * (width + _GAP), top))
    return sheet

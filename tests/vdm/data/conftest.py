"""Small video files whose frames carry their own number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from torch import Tensor

_BITS = 8
_BAR = 8


def _numbered_frame(number: int, height: int) -> np.ndarray:
    """(height, 64, 3) uint8: the bits of a number as black and white bars, which survive compression."""
    bits = (number >> np.arange(_BITS)) & 1
    row = np.repeat(255 * bits, _BAR).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, _BITS * _BAR, 3)).copy()


@pytest.fixture
def make_video() -> Callable[..., Path]:
    """Returns a function that writes a file of numbered frames with PyAV."""

    def make(
        path: Path,
        num_frames: int = 40,
        *,
        height: int = 48,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rate: int = 25,
        options: dict[str, str] | None = None,
        milliseconds: Sequence[int] | None = None,
        start: int = 0,
        frames: Sequence[np.ndarray] | None = None,
        sample_aspect_ratio: Fraction | None = None,
    ) -> Path:
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg has no encoder {codec}")
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = frames or [_numbered_frame(number, height) for number in range(num_frames)]
        # With x264's macroblock tree, files now and then differ from one time to the next.
        same = {"x264-params": "mbtree=0"} if codec == "libx264" else {}
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, options={**same, **(options or {})})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pix_fmt
            if sample_aspect_ratio is not None:
                stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
            unit = Fraction(1, rate) if milliseconds is None else Fraction(1, 1000)
            if milliseconds is not None:
                stream.time_base = stream.codec_context.time_base = unit
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
                frame.pts = number + start if milliseconds is None else milliseconds[number]
                frame.time_base = unit
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def frame_numbers() -> Callable[[Tensor], list[int]]:
    """Returns a function that reads the numbers from a video (C, F, H, W) of numbered frames, of any size."""

    def read(video: Tensor) -> list[int]:
        centres = ((np.arange(_BITS) + 0.5) / _BITS * video.shape[3]).astype(int)
        bits = video[0, :, video.shape[2] // 2][:, centres].numpy() > 0
        return (bits @ (1 << np.arange(_BITS))).tolist()

    return read

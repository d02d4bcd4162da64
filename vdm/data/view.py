"""What a clip shows of a picture: scaled to cover a size, cropped, flipped."""

from __future__ import annotations

import dataclasses
import math

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from vdm.data.pixels import to_grey


@dataclasses.dataclass(frozen=True)
class View:
    """A picture is scaled until it just covers `size`, then cropped to it.

    Attributes:
        size: (H, W) of the result; None keeps the picture's own.
        channels: 1 (luma) or 3.
        crop: where to crop, down and across, each in [0, 1): 0 at the top left; 0.5 the middle.
        flip: mirror left to right.
    """

    size: tuple[int, int] | None
    channels: int
    crop: tuple[float, float] = (0.5, 0.5)
    flip: bool = False

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        size: tuple[int, int],
        channels: int,
        crop: str,
        horizontal_flip: bool,
    ) -> View:
        """Draws a view, always with three numbers from `rng`, so that what is drawn next does not shift."""
        down, across, mirror = rng.random(3).tolist()
        return cls(
            size=size,
            channels=channels,
            crop=(down, across) if crop == "random" else (0.5, 0.5),
            flip=horizontal_flip and mirror < 0.5,
        )

    def of_frame(
        self, frame: av.VideoFrame, *, scaler: VideoReformatter, pixel_aspect: float = 1.0
    ) -> np.ndarray:
        """Returns the view of a decoded frame, upright: (H, W, C) uint8.

        Args:
            frame: any pixel format; transparent parts become black; its rotation (phones) is undone.
            scaler: keeps its filter tables between frames of one size.
            pixel_aspect: a pixel's width over its height.
        """
        if any(component.is_alpha for component in frame.format.components):
            rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
            opaque = (rgba[..., :3] * rgba[..., 3:] + 127) // 255
            frame = av.VideoFrame.from_ndarray(opaque.astype(np.uint8), format="rgb24")
        quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
        height, width = frame.height, max(1, round(frame.width * pixel_aspect))
        if quarter_turns % 2:
            width, height = self._covering(width, height)
        else:
            height, width = self._covering(height, width)
        picture = scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BICUBIC"
        ).to_ndarray()
        return self._finish(np.rot90(picture, quarter_turns))

    def of_image(self, image: Image.Image) -> np.ndarray:
        """Returns the view of an image, upright: (H, W, C) uint8. Transparent parts become black."""
        if self.size is not None and image.format == "JPEG":
            image.draft(
                None, (2 * max(self.size), 2 * max(self.size))
            )  # decodes big pictures at reduced size
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        height, width = self._covering(image.height, image.width)
        picture = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        return self._finish(np.asarray(picture))

    def _covering(self, height: int, width: int) -> tuple[int, int]:
        """Returns the smallest size of the same shape that covers `size`."""
        if self.size is None:
            return height, width
        scale = max(self.size[0] / height, self.size[1] / width)
        return max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale))

    def _finish(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2] if self.size is None else self.size
        top = math.floor(self.crop[0] * (picture.shape[0] - height + 1))
        left = math.floor(self.crop[1] * (picture.shape[1] - width + 1))
        picture = picture[top : top + height, left : left + width]
        if self.flip:
            picture = picture[:, ::-1]
        return to_grey(picture) if self.channels == 1 else np.ascontiguousarray(picture)

"""Handwritten digits that bounce around in a frame, after Moving MNIST and its stochastic form.

Srivastava et al. 2015, arXiv 1502.04681 (Moving MNIST); Denton and Fergus 2018, arXiv 1802.07687, section 5.1
(stochastic Moving MNIST: a digit moves at constant velocity, and on hitting a wall leaves it at a new random
speed and direction).
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch

from vdm.data.arguments import check_bool, check_choice, check_int, check_positive, check_size
from vdm.data.clip import Clip
from vdm.data.digit_images import DigitImages, bundled_digits, mnist_digits, upscale_digits
from vdm.data.draws import DrawDataset

# A new velocity has a speed in [_MIN_SPEED, 1] * max_speed and, after a wall, up to _MAX_ANGLE to its normal.
_MIN_SPEED = 0.4
_MAX_ANGLE = 0.45 * math.pi


class MovingDigits(DrawDataset):
    """Videos of digits that bounce off the walls of the frame, drawn from a seed without end.

    Every clip shows `num_digits` real handwritten digits at constant velocity, placed at sub-pixel positions
    by bilinear interpolation and combined by maximum. The first digit runs through all images once per epoch;
    the others are random. With one digit, the clip's label is that digit; with more, there is none.

    Args:
        image_size: H = W, or (H, W), in pixels.
        num_frames: F.
        num_digits: digits per clip.
        channels: 1, or 3 (three equal channels).
        seed: of all draws.
        digit_size: side of the square a digit is drawn in, in pixels; by default 5/8 of the short side, or, for
            several digits, 7/16 (as in Moving MNIST: 28 at 64 x 64).
        max_speed: in pixels per frame; by default 1/16 of the short side (as in stochastic Moving MNIST: 4 at
            64 x 64).
        stochastic: a new random velocity at a wall; otherwise digits reflect.
        length: of an epoch; by default the number of digit images.
        fps: nominal frame rate of the clips.
        images: digits to use; by default scikit-learn's bundled 1797.
        mnist_dir: folder of MNIST's IDX files, to use these digits.

    Raises:
        ValueError: an argument out of its range; both `images` and `mnist_dir`; or unreadable MNIST files.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 32,
        num_frames: int = 16,
        num_digits: int = 1,
        channels: int = 1,
        seed: int = 0,
        digit_size: int | None = None,
        max_speed: float | None = None,
        stochastic: bool = True,
        length: int | None = None,
        fps: float = 8.0,
        images: DigitImages | None = None,
        mnist_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(seed=seed)
        where = type(self).__name__
        self.image_size = check_size(where, "image_size", image_size)
        short_side = min(self.image_size)
        self.num_frames = check_int(where, "num_frames", num_frames, minimum=1)
        self.num_digits = check_int(where, "num_digits", num_digits, minimum=1)
        self.channels = check_choice(where, "channels", channels, (1, 3))
        if digit_size is None:
            digit_size = max(1, round(short_side * (5 / 8 if self.num_digits == 1 else 7 / 16)))
        if max_speed is None:
            max_speed = short_side / 16
        self.digit_size = check_int(where, "digit_size", digit_size, minimum=1, maximum=short_side)
        self.max_speed = check_positive(where, "max_speed", max_speed)
        self.stochastic = check_bool(where, "stochastic", stochastic)
        self.fps = check_positive(where, "fps", fps)
        if length is not None:
            check_int(where, "length", length, minimum=1)
        if images is not None and mnist_dir is not None:
            raise ValueError(f"{where}: images or mnist_dir can be given, got both")
        if images is not None and not isinstance(images, DigitImages):
            raise ValueError(f"{where}: images must be a DigitImages, got {type(images).__name__}")
        if images is None:
            images = bundled_digits() if mnist_dir is None else mnist_digits(mnist_dir)
        self._sprites = upscale_digits(images.images, self.digit_size)
        self._labels = images.labels.astype(np.int64)
        self._length = len(images) if length is None else length
        if self.num_digits == 1:
            self.classes = tuple("0123456789")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Clip:
        draw, order, position = self._locate(index)
        return self._draw(int(order[position]), self._generator(draw), self.num_frames)

    def draw_frame(self, rng: np.random.Generator) -> Clip:
        return self._draw(int(rng.integers(self._length)), rng, 1)

    def _draw(self, video: int, rng: np.random.Generator, num_frames: int) -> Clip:
        first = video % len(self._sprites)
        height, width = self.image_size
        # One row and column more than the frame: a digit at the far wall reaches there with weight zero.
        frames = np.zeros((num_frames, height + 1, width + 1), np.float32)
        for digit in range(self.num_digits):
            sprite = first if digit == 0 else int(rng.integers(len(self._sprites)))
            _paint(frames, self._sprites[sprite], self._path(rng, num_frames))
        frames = frames[:, :height, :width] * np.float32(2 / 255) - np.float32(1)
        video_tensor = torch.from_numpy(frames)[None].expand(self.channels, -1, -1, -1).contiguous()
        label = int(self._labels[first]) if self.num_digits == 1 else None
        return Clip(video=video_tensor, label=label, caption=None, fps=self.fps)

    def _path(self, rng: np.random.Generator, num_frames: int) -> np.ndarray:
        """Returns a digit's top left corner over time: (num_frames, 2) of (y, x) in pixels."""
        limits = [side - self.digit_size for side in self.image_size]
        position = [rng.random() * limit for limit in limits]
        velocity = self._velocity(rng, [0, 0])
        path = np.empty((num_frames, 2))
        for frame in range(num_frames):
            path[frame] = position
            inward = [0, 0]
            for axis in (0, 1):
                moved = position[axis] + velocity[axis]
                inside = min(max(moved, 0.0), float(limits[axis]))
                if moved != inside:
                    inward[axis] = 1 if moved < inside else -1
                    if not self.stochastic:
                        velocity[axis] = abs(velocity[axis]) * inward[axis]
                        inside = min(max(2 * inside - moved, 0.0), float(limits[axis]))
                position[axis] = inside
            if self.stochastic and inward != [0, 0]:
                velocity = self._velocity(rng, inward)
        return path

    def _velocity(self, rng: np.random.Generator, inward: list[int]) -> list[float]:
        """Draws a velocity (y, x) in any direction, or away from the walls that `inward` (signs) names."""
        speed = self.max_speed * (_MIN_SPEED + (1 - _MIN_SPEED) * rng.random())
        if inward == [0, 0]:
            angle = 2 * math.pi * rng.random()
        else:
            angle = math.atan2(inward[0], inward[1]) + _MAX_ANGLE * (2 * rng.random() - 1)
        velocity = [speed * math.sin(angle), speed * math.cos(angle)]
        for axis in (0, 1):
            if inward[axis]:  # in a corner the cone around the diagonal still points into one of the walls
                velocity[axis] = abs(velocity[axis]) * inward[axis]
        return velocity


def _paint(frames: np.ndarray, sprite: np.ndarray, path: np.ndarray) -> None:
    """Draws a sprite into frames, by maximum, at sub-pixel positions.

    Args:
        frames: (F, H + 1, W + 1) float32, changed in place.
        sprite: (d, d) uint8.
        path: (F, 2), top left corners (y, x) with 0 <= y <= H - d and 0 <= x <= W - d.
    """
    size = sprite.shape[0]
    padded = np.zeros((size + 2, size + 2), np.float32)
    padded[1:-1, 1:-1] = sprite
    corner = np.floor(path).astype(np.int64)
    fraction = (path - corner).astype(np.float32)[:, :, None, None]
    # Separable bilinear shift: row r of the result is (1 - f) sprite[r] + f sprite[r - 1].
    rows = padded[1:] * (1 - fraction[:, 0]) + padded[:-1] * fraction[:, 0]
    blocks = rows[:, :, 1:] * (1 - fraction[:, 1]) + rows[:, :, :-1] * fraction[:, 1]
    for frame, block, (top, left) in zip(frames, blocks, corner.tolist(), strict=True):
        window = frame[top : top + size + 1, left : left + size + 1]
        np.maximum(window, block, out=window)

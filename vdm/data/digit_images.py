"""Handwritten digits: scikit-learn's bundled set, or MNIST's IDX files."""

from __future__ import annotations

import dataclasses
import gzip
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# Type code 0x08 (unsigned byte), then the number of dimensions (yann.lecun.com/exdb/mnist, "file formats").
_IDX_UINT8 = {1: b"\x00\x00\x08\x01", 3: b"\x00\x00\x08\x03"}


@dataclasses.dataclass(frozen=True)
class DigitImages:
    """Images of digits on black.

    Attributes:
        images: (N, h, w) uint8, background 0.
        labels: (N,) int64 in 0..9.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        got_images, got_labels = _describe(images), _describe(labels)
        if (
            not isinstance(images, np.ndarray)
            or images.dtype != np.uint8
            or images.ndim != 3
            or images.size == 0
        ):
            raise ValueError(
                f"DigitImages: images must be a non-empty (N, h, w) uint8 array, got {got_images}"
            )
        if (
            not isinstance(labels, np.ndarray)
            or not np.issubdtype(labels.dtype, np.integer)
            or labels.shape != images.shape[:1]
        ):
            raise ValueError(f"DigitImages: labels must be {images.shape[:1]} integers, got {got_labels}")
        if labels.min() < 0 or labels.max() > 9:
            raise ValueError(f"DigitImages: labels must be in 0..9, got {labels.min()}..{labels.max()}")

    def __len__(self) -> int:
        return len(self.images)


def _describe(array: object) -> str:
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__


def bundled_digits() -> DigitImages:
    """Returns scikit-learn's bundled digits: 1797 images of 8 x 8 (UCI, optical recognition of digits)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return DigitImages((digits.images * (255 / 16)).round().astype(np.uint8), digits.target.astype(np.int64))


def mnist_digits(folder: str | os.PathLike[str], *, split: str = "train") -> DigitImages:
    """Reads MNIST's IDX files from a folder: `train-images-idx3-ubyte` and so on, raw or `.gz`.

    Args:
        folder: where the files lie. Both `train-images-idx3-ubyte` and `train-images.idx3-ubyte` are found.
        split: "train" or "t10k".

    Raises:
        ValueError: a file is missing, damaged, or not in the IDX format.
    """
    if split not in ("train", "t10k"):
        raise ValueError(f"mnist_digits: split must be 'train' or 't10k', got {split!r}")
    images = _read_idx(_find_idx(Path(folder), f"{split}-images", "idx3-ubyte"), dimensions=3)
    labels = _read_idx(_find_idx(Path(folder), f"{split}-labels", "idx1-ubyte"), dimensions=1)
    if len(images) != len(labels):
        raise ValueError(f"mnist_digits: {folder} has {len(images)} images but {len(labels)} labels")
    return DigitImages(images, labels.astype(np.int64))


def _find_idx(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{joint}{kind}{suffix}" for joint in "-." for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"mnist_digits: {folder} must contain one of {', '.join(names)}")


def _read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"mnist_digits: {path} cannot be read: {error}") from error
    header = 4 + 4 * dimensions
    if content[:4] != _IDX_UINT8[dimensions] or len(content) < header:
        raise ValueError(
            f"mnist_digits: {path} is not an IDX file of unsigned bytes in {dimensions} dimensions"
        )
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).astype(np.int64)
    if len(content) - header != shape.prod():
        raise ValueError(
            f"mnist_digits: {path} must hold {shape.prod()} bytes after its header, "
            f"got {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def upscale_digits(images: np.ndarray, size: int) -> np.ndarray:
    """Resamples digits to `size` x `size` with a Lanczos filter, keeping a dark border all around.

    Args:
        images: (N, h, w) uint8.
        size: of the result, in pixels.

    Returns:
        (N, size, size) uint8.
    """
    count, height, width = images.shape
    cells = max(height, width)
    square = np.zeros((count, cells + 2, cells + 2), np.uint8)
    top, left = 1 + (cells - height) // 2, 1 + (cells - width) // 2
    square[:, top : top + height, left : left + width] = images
    # Strokes of the bundled digits touch their border: half a cell of black lets the edge fade out.
    box = (0.5, 0.5, cells + 1.5, cells + 1.5)
    resized = [Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box) for image in square]
    return np.stack([np.asarray(image) for image in resized])

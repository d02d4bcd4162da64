from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from vdm.data import DigitImages, MovingDigits, bundled_digits, mnist_digits


def write_mnist(folder: Path, *, zipped: bool, stem: str = "train", joint: str = "-") -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    for kind, magic, array in (("images", 0x803, images), ("labels", 0x801, labels)):
        name = f"{stem}-{kind}{joint}idx{array.ndim}-ubyte"
        content = struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()
        path = folder / (name + (".gz" if zipped else ""))
        path.write_bytes(gzip.compress(content) if zipped else content)
    return images


def test_bundled_digits_are_the_real_ones() -> None:
    digits = bundled_digits()
    assert digits.images.shape == (1797, 8, 8)
    assert digits.images.max() == 255
    assert np.bincount(digits.labels).min() > 170


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("joint", ["-", "."])
def test_mnist_files(tmp_path: Path, zipped: bool, joint: str) -> None:
    images = write_mnist(tmp_path, zipped=zipped, joint=joint)
    digits = mnist_digits(tmp_path)
    assert np.array_equal(digits.images, images)
    assert digits.labels.tolist() == list(range(7))
    dataset = MovingDigits(mnist_dir=tmp_path, image_size=64)
    assert len(dataset) == 7
    assert {dataset[number].label for number in range(7)} == set(range(7))


def test_mnist_test_split(tmp_path: Path) -> None:
    write_mnist(tmp_path, zipped=False, stem="t10k")
    assert len(mnist_digits(tmp_path, split="t10k")) == 7
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        mnist_digits(tmp_path)
    with pytest.raises(ValueError, match="split"):
        mnist_digits(tmp_path, split="test")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_mnist_is_named(tmp_path: Path, zipped: bool) -> None:
    write_mnist(tmp_path, zipped=zipped)
    path = next(tmp_path.glob("train-images*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="train-images"):
        mnist_digits(tmp_path)


def test_other_content_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path, zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"not an IDX file")
    with pytest.raises(ValueError, match=r"train-labels.*not an IDX file"):
        mnist_digits(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "name"),
    [
        (np.zeros((2, 8, 8), np.float32), np.zeros(2, np.int64), "images"),
        (np.zeros((2, 8), np.uint8), np.zeros(2, np.int64), "images"),
        (np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.int64), "images"),
        ([[1]], np.zeros(2, np.int64), "images"),
        (np.zeros((2, 8, 8), np.uint8), np.zeros(3, np.int64), "labels"),
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2), "labels"),
        (np.zeros((2, 8, 8), np.uint8), np.array([0, 10]), "labels"),
    ],
)
def test_bad_arrays(images: np.ndarray, labels: np.ndarray, name: str) -> None:
    with pytest.raises(ValueError, match=f"DigitImages: {name} must be"):
        DigitImages(images, labels)

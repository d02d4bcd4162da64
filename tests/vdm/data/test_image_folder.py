from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vdm.data import ImageFolder


def save(
    path: Path, colour: object = (200, 100, 50), size: tuple[int, int] = (30, 20), mode: str = "RGB"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]


def test_formats_sizes_and_classes(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "JPEG", "webp", "bmp"):
        save(tmp_path / "a" / f"x.{suffix}")
    save(tmp_path / "b" / "é.png")
    dataset = ImageFolder(tmp_path, size=(8, 12))
    assert len(dataset) == 6
    assert dataset.classes == ("a", "b")
    clips = [dataset[number] for number in range(6)]
    assert sorted(clip.label for clip in clips if isinstance(clip.label, int)) == [0] * 5 + [1]
    wanted = torch.tensor([200, 100, 50])[:, None, None, None] / 127.5 - 1
    for clip in clips:
        assert clip.video.shape == (3, 1, 8, 12)
        assert clip.fps == 1.0
        assert (clip.video - wanted).abs().max() < 4 / 127.5


def test_draws_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for name in "abcde":
        Image.fromarray(np.roll(noise, ord(name), 0)).save(tmp_path / f"{name}.png")
    settings = {"size": 32, "horizontal_flip": True, "seed": 2}
    first = ImageFolder(tmp_path, **settings)
    forward = [first[number].video for number in range(15)]
    second = pickle.loads(pickle.dumps(ImageFolder(tmp_path, **settings)))
    assert all(torch.equal(second[number].video, forward[number]) for number in reversed(range(15)))
    assert len({video.numpy().tobytes() for video in forward}) > 10


def test_modes_of_all_kinds(tmp_path: Path) -> None:
    cases = {
        "grey": ("L", 128, (128, 128, 128)),
        "deep": ("I;16", 128 * 257, (128, 128, 128)),
        "bit": ("1", 1, (255, 255, 255)),
        "palette": ("P", 0, (0, 0, 0)),
        "clear": ("RGBA", (255, 255, 255, 0), (0, 0, 0)),
        "half": ("LA", (255, 128), (128, 128, 128)),
    }
    for name, (mode, colour, expected) in cases.items():
        folder = tmp_path / name
        save(folder / "x.png", colour, mode=mode)
        video = ImageFolder(folder, size=8)[0].video
        got = ((video[:, 0, 4, 4] + 1) * 127.5).round().tolist()
        assert got == pytest.approx(expected, abs=1), name
        assert ImageFolder(folder, size=8, channels=1)[0].video.shape == (1, 1, 8, 8)


def test_orientation_of_cameras_is_undone(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    video = ImageFolder(tmp_path, size=(40, 20))[0].video
    assert (video[:, 0, :15] > 0.9).all()
    assert (video[:, 0, 25:] < -0.9).all()


def test_broken_images_are_named_once_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("no image")
    dataset = ImageFolder(tmp_path, size=64)
    videos = [dataset[number].video for number in range(9)]
    assert all(torch.equal(video, videos[0]) for video in videos)
    assert sorted("cut.png" in message for message in caplog.messages) == [False, True]
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match=r"ImageFolder: .* must contain a usable file \(\.png.*got 2"):
        ImageFolder(tmp_path, size=64)


def test_captions(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("brown")
    assert ImageFolder(tmp_path, size=8)[0].caption == "brown"

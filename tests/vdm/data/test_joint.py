from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vdm.data import ImageFolder, JointImageVideo, MovingDigits, collate


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in range(4):
        (tmp_path / "cls").mkdir(exist_ok=True)
        Image.new("L", (20, 20), 50 * name + 40).save(tmp_path / "cls" / f"{name}.png")
    return tmp_path


def test_frames_of_other_videos() -> None:
    videos = MovingDigits(image_size=16, num_frames=5)
    dataset = JointImageVideo(videos, num_images=3)
    clip = dataset[7]
    assert clip.video.shape == (1, 8, 16, 16)
    assert clip.num_image_frames == 3
    assert torch.equal(clip.video[:, :5], videos[7].video)
    assert isinstance(clip.label, torch.Tensor)
    assert clip.label.shape == (8,)
    assert clip.label[:5].tolist() == [videos[7].label] * 5
    assert dataset.classes == videos.classes
    assert len(dataset) == len(videos)
    frames = [
        dataset[number].video[0, frame].numpy().tobytes() for number in range(20) for frame in (5, 6, 7)
    ]
    assert len(set(frames)) == 60


def test_draws_depend_on_seed_and_number_only() -> None:
    first = JointImageVideo(MovingDigits(image_size=16, num_frames=2), num_images=2)
    second = pickle.loads(pickle.dumps(first))
    clips = [first[number] for number in range(6)]
    assert all(torch.equal(second[number].video, clips[number].video) for number in reversed(range(6)))
    batch = collate(clips)
    assert batch.video.shape == (6, 1, 4, 16, 16)
    assert batch.labels is not None
    assert batch.labels.shape == (6, 4)
    assert batch.num_image_frames == 2


def test_images_from_a_folder(images: Path) -> None:
    folder = ImageFolder(images, size=16, channels=1, labels=False)
    dataset = JointImageVideo(MovingDigits(image_size=16, num_frames=3), folder, num_images=2)
    clip = dataset[0]
    assert isinstance(clip.label, torch.Tensor)
    assert clip.label[3:].tolist() == [10, 10]  # the null label: the images have no class
    flat = clip.video[0, 3:].flatten(1)
    assert (flat == flat[:, :1]).all()
    assert dataset.draw_frame(np.random.default_rng(0)).video.shape == (1, 1, 16, 16)


def test_videos_without_classes(images: Path) -> None:
    videos = MovingDigits(image_size=16, num_frames=3, num_digits=2)
    assert JointImageVideo(videos, num_images=2)[0].label is None
    clip = JointImageVideo(videos, ImageFolder(images, size=16, channels=1), num_images=2)[0]
    assert isinstance(clip.label, torch.Tensor)
    assert clip.label.tolist() == [1, 1, 1, 0, 0]


def test_image_captions(images: Path) -> None:
    for name in range(4):
        (images / "cls" / f"{name}.txt").write_text(f"grey {name}")
    folder = ImageFolder(images, size=16, channels=1, labels=False)
    clip = JointImageVideo(MovingDigits(image_size=16, num_frames=3), folder, num_images=2)[0]
    assert clip.caption is None
    assert clip.image_captions is not None
    assert all(caption.startswith("grey ") for caption in clip.image_captions)


def test_bad_arguments(images: Path) -> None:
    videos = MovingDigits(image_size=16, num_frames=3)
    with pytest.raises(ValueError, match="JointImageVideo: videos and images must have the same classes"):
        JointImageVideo(videos, ImageFolder(images, size=16, channels=1), num_images=2)
    colour = ImageFolder(images, size=16, channels=3, labels=False)
    with pytest.raises(ValueError, match=r"images must have shape \(1, 1, 16, 16\), as the videos"):
        JointImageVideo(videos, colour, num_images=2)[0]
    with pytest.raises(ValueError, match="num_images must be an integer >= 1"):
        JointImageVideo(videos, num_images=0)
    with pytest.raises(ValueError, match="videos must be a DrawDataset, got str"):
        JointImageVideo("videos", num_images=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images must be a DrawDataset, got str"):
        JointImageVideo(videos, "images", num_images=1)  # type: ignore[arg-type]

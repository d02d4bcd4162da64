from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vdm.data import Clip, DigitImages, MovingDigits, bundled_digits, collate


def same(first: Clip, second: Clip) -> bool:
    return torch.equal(first.video, second.video) and first.label == second.label


def dot(size: int = 8) -> DigitImages:
    """One image whose every pixel is white: a square, whose position can be read off exactly."""
    return DigitImages(np.full((1, size, size), 255, np.uint8), np.zeros(1, np.int64))


def centroids(video: torch.Tensor) -> np.ndarray:
    """(F, 2): the centre of brightness (y, x) of each frame, in pixels."""
    light = (video[0].double().numpy() + 1) / 2
    mass = light.sum((1, 2))
    rows, columns = np.arange(light.shape[1]), np.arange(light.shape[2])
    return np.stack([(light.sum(2) @ rows) / mass, (light.sum(1) @ columns) / mass], axis=1)


@pytest.mark.parametrize(("size", "shape"), [(32, (32, 32)), ((24, 41), (24, 41)), (64, (64, 64))])
@pytest.mark.parametrize("channels", [1, 3])
def test_clips_are_as_described(size: int | tuple[int, int], shape: tuple[int, int], channels: int) -> None:
    dataset = MovingDigits(image_size=size, num_frames=5, channels=channels)
    clip = dataset[0]
    assert clip.video.shape == (channels, 5, *shape)
    assert clip.video.dtype == torch.float32
    assert clip.video.is_contiguous()
    assert clip.video.min() == -1
    assert 0.5 < clip.video.max() <= 1
    assert all(torch.equal(clip.video[0], channel) for channel in clip.video)
    assert clip.caption is None
    assert clip.fps == 8.0
    assert len(dataset) == 1797
    assert dataset.classes == tuple("0123456789")


def test_draws_depend_on_seed_and_number_only() -> None:
    first, second = MovingDigits(seed=3), MovingDigits(seed=3)
    numbers = [0, 1, 5, 1796, 1797, 123_456_789]
    forward = [first[number] for number in numbers]
    backward = [second[number] for number in reversed(numbers)][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    revived = pickle.loads(pickle.dumps(first))
    assert all(same(clip, revived[number]) for clip, number in zip(forward, numbers, strict=True))
    other = MovingDigits(seed=4)
    assert not any(same(clip, other[number]) for clip, number in zip(forward, numbers, strict=True))
    assert same(first[np.int64(5)], first[5])


def test_workers_draw_the_same() -> None:
    dataset = MovingDigits(image_size=16, num_frames=3, length=12)
    loader = DataLoader(dataset, batch_size=4, sampler=range(6, 18), num_workers=2, collate_fn=collate)
    video = torch.cat([batch.video for batch in loader])
    assert torch.equal(video, torch.stack([dataset[number].video for number in range(6, 18)]))


def test_an_epoch_shows_every_image_once_in_its_own_order() -> None:
    digits = bundled_digits()
    count = 50
    subset = DigitImages(digits.images[:count], digits.labels[:count])
    dataset = MovingDigits(images=subset, image_size=16, num_frames=1)
    epochs = [[dataset[number].label for number in range(count * e, count * (e + 1))] for e in range(3)]
    assert all(sorted(epoch) == sorted(subset.labels.tolist()) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [clip.label for clip in dataset] == epochs[0]


def test_label_is_the_digit_shown() -> None:
    """An image per digit with one row lit: the row tells the digit."""
    images = np.zeros((10, 10, 10), np.uint8)
    images[np.arange(10), np.arange(10)] = 255
    dataset = MovingDigits(
        images=DigitImages(images, np.arange(10)), image_size=11, digit_size=11, num_frames=1
    )
    for number in range(20):
        clip = dataset[number]
        assert round(centroids(clip.video)[0, 0] - 0.5) == clip.label


def test_velocity_is_constant_between_walls_and_digits_stay_inside() -> None:
    size, digit = (40, 56), 12
    dataset = MovingDigits(image_size=size, digit_size=digit, num_frames=60, images=dot(), max_speed=2.0)
    limits = np.array(size) - digit
    turns = 0
    for number in range(20):
        corner = centroids(dataset[number].video) - (digit - 1) / 2
        assert (corner > -1e-3).all()
        assert (corner < limits + 1e-3).all()
        steps = np.diff(corner, axis=0)
        assert (np.hypot(*steps.T) < 2.0 + 1e-3).all()
        changed = np.abs(np.diff(steps, axis=0)).max(1) > 1e-3
        touches = ((corner < 1e-3) | (corner > limits - 1e-3)).any(1)
        # A change of velocity between two steps has a wall at one of their ends.
        near_wall = touches[:-2] | touches[1:-1] | touches[2:]
        assert (near_wall | ~changed).all()
        turns += int(changed.sum())
    assert turns > 40


def test_a_wall_gives_new_directions_only_if_stochastic() -> None:
    settings = {"image_size": 32, "digit_size": 16, "num_frames": 80, "images": dot()}
    speeds = []
    for stochastic in (True, False):
        corner = centroids(MovingDigits(stochastic=stochastic, **settings)[0].video)
        steps = np.abs(np.diff(corner, axis=0))
        speeds.append(len(np.unique(steps[:, 0].round(2))))
    assert speeds[0] > 5  # a speed for every wall met
    assert speeds[1] <= 8  # one, and the steps that a wall shortens


def test_digits_combine_by_maximum_and_have_no_label() -> None:
    dataset = MovingDigits(num_digits=3, images=dot(), image_size=20, digit_size=10)
    clip = dataset[0]
    assert clip.label is None
    assert dataset.classes is None
    assert clip.video.max() <= 1
    light = (clip.video + 1).sum() / 2
    one = (MovingDigits(images=dot(), image_size=20, digit_size=10)[0].video + 1).sum() / 2
    assert one < light < 3 * one + 1e-3


def test_sub_pixel_shift_keeps_the_light() -> None:
    video = MovingDigits(images=dot(), num_frames=30)[0].video
    light = (video[0] + 1).sum((1, 2))
    torch.testing.assert_close(light, light[:1].expand(30), rtol=1e-5, atol=1e-2)


def test_digit_as_large_as_the_frame_stands_still() -> None:
    video = MovingDigits(image_size=16, digit_size=16)[0].video
    assert torch.equal(video, video[:, :1].expand_as(video))


def test_one_frame_draw() -> None:
    clip = MovingDigits().draw_frame(np.random.default_rng(0))
    assert clip.video.shape == (1, 1, 32, 32)
    assert clip.label in range(10)


def test_a_clip_takes_little_time() -> None:
    dataset = MovingDigits()
    dataset[0]
    seconds = []
    for number in range(50):
        start = time.perf_counter()
        dataset[number]
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2e-3


@pytest.mark.parametrize("number", [-1, 1.5, "0", None])
def test_bad_draw_number(number: object) -> None:
    with pytest.raises(ValueError, match="a draw number must be an integer >= 0"):
        MovingDigits(image_size=8, length=1)[number]  # type: ignore[index]

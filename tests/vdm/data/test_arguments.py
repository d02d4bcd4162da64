"""Bad arguments to the data sets: each gives a ValueError that names the argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vdm.data import DigitImages, ImageFolder, MovingDigits, VideoFolder, bundled_digits, write_gif

JUNK = [
    None,
    "8",
    b"8",
    [],
    {},
    (),
    object(),
    1 + 2j,
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    2.5,
    True,
    (1, 2, 3),
]
NOT_A_COUNT = JUNK
NOT_A_SIZE = [*JUNK, (0, 8), (8, -1), (8, 2.5), (8, "8"), (True, True), [8]]
NOT_A_RATE = [value for value in JUNK if not isinstance(value, (int, float)) or not 0 < value < math.inf] + [
    True
]
NOT_A_SEED = [value for value in JUNK if value != 0] + [2**63, False]
NOT_A_BOOL = [None, 0, 1, "yes", []]
NOT_CHANNELS = [*(value for value in JUNK), 2, 4, 3.0, "3"]


def optional(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


DIGITS: dict[str, list[Any]] = {
    "image_size": NOT_A_SIZE,
    "num_frames": NOT_A_COUNT,
    "num_digits": NOT_A_COUNT,
    "channels": NOT_CHANNELS,
    "seed": NOT_A_SEED,
    "digit_size": [*optional(NOT_A_COUNT), 33],
    "max_speed": optional(NOT_A_RATE),
    "stochastic": NOT_A_BOOL,
    "length": optional(NOT_A_COUNT),
    "fps": NOT_A_RATE,
    "images": ["x", 3, [1]],
}
VIDEOS: dict[str, list[Any]] = {
    "root": [None, 3, "", "/no/such/folder", [], object()],
    "num_frames": NOT_A_COUNT,
    "size": NOT_A_SIZE,
    "frame_skip": NOT_A_COUNT,
    "fps": optional(NOT_A_RATE),
    "channels": NOT_CHANNELS,
    "seed": NOT_A_SEED,
    "clip_position": [None, "end", 0, True, []],
    "crop": [None, "middle", 0, True, []],
    "horizontal_flip": NOT_A_BOOL,
    "extensions": [None, "mp4", [], [3], [""], ["."], 3],
    "labels": NOT_A_BOOL,
}
IMAGES = {
    name: VIDEOS[name] for name in VIDEOS if name not in ("num_frames", "frame_skip", "fps", "clip_position")
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    Image.new("L", (8, 8)).save(folder / "a.png")
    video = MovingDigits(num_frames=4, image_size=8, images=_few_digits())[0].video
    write_gif(folder / "a.gif", video, fps=8)
    return folder


def _few_digits() -> DigitImages:
    digits = bundled_digits()
    return DigitImages(digits.images[:2], digits.labels[:2])


def _moving_digits(_: Path) -> Callable[..., object]:
    images = _few_digits()
    return lambda **changes: MovingDigits(**{"images": images, **changes})


def _video_folder(root: Path) -> Callable[..., object]:
    return lambda **changes: VideoFolder(**{"root": root, "num_frames": 2, "size": 8, **changes})


def _image_folder(root: Path) -> Callable[..., object]:
    return lambda **changes: ImageFolder(**{"root": root, "size": 8, **changes})


@pytest.mark.parametrize(
    ("make", "bad"), [(_moving_digits, DIGITS), (_video_folder, VIDEOS), (_image_folder, IMAGES)]
)
def test_every_bad_value_names_its_argument(
    root: Path, make: Callable[[Path], Callable[..., object]], bad: dict[str, list[Any]]
) -> None:
    construct = make(root)
    construct()
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match=rf": {name} must be"):
                construct(**{name: value})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(DIGITS)),
    value=st.one_of(st.integers(-10, 3), st.floats(), st.text(max_size=3), st.none(), st.binary(max_size=2)),
)
def test_random_values_work_or_are_named(name: str, value: object) -> None:
    message = ""
    try:
        dataset = MovingDigits(**{"images": _DIGITS, "image_size": 8, "num_frames": 2, name: value})
    except ValueError as error:
        message = str(error)
    else:
        assert dataset[3].video.isfinite().all()
    assert message == "" or f": {name} must be" in message


_DIGITS = _few_digits()


def test_contradictions(root: Path) -> None:
    with pytest.raises(ValueError, match="images or mnist_dir can be given, got both"):
        MovingDigits(images=_DIGITS, mnist_dir=root)
    with pytest.raises(ValueError, match="frame_skip must be 1 where fps is given, got 2"):
        VideoFolder(root, num_frames=2, size=8, frame_skip=2, fps=8)

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from vdm.data import Clip, collate


def clip(**changes: object) -> Clip:
    base = Clip(video=torch.zeros(1, 4, 8, 8), label=3, caption="a three", fps=8.0)
    return dataclasses.replace(base, **changes)


def test_collate_stacks() -> None:
    batch = collate([clip(), clip(video=torch.ones(1, 4, 8, 8), label=5, caption="a five", fps=12.5)])
    assert batch.video.shape == (2, 1, 4, 8, 8)
    assert batch.video.dtype == torch.float32
    assert batch.video[:, 0, 0, 0, 0].tolist() == [0, 1]
    assert batch.labels is not None
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [3, 5]
    assert batch.captions == ["a three", "a five"]
    assert batch.fps.dtype == torch.float32
    assert batch.fps.tolist() == [8.0, 12.5]
    assert batch.num_image_frames == 0
    assert len(batch) == 2


def test_collate_leaves_absent_fields_absent() -> None:
    batch = collate([clip(label=None, caption=None)] * 2)
    assert batch.labels is None
    assert batch.captions is None
    assert batch.image_captions is None


def test_collate_label_zero_and_empty_caption_are_present() -> None:
    batch = collate([clip(label=0, caption=""), clip(label=0, caption="")])
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 0]
    assert batch.captions == ["", ""]


def test_collate_per_frame_labels() -> None:
    rows = [clip(label=torch.tensor([1, 1, 1, 7]), num_image_frames=1, image_captions=("x",))] * 2
    batch = collate(rows)
    assert batch.labels is not None
    assert batch.labels.tolist() == [[1, 1, 1, 7]] * 2
    assert batch.num_image_frames == 1
    assert batch.image_captions == [("x",), ("x",)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "collate: all clips or none must have a label, got 1 of 2"),
        ({"caption": None}, "collate: all clips or none must have a caption, got 1 of 2"),
        ({"label": torch.tensor([1, 1, 1, 7])}, "collate: labels must all be per clip or all per frame"),
        ({"video": torch.zeros(3, 4, 8, 8)}, "collate: clips must have one shape"),
        ({"num_image_frames": 2}, "collate: clips must agree on num_image_frames"),
        ({"image_captions": ("a",)}, "collate: all clips or none must have image captions"),
    ],
)
def test_collate_names_what_is_mixed(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate([clip(), clip(**changes)])


def test_collate_of_nothing() -> None:
    with pytest.raises(ValueError, match="collate: at least one clip"):
        collate([])


def test_batch_moves_and_pickles() -> None:
    batch = collate([clip()])
    moved = batch.to("meta")
    assert moved.video.device.type == "meta"
    assert moved.fps.device.type == "meta"
    assert moved.labels is not None
    assert moved.labels.device.type == "meta"
    assert torch.equal(pickle.loads(pickle.dumps(batch)).video, batch.video)

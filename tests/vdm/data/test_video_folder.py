from __future__ import annotations

import json
import logging
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vdm.data import Clip, VideoFolder, collate
from vdm.data.video_folder import resample_frames, skip_frames
from vdm.data.video_index import FrameIndex, UnreadableFileError

MakeVideo = Callable[..., Path]
FrameNumbers = Callable[[Tensor], list[int]]


@pytest.fixture
def folder(tmp_path: Path, make_video: MakeVideo) -> Path:
    """Two classes, formats of all kinds, a hidden file and one that is no video."""
    make_video(tmp_path / "dog" / "a.mp4", 30, options={"g": "8"})
    make_video(tmp_path / "dog" / "deep" / "b.webm", 25, codec="libvpx-vp9", options={"cpu-used": "8"})
    make_video(tmp_path / "cat" / "c.GIF", 20, codec="gif", pix_fmt="rgb8")
    make_video(tmp_path / "cat" / "d.avi", 22, codec="mpeg4")
    (tmp_path / "cat" / "._a.mp4").write_bytes(b"resource fork")
    (tmp_path / "cat" / "notes.md").write_text("no video")
    return tmp_path


def same(first: Clip, second: Clip) -> bool:
    return torch.equal(first.video, second.video) and (first.label, first.caption, first.fps) == (
        second.label,
        second.caption,
        second.fps,
    )


def test_clips_labels_and_classes(folder: Path, frame_numbers: FrameNumbers) -> None:
    dataset = VideoFolder(folder, num_frames=4, size=(24, 32), frame_skip=2, crop="center")
    assert dataset.files == ("cat/c.GIF", "cat/d.avi", "dog/a.mp4", "dog/deep/b.webm")
    assert dataset.classes == ("cat", "dog")
    assert len(dataset) == 4
    labels = []
    starts = set()
    for number in range(40):
        clip = dataset[number]
        assert clip.video.shape == (3, 4, 24, 32)
        assert clip.video.is_contiguous()
        numbers = frame_numbers(clip.video)
        assert np.diff(numbers).tolist() == [2, 2, 2]
        assert clip.fps == pytest.approx(12.5)
        assert clip.caption is None
        labels.append(clip.label)
        starts.add(numbers[0])
    assert all(sorted(labels[4 * epoch : 4 * epoch + 4]) == [0, 0, 1, 1] for epoch in range(10))
    assert len(starts) > 8


def test_every_position_is_drawn(tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers) -> None:
    make_video(tmp_path / "a.mp4", 8)
    dataset = VideoFolder(tmp_path, num_frames=3, size=(24, 32), crop="center")
    starts = [frame_numbers(dataset[number].video)[0] for number in range(60)]
    assert set(starts) == set(range(6))
    assert dataset.classes is None
    assert dataset[0].label is None
    for position, expected in (("start", 0), ("center", 3)):
        fixed = VideoFolder(tmp_path, num_frames=3, size=(24, 32), crop="center", clip_position=position)
        assert {frame_numbers(fixed[number].video)[0] for number in range(5)} == {expected}


def test_draws_depend_on_seed_and_number_only(folder: Path) -> None:
    settings = {"num_frames": 3, "size": 16, "seed": 5, "horizontal_flip": True}
    first, second = VideoFolder(folder, **settings), VideoFolder(folder, **settings)
    numbers = [0, 3, 4, 9, 1000]
    forward = [first[number] for number in numbers]
    assert all(
        same(second[number], clip) for number, clip in reversed(list(zip(numbers, forward, strict=True)))
    )
    revived = pickle.loads(pickle.dumps(first))
    assert all(same(revived[number], clip) for number, clip in zip(numbers, forward, strict=True))
    assert not all(
        same(VideoFolder(folder, **{**settings, "seed": 6})[number], clip)
        for number, clip in zip(numbers, forward, strict=True)
    )


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_draw_the_same(folder: Path, context: str) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {context}")
    dataset = VideoFolder(folder, num_frames=3, size=16)
    dataset[0]
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=range(3, 11),
        num_workers=1 if context == "spawn" else 2,
        collate_fn=collate,
        multiprocessing_context=context,
    )
    batches = list(loader)
    wanted = collate([dataset[number] for number in range(3, 11)])
    assert torch.equal(torch.cat([batch.video for batch in batches]), wanted.video)
    assert wanted.labels is not None
    assert torch.equal(torch.cat([batch.labels for batch in batches]), wanted.labels)


def test_random_crops_and_flips_stay_inside(tmp_path: Path, make_video: MakeVideo) -> None:
    """Pixels carry their column: crops are runs of neighbours, at every offset, some of them reversed."""
    ramp = np.broadcast_to((8 + 4 * np.arange(60, dtype=np.uint8))[None, :, None], (40, 60, 3)).copy()
    make_video(tmp_path / "a.mkv", frames=[ramp] * 3, codec="ffv1", pix_fmt="yuv444p")
    dataset = VideoFolder(tmp_path, num_frames=2, size=40, horizontal_flip=True)
    offsets, flips = set(), 0
    for number in range(160):
        video = dataset[number].video
        assert torch.equal(video[:, 0], video[:, 1])
        columns = (((video[0, 0, 5] + 1) * 127.5 - 8) / 4).round().int()
        if columns[0] > columns[-1]:
            columns = columns.flip(0)
            flips += 1
        assert (columns.diff() == 1).all()
        offsets.add(int(columns[0]))
    assert offsets == set(range(21))
    assert 50 < flips < 110


def test_crop_goes_both_ways(tmp_path: Path, make_video: MakeVideo) -> None:
    make_video(tmp_path / "a.mp4", 3, height=100)
    for crop in ("random", "center"):
        dataset = VideoFolder(tmp_path, num_frames=1, size=(24, 32), crop=crop)
        assert dataset[0].video.shape == (3, 1, 24, 32)


def test_grey_channel(folder: Path) -> None:
    settings = {"num_frames": 2, "size": 16, "crop": "center"}
    grey, colour = VideoFolder(folder, channels=1, **settings)[0], VideoFolder(folder, **settings)[0]
    assert grey.video.shape == (1, 2, 16, 16)
    assert (grey.video - colour.video.mean(0)).abs().max() < 0.03


@pytest.mark.parametrize(("fps", "step"), [(25, 1), (12.5, 2), (5, 5)])
def test_resampling_takes_the_nearest_frames(
    folder: Path, frame_numbers: FrameNumbers, fps: float, step: int
) -> None:
    dataset = VideoFolder(folder, num_frames=4, size=(24, 32), fps=fps, crop="center")
    for number in range(12):
        clip = dataset[number]
        assert clip.fps == fps
        assert np.diff(frame_numbers(clip.video)).tolist() == [step] * 3


def test_resampling_a_variable_rate(
    tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers
) -> None:
    times = np.cumsum(np.random.default_rng(1).integers(15, 120, 50))
    make_video(tmp_path / "a.mp4", 50, milliseconds=times.tolist())
    dataset = VideoFolder(tmp_path, num_frames=6, size=(24, 32), fps=10, crop="center")
    for number in range(20):
        frames = frame_numbers(dataset[number].video)
        wanted = times[frames[0]] + 100 * np.arange(6)
        distance = np.abs(times[None] - wanted[:, None])
        assert (distance[np.arange(6), frames] == distance.min(1)).all()


def test_choosing_frames_exactly() -> None:
    index = FrameIndex(np.arange(10, dtype=np.int64), Fraction(1, 10), 10.0, None)
    assert skip_frames(index, 4, 3, 0.999).tolist() == [0, 3, 6, 9]
    assert skip_frames(index, 4, 2, 0.0).tolist() == [0, 2, 4, 6]
    assert skip_frames(index, 4, 2, 0.999999).tolist() == [3, 5, 7, 9]
    assert resample_frames(index, 10, 10, 0.99).tolist() == list(range(10))
    assert resample_frames(index, 4, 5, 0.999).tolist() == [3, 5, 7, 9]
    assert resample_frames(index, 5, 30, 0.0).tolist() == [0, 0, 1, 1, 1]
    assert resample_frames(index, 1, 0.001, 0.5).tolist() == [5]
    with pytest.raises(UnreadableFileError, match="it has 10 frames, 11 are needed"):
        skip_frames(index, 6, 2, 0.0)
    with pytest.raises(UnreadableFileError, match=r"it lasts 1 s, 1\.1 s are needed"):
        resample_frames(index, 11, 10, 0.0)
    jitter = FrameIndex(np.round(np.arange(30) * 1000 / 30).astype(np.int64), Fraction(1, 1000), 30.0, None)
    for start in np.linspace(0, 0.999, 15):
        frames = resample_frames(jitter, 16, 30.0, start)
        assert np.diff(frames).tolist() == [1] * 15


def test_broken_and_short_files_are_named_once_and_replaced(
    folder: Path, make_video: MakeVideo, caplog: pytest.LogCaptureFixture
) -> None:
    make_video(folder / "dog" / "short.mp4", 3)
    (folder / "dog" / "broken é.mp4").write_bytes(b"no video at all")
    (folder / "cat" / "empty.webm").write_bytes(b"")
    dataset = VideoFolder(folder, num_frames=4, size=16)
    assert len(dataset) == 7
    with caplog.at_level(logging.WARNING):
        clips = [dataset[number] for number in range(28)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert sum("short.mp4: it has 3 frames, 4 are needed" in message for message in messages) == 1
    assert sum("broken é.mp4" in message for message in messages) == 1
    assert sum("empty.webm" in message for message in messages) == 1
    # The same substitutes for who has seen all of them before, and for who has not.
    fresh = VideoFolder(folder, num_frames=4, size=16)
    assert all(same(fresh[number], clips[number]) for number in (27, 13, 5))
    good = [file for file in dataset.files if Path(file).stem in "abcd"]
    order = [dataset.files[file] for file in _order(dataset)]
    for position, file in enumerate(order):
        substitute = next(name for name in (order * 2)[position:] if name in good)
        assert clips[position].label == (0 if substitute.startswith("cat") else 1)
        if file in good:
            assert substitute == file


def _order(dataset: VideoFolder) -> list[int]:
    from vdm.data.draws import epoch_order

    return epoch_order(dataset.seed, 0, len(dataset)).tolist()


def test_a_truncated_file_does_not_depend_on_what_was_read_before(
    tmp_path: Path, make_video: MakeVideo, caplog: pytest.LogCaptureFixture
) -> None:
    make_video(tmp_path / "good.mp4", 30)
    whole = make_video(tmp_path / "cut.mkv", 120, options={"g": "12"}).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    settings = {"num_frames": 4, "size": 16, "crop": "center"}
    first, second = VideoFolder(tmp_path, **settings), VideoFolder(tmp_path, **settings)
    forward = [first[number] for number in range(12)]
    backward = [second[number] for number in reversed(range(12))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))


def test_nothing_usable_names_folder_and_extensions(tmp_path: Path, make_video: MakeVideo) -> None:
    with pytest.raises(ValueError, match=r"VideoFolder: root must be a folder, got .*missing"):
        VideoFolder(tmp_path / "missing", num_frames=4, size=16)
    with pytest.raises(ValueError, match=rf"{tmp_path} must contain \.mp4, \.webm, .*files, got none"):
        VideoFolder(tmp_path, num_frames=4, size=16)
    make_video(tmp_path / "a.mp4", 3)
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"{tmp_path} must contain a usable file \(\.mp4.*got 2 that are broken"
    ):
        VideoFolder(tmp_path, num_frames=4, size=16)
    with pytest.raises(ValueError, match=r"must contain \.mov files, got none"):
        VideoFolder(tmp_path, num_frames=3, size=16, extensions=["MOV"])
    dataset = VideoFolder(tmp_path, num_frames=3, size=16)
    (tmp_path / "a.mp4").unlink()
    dataset = pickle.loads(pickle.dumps(dataset))
    with pytest.raises(ValueError, match="must contain a usable file"):
        dataset[0]


def test_captions_from_text_files_and_jsonl(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "dog" / "a.txt").write_text("\ufeffa dog, très vite\n", encoding="utf-8")
    entries = [
        {"file": "cat/c.GIF", "caption": "a cat"},
        {"file": "dog/a.mp4", "caption": "not this one"},
        {"file": "cat/gone.mp4", "caption": "?"},
    ]
    lines = "\n".join(json.dumps(entry) for entry in entries)
    (folder / "captions.jsonl").write_text(lines + "\n\n", encoding="utf-8")
    dataset = VideoFolder(folder, num_frames=2, size=16)
    assert "names 1 files that are not there, first cat/gone.mp4" in caplog.text
    captions = {dataset.files[file]: dataset[number].caption for number, file in enumerate(_order(dataset))}
    assert captions == {
        "cat/c.GIF": "a cat",
        "cat/d.avi": "",
        "dog/a.mp4": "a dog, très vite",
        "dog/deep/b.webm": "",
    }
    assert collate([dataset[0], dataset[1]]).captions is not None


def test_composed_and_decomposed_names_are_the_same(tmp_path: Path, make_video: MakeVideo) -> None:
    make_video(tmp_path / "e\u0301te\u0301.mp4", 3)
    line = json.dumps({"file": "\u00e9t\u00e9.mp4", "caption": "summer"})
    (tmp_path / "captions.jsonl").write_text(line, encoding="utf-8")
    assert VideoFolder(tmp_path, num_frames=2, size=16)[0].caption == "summer"


@pytest.mark.parametrize("line", ["{", "[]", '{"file": "a.mp4"}', '{"file": 3, "caption": "x"}', '"text"'])
def test_bad_captions_file_is_named_by_line(tmp_path: Path, make_video: MakeVideo, line: str) -> None:
    make_video(tmp_path / "a.mp4", 3)
    (tmp_path / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "x"}\n' + line)
    with pytest.raises(ValueError, match=r"captions\.jsonl line 2 must be"):
        VideoFolder(tmp_path, num_frames=2, size=16)


def test_caption_that_is_no_text_counts_as_broken(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "dog" / "a.txt").write_bytes(b"\xff\xfe\x00latin \xe9")
    dataset = VideoFolder(folder, num_frames=2, size=16)
    for number in range(4):
        dataset[number]
    assert "a.mp4: its caption dog/a.txt is not UTF-8 text" in caplog.text


def test_files_beside_class_folders(folder: Path) -> None:
    shutil.copy(folder / "dog" / "a.mp4", folder / "stray.mp4")
    with pytest.raises(ValueError, match=r"got stray\.mp4 beside the folder cat"):
        VideoFolder(folder, num_frames=2, size=16)
    dataset = VideoFolder(folder, num_frames=2, size=16, labels=False)
    assert dataset.classes is None
    assert dataset[0].label is None


def test_links_are_followed_and_loops_end(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    (root / "dog").symlink_to(folder / "dog", target_is_directory=True)
    (folder / "dog" / "loop").symlink_to(folder / "dog", target_is_directory=True)
    assert VideoFolder(root, num_frames=2, size=16).files == ("dog/a.mp4", "dog/deep/b.webm")


def test_one_frame_draws(folder: Path) -> None:
    dataset = VideoFolder(folder, num_frames=20, size=16)
    first, second = (dataset.draw_frame(np.random.default_rng(3)) for _ in range(2))
    assert first.video.shape == (3, 1, 16, 16)
    assert same(first, second)
    assert {dataset.draw_frame(np.random.default_rng(seed)).label for seed in range(12)} == {0, 1}

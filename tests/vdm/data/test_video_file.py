"""Video files in portions: the same frames as all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vdm.data import VideoFile, read_video, write_video


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webm"])
def test_portions_are_the_whole(make_video: Callable[..., Path], tmp_path: Path, suffix: str) -> None:
    whole, fps = read_video(make_video(tmp_path / "a.mp4"))
    write_video(tmp_path / f"b{suffix}", whole, fps=fps)
    whole, _ = read_video(tmp_path / f"b{suffix}")
    file = VideoFile(tmp_path / f"b{suffix}")
    assert (file.num_frames, file.size, file.fps) == (40, (48, 64), 25)
    portions = [file.read(start, min(start + 7, 40)) for start in range(0, 40, 7)]
    assert torch.equal(torch.cat(portions, 1), whole)
    assert torch.equal(file.read(3, 5), whole[:, 3:5])


@pytest.mark.parametrize("fps", [3, 8, 12, 24, 30])
@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".webm"])
def test_the_rate_of_a_file_is_the_one_it_was_written_at(tmp_path: Path, fps: int, suffix: str) -> None:
    for num_frames in (7, 16):
        write_video(tmp_path / f"a{suffix}", torch.zeros(1, num_frames, 16, 16), fps=fps)
        assert VideoFile(tmp_path / f"a{suffix}").fps == fps


def test_a_rate_that_is_no_whole_number_stays(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(1, 40, 16, 16), fps=30000 / 1001)
    assert VideoFile(tmp_path / "a.mp4").fps == pytest.approx(30000 / 1001, abs=1e-6)


def test_frames_nearest_to_another_rate(
    make_video: Callable[..., Path], frame_numbers: Callable[[Tensor], list[int]], tmp_path: Path
) -> None:
    file = VideoFile(make_video(tmp_path / "a.mp4"), fps=10)
    assert (file.num_frames, file.fps, file.own_fps) == (16, 10, 25)
    whole = frame_numbers(file.read(0, 16))
    assert whole[::2] == list(range(0, 40, 5))
    assert frame_numbers(file.read(5, 9)) == whole[5:9]
    assert VideoFile(tmp_path / "a.mp4", fps=50).num_frames == 80


def test_size_channels_and_colour(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 5)
    file = VideoFile(path, size=(16, 16), channels=1)
    assert file.read(1, 4).shape == (1, 3, 16, 16)
    assert (file.size, file.own_size) == ((16, 16), (48, 64))
    assert file.is_grey(0, 5)
    write_video(tmp_path / "b.gif", torch.rand(3, 4, 16, 16) * 2 - 1, fps=8)
    assert not VideoFile(tmp_path / "b.gif").is_grey(0, 4)


def test_bad_input(make_video: Callable[..., Path], tmp_path: Path) -> None:
    file = VideoFile(make_video(tmp_path / "a.mp4", 5))
    for start, stop, name in ((-1, 2, "start"), (2, 2, "stop"), (2, 6, "stop must be at most num_frames=5")):
        with pytest.raises(ValueError, match=name):
            file.read(start, stop)
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    for path in (tmp_path / "b.mp4", tmp_path / "c.mp4", "", None):
        with pytest.raises(ValueError, match="VideoFile: "):
            VideoFile(path)  # type: ignore[arg-type]
    for changes in ({"channels": 2}, {"size": (0, 4)}, {"fps": 0.0}):
        with pytest.raises(ValueError, match=f"VideoFile: {next(iter(changes))} must"):
            VideoFile(tmp_path / "a.mp4", **changes)  # type: ignore[arg-type]

from __future__ import annotations

import errno
import io
import os
import signal
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vdm.data import (
    MovingDigits,
    VideoWriter,
    atomic_file,
    read_video,
    video_writer,
    write_contact_sheet,
    write_gif,
    write_mp4,
    write_video,
)

VIDEO_SUFFIXES = [".mp4", ".mov", ".mkv", ".webm", ".avi"]


@pytest.fixture
def digits() -> Tensor:
    return MovingDigits(num_frames=6)[0].video


def smooth_colours(num_frames: int = 5, height: int = 48, width: int = 64) -> Tensor:
    """A colour video of slow gradients, (3, F, H, W)."""
    t, y, x = torch.meshgrid(
        torch.linspace(0, 1, num_frames),
        torch.linspace(0, 1, height),
        torch.linspace(0, 1, width),
        indexing="ij",
    )
    return torch.stack([x, y, (x + y + t) / 3]) * 1.6 - 0.8


def psnr(first: Tensor, second: Tensor) -> float:
    """In dB, for a range of 2."""
    return float(10 * torch.log10(4 / (first - second).double().square().mean()))


def to_pixels(video: Tensor) -> Tensor:
    """What 8 bits keep of a video."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


# GIF


@pytest.mark.parametrize("scale", [1, 3])
def test_grey_gif_is_exact(tmp_path: Path, digits: Tensor, scale: int) -> None:
    write_gif(tmp_path / "a.gif", digits, fps=8, scale=scale)
    video, fps = read_video(tmp_path / "a.gif", channels=1)
    enlarged = digits.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    torch.testing.assert_close(video, to_pixels(enlarged), rtol=0, atol=1e-6)
    assert fps == pytest.approx(8, rel=0.02)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 6
        assert image.info["loop"] == 0


def test_gif_of_few_colours_is_exact(tmp_path: Path) -> None:
    video = torch.randint(0, 6, (3, 4, 9, 7), dtype=torch.uint8) * 51
    write_gif(tmp_path / "a.gif", video, fps=10)
    read, _ = read_video(tmp_path / "a.gif")
    assert torch.equal(((read + 1) * 127.5).round().to(torch.uint8), video)


def test_gif_of_many_colours_is_close(tmp_path: Path) -> None:
    video = smooth_colours()
    write_gif(tmp_path / "a.gif", video, fps=10)
    assert psnr(read_video(tmp_path / "a.gif")[0], video) > 30


@pytest.mark.parametrize("fps", [3, 7.5, 12, 24, 50])
def test_gif_keeps_equal_frames_and_total_time(tmp_path: Path, fps: float) -> None:
    video = torch.zeros(1, 24, 5, 5)
    video[:, 12:, 2, 2] = 1
    write_gif(tmp_path / "a.gif", video, fps=fps)
    with av.open(str(tmp_path / "a.gif")) as container:
        durations = [packet.duration for packet in container.demux(video=0) if packet.size]
    assert len(durations) == 24
    assert abs(sum(durations) - 100 * 24 / fps) <= 1
    assert max(durations) - min(durations) <= 1
    torch.testing.assert_close(read_video(tmp_path / "a.gif", channels=1)[0], to_pixels(video))


def test_gif_of_one_frame(tmp_path: Path) -> None:
    write_gif(tmp_path / "a.gif", torch.zeros(1, 1, 1, 1), fps=1)
    assert read_video(tmp_path / "a.gif", channels=1)[0].shape == (1, 1, 1, 1)


# Encoded video


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_video_round_trip(tmp_path: Path, suffix: str) -> None:
    video = smooth_colours()
    write_video(tmp_path / f"a{suffix}", video, fps=12.5)
    read, fps = read_video(tmp_path / f"a{suffix}")
    assert read.shape == video.shape
    assert psnr(read, video) > 36
    assert fps == pytest.approx(12.5, rel=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_strong_colours_are_kept(tmp_path: Path, suffix: str) -> None:
    colours = torch.tensor([[0.9, -0.8, -0.8], [-0.8, 0.9, -0.8], [-0.8, -0.8, 0.9], [0.6, 0.6, -0.6]])
    video = colours.T[:, :, None, None].expand(3, 4, 32, 32)
    write_video(tmp_path / f"a{suffix}", video, fps=8)
    middle = read_video(tmp_path / f"a{suffix}")[0][:, :, 8:24, 8:24].mean((2, 3))
    torch.testing.assert_close(middle, colours.T, rtol=0, atol=0.06)


def test_grey_mp4_stays_grey(tmp_path: Path, digits: Tensor) -> None:
    write_mp4(tmp_path / "a.mp4", digits, fps=8, crf=10)
    read, _ = read_video(tmp_path / "a.mp4")
    assert (read - read.mean(0)).abs().max() <= 3 / 127.5
    assert psnr(read.mean(0, keepdim=True), digits) > 38


def test_lower_crf_is_better(tmp_path: Path) -> None:
    noise = torch.rand(1, 4, 32, 32) * 2 - 1
    quality = []
    for crf in (0, 18, 40):
        write_mp4(tmp_path / "a.mp4", noise, fps=8, crf=crf)
        quality.append(psnr(read_video(tmp_path / "a.mp4", channels=1)[0], noise))
    assert quality == sorted(quality, reverse=True)


@pytest.mark.parametrize(("height", "width"), [(31, 33), (32, 33), (31, 32), (1, 1)])
def test_odd_sides_are_padded_by_repeating(tmp_path: Path, height: int, width: int) -> None:
    video = smooth_colours(3, height, width)
    write_mp4(tmp_path / "a.mp4", video, fps=8)
    read, _ = read_video(tmp_path / "a.mp4")
    assert read.shape == (3, 3, height + height % 2, width + width % 2)
    assert psnr(read[:, :, :height, :width], video) > 30


def test_scale_makes_squares(tmp_path: Path, digits: Tensor) -> None:
    write_mp4(tmp_path / "a.mp4", digits, fps=8, scale=4)
    read, _ = read_video(tmp_path / "a.mp4", channels=1)
    assert read.shape == (1, 6, 128, 128)
    assert psnr(read, digits.repeat_interleave(4, 2).repeat_interleave(4, 3)) > 36


def test_writer_appends(tmp_path: Path) -> None:
    video = smooth_colours(7)
    with VideoWriter(tmp_path / "a.mp4", fps=8) as writer:
        writer.append(video[:, :3])
        writer.append(video[:, 3])
        writer.append(video[:, 4:].half())
        assert writer.num_frames == 7
        assert not (tmp_path / "a.mp4").exists()
    read, _ = read_video(tmp_path / "a.mp4")
    assert psnr(read, video) > 36


def test_values_are_clamped_and_dtypes_accepted(tmp_path: Path) -> None:
    for video in (torch.full((1, 1, 4, 4), 1.5), torch.ones(1, 1, 4, 4, dtype=torch.bfloat16)):
        write_gif(tmp_path / "a.gif", video, fps=1)
        assert (read_video(tmp_path / "a.gif")[0] == 1).all()
    white = torch.full((3, 1, 4, 4), 255, dtype=torch.uint8)
    write_gif(tmp_path / "a.gif", white, fps=1)
    assert (read_video(tmp_path / "a.gif")[0] == 1).all()


def test_missing_h264_encoder_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Tensor
) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4", "gif"})
    write_mp4(tmp_path / "a.mp4", digits, fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert psnr(read_video(tmp_path / "a.mp4", channels=1)[0], digits) > 34
    with pytest.raises(ValueError, match=r"\.webm needs one of the encoders libvpx-vp9"):
        write_mp4(tmp_path / "a.webm", digits, fps=8)


# Part by part


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
@pytest.mark.parametrize("channels", [1, 3])
def test_parts_make_the_same_file_as_the_whole(tmp_path: Path, name: str, channels: int) -> None:
    video = smooth_colours(9)[:channels]
    write_video(tmp_path / f"whole-{name}", video, fps=10)
    write_video(tmp_path / name, (part for part in (video[:, :4], video[:, 4], video[:, 5:])), fps=10)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


def test_the_same_frames_make_the_same_file_every_time(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 30, 4, 4, generator=generator) * 2 - 1
    video = torch.nn.functional.interpolate(coarse, (120, 32, 32), mode="trilinear")[0]
    files = set()
    for number in range(12):
        path = tmp_path / f"{number}.mp4"
        write_video(path, (video[:, first : first + 12] for first in range(0, 120, 12)), fps=8)
        files.add(path.read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_memory_does_not_grow_with_the_number_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("vdm.data.gif._SPOOL_BYTES", 1 << 16)
    monkeypatch.setattr("vdm.data.gif._PALETTE_PIXELS", 1 << 14)
    parts: list[weakref.ref[Tensor]] = []

    def stream() -> Iterator[Tensor]:
        for number in range(60):
            part = smooth_colours(4, 64, 64) * (1 - number / 100)  # over 256 colours
            parts.append(weakref.ref(part))
            assert sum(ref() is not None for ref in parts) <= 2
            yield part

    tracemalloc.start()  # sees NumPy's memory
    write_video(tmp_path / name, stream(), fps=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * 60 * 4 * 64 * 64 * 3
    assert read_video(tmp_path / name)[0].shape == (3, 240, 64, 64)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parts_must_agree(tmp_path: Path) -> None:
    for name in ("a.gif", "a.mp4"):
        with pytest.raises(ValueError, match="with C=1, H=16, W=16"):
            write_video(tmp_path / name, [torch.zeros(1, 2, 16, 16), torch.zeros(3, 16, 16)], fps=8)
        with pytest.raises(ValueError, match="at least one frame"):
            write_video(tmp_path / name, [], fps=8)
        with pytest.raises(ValueError, match="inside the writer's `with` block"):
            video_writer(tmp_path / name, fps=8).append(GOOD)
    assert not list(tmp_path.iterdir())


# Contact sheets


def test_contact_sheet_shows_the_frames(tmp_path: Path) -> None:
    videos = torch.stack([MovingDigits(num_frames=6)[number].video for number in range(3)])
    write_contact_sheet(tmp_path / "a.png", videos)
    with Image.open(tmp_path / "a.png") as image:
        sheet = np.asarray(image.convert("L"))
    tile, gap = 32, 2
    assert sheet.shape == (3 * (tile + gap) + gap, 6 * (tile + gap) + gap)
    wanted = ((videos[2, 0, 4] + 1) * 127.5).round().to(torch.uint8).numpy()
    top, left = gap + 2 * (tile + gap), gap + 4 * (tile + gap)
    assert np.array_equal(sheet[top : top + tile, left : left + tile], wanted)


def test_contact_sheet_options(tmp_path: Path) -> None:
    videos = torch.rand(5, 3, 9, 16, 24) * 2 - 1
    write_contact_sheet(tmp_path / "plain.png", videos, frames=4, columns=2)
    write_contact_sheet(
        tmp_path / "labels.png", videos, frames=4, columns=2, labels=[0, "één", "c", "", 7], scale=2
    )
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "labels.png") as labelled:
        assert plain.height == 3 * 18 + 2
        assert labelled.height == 3 * 34 + 2
        assert labelled.width > 2 * plain.width - 30


# Complete or not there


def writers() -> list[tuple[str, Callable[[Path], None]]]:
    video = torch.rand(1, 8, 32, 32) * 2 - 1
    return [
        ("a.gif", lambda path: write_gif(path, video, fps=8)),
        ("a.mp4", lambda path: write_mp4(path, video, fps=8)),
        ("a.webm", lambda path: write_mp4(path, video, fps=8)),
        ("a.avi", lambda path: write_mp4(path, video, fps=8)),
        ("a.png", lambda path: write_contact_sheet(path, video[None])),
    ]


class FullDisk(io.FileIO):
    """A file on a disk with room for 700 bytes."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.tell() + len(data) > 700:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data) or 0


@pytest.mark.parametrize(("name", "write"), writers(), ids=[name for name, _ in writers()])
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("failure", ["write", "fsync", "replace"])
def test_a_failing_disk_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    write: Callable[[Path], None],
    existing: bool,
    failure: str,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if existing:
        (tmp_path / name).write_bytes(b"good")
    if failure == "write":
        monkeypatch.setattr("vdm.data.atomic_files.open", lambda path, _: FullDisk(path, "x"), raising=False)
    else:
        monkeypatch.setattr(os, failure, fail)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / name)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ([name] if existing else [])
    assert not existing or (tmp_path / name).read_bytes() == b"good"
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def write_video_half() -> None:
        with VideoWriter(tmp_path / "a.mp4", fps=8) as writer:
            writer.append(torch.zeros(1, 3, 16, 16))
            raise error

    def write_bytes_half() -> None:
        with atomic_file(tmp_path / "a.bin") as file:
            file.write(b"half")
            raise error

    for write in (write_video_half, write_bytes_half):
        with pytest.raises(error):
            write()
        assert not list(tmp_path.iterdir())


def test_a_bad_frame_leaves_nothing(tmp_path: Path) -> None:
    for frames, message in (
        (torch.full((1, 1, 16, 16), float("nan")), "frames must be finite"),
        (torch.zeros(1, 1, 16, 18), "with C=1, H=16, W=16"),
        (torch.zeros(3, 1, 16, 16), "with C=1, H=16, W=16"),
    ):
        with VideoWriter(tmp_path / "good.mp4", fps=8) as writer:
            writer.append(torch.zeros(1, 3, 16, 16))
            with pytest.raises(ValueError, match=message):
                writer.append(frames)
        assert read_video(tmp_path / "good.mp4")[0].shape == (3, 3, 16, 16)
        with (
            pytest.raises(ValueError, match=r"finite|with C=1"),
            VideoWriter(tmp_path / "a.mp4", fps=8) as writer,
        ):
            _append_all(writer, [torch.zeros(1, 3, 16, 16), frames])
        assert [path.name for path in tmp_path.iterdir()] == ["good.mp4"]


def _append_all(writer: VideoWriter, parts: list[Tensor]) -> None:
    for part in parts:
        writer.append(part)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", torch.zeros(1, 3, 16, 16), fps=8)
    before = (tmp_path / "a.mp4").read_bytes()
    child = os.fork()
    if child == 0:
        with VideoWriter(tmp_path / "a.mp4", fps=8) as writer:
            for _ in range(10_000):
                writer.append(torch.rand(1, 1, 16, 16))
                time.sleep(0.01)
        os._exit(0)
    deadline = time.monotonic() + 20
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_links_and_permissions_are_respected(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "é 视频.gif"
    target.write_bytes(b"old")
    link = tmp_path / "link.gif"
    link.symlink_to(target)
    write_gif(link, torch.zeros(1, 2, 4, 4), fps=8)
    assert link.is_symlink()
    assert target.read_bytes()[:6] == b"GIF89a"
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


# Bad arguments

GOOD = torch.zeros(1, 2, 8, 8)


@pytest.mark.parametrize("function", [write_gif, write_mp4])
@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"video": GOOD * float("nan")}, "finite"),
        ({"video": GOOD + float("inf")}, "finite"),
        ({"video": torch.zeros(2, 2, 8, 8)}, "C 1 or 3"),
        ({"video": torch.zeros(8, 8)}, "shape"),
        ({"video": torch.zeros(1, 1, 2, 8, 8)}, "shape"),
        ({"video": torch.zeros(1, 0, 8, 8)}, "shape"),
        ({"video": GOOD.long()}, "floating point or uint8"),
        ({"video": GOOD.numpy()}, "floating point or uint8"),
        ({"video": None}, "floating point or uint8"),
        ({"fps": 0}, "fps"),
        ({"fps": -3}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": float("inf")}, "fps"),
        ({"fps": "8"}, "fps"),
        ({"fps": None}, "fps"),
        ({"fps": 1e9}, "fps"),
        ({"scale": 0}, "scale"),
        ({"scale": 1.5}, "scale"),
        ({"scale": True}, "scale"),
        ({"path": ""}, "path"),
        ({"path": None}, "path"),
        ({"path": "missing/folder/a.gif"}, "path must lie in an existing folder"),
    ],
)
def test_bad_arguments(
    tmp_path: Path, function: Callable[..., None], changes: dict[str, object], name: str
) -> None:
    suffix = "gif" if function is write_gif else "mp4"
    arguments = {"path": tmp_path / f"a.{suffix}", "video": GOOD, "fps": 8, **changes}
    path, video = arguments.pop("path"), arguments.pop("video")
    with pytest.raises(ValueError, match=name):
        function(path, video, **arguments)
    assert not list(tmp_path.iterdir())


def test_more_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"video_writer: path must end in \.gif, \.mp4, .*, got a\.xyz"):
        write_video(tmp_path / "a.xyz", GOOD, fps=8)
    with pytest.raises(ValueError, match="path must be the path of a file, got the folder"):
        write_video(tmp_path, GOOD, fps=8)
    for crf in (-1, 52, 1.5):
        with pytest.raises(ValueError, match="crf must be an integer in"):
            write_mp4(tmp_path / "a.mp4", GOOD, fps=8, crf=crf)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(tmp_path / "a.mp4", fps=8):
        pass
    with pytest.raises(ValueError, match="inside the writer's `with` block"):
        VideoWriter(tmp_path / "a.mp4", fps=8).append(GOOD)
    videos = GOOD[None]
    for name, changes in (
        ("columns", {"columns": 0}),
        ("frames", {"frames": 3}),
        ("frames", {"frames": 0}),
        ("labels", {"labels": ["a", "b"]}),
        ("scale", {"scale": -1}),
    ):
        with pytest.raises(ValueError, match=f"write_contact_sheet: {name} must"):
            write_contact_sheet(tmp_path / "a.png", videos, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="videos must have shape"):
        write_contact_sheet(tmp_path / "a.png", GOOD)
    with pytest.raises(ValueError, match=r"end in \.png"):
        write_contact_sheet(tmp_path / "a.jpg", videos)
    assert not list(tmp_path.iterdir())

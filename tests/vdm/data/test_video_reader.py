from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from vdm.data import read_video
from vdm.data.video_index import index_by_decoding, index_from_header, index_from_packets

MakeVideo = Callable[..., Path]
FrameNumbers = Callable[[Tensor], list[int]]

# Name, encoder, pixel format and options: with groups of 12 frames, so that seeking has somewhere to go.
FORMATS = {
    "h264.mp4": ("libx264", "yuv420p", {"g": "12", "bf": "3"}),
    "mpeg4.mov": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "hevc.mp4": ("libx265", "yuv420p", {"g": "12", "x265-params": "log-level=none"}),
    "open_gop.mkv": ("libx264", "yuv420p", {"g": "12", "x264-params": "open-gop=1:bframes=3:mbtree=0"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "12", "cpu-used": "8"}),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "12", "cpu-used": "8"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "12"}),
    "reordered.avi": ("libx264", "yuv420p", {"g": "12", "bf": "3"}),
    "mpeg4_b.avi": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "a.gif": ("gif", "rgb8", {}),
    "a.ts": ("libx264", "yuv420p", {"g": "12"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_the_ones_asked_for(
    tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers, name: str
) -> None:
    codec, pix_fmt, options = FORMATS[name]
    path = make_video(tmp_path / name, 60, codec=codec, pix_fmt=pix_fmt, options=options)
    video, fps = read_video(path)
    assert frame_numbers(video) == list(range(60))
    assert video.dtype == torch.float32
    assert fps == pytest.approx(25)
    for start in (0, 11, 12, 35, 50):
        video, fps = read_video(path, start=start, num_frames=4, frame_skip=3)
        assert frame_numbers(video) == [start, start + 3, start + 6, start + 9]
        assert fps == pytest.approx(25 / 3)
        assert frame_numbers(read_video(path, start=start, num_frames=1)[0]) == [start]


@pytest.mark.parametrize("name", FORMATS)
def test_cheap_indexes_agree_with_decoding(tmp_path: Path, make_video: MakeVideo, name: str) -> None:
    codec, pix_fmt, options = FORMATS[name]
    path = make_video(tmp_path / name, 30, codec=codec, pix_fmt=pix_fmt, options=options)
    decoded = index_by_decoding(path)
    packets = index_from_packets(path)
    assert len(decoded) == len(packets) == 30
    if packets.keyframes is not None:
        assert np.array_equal(packets.pts, decoded.pts)
    header = index_from_header(path)
    assert (header is not None) == (path.suffix in (".mp4", ".mov"))
    if header is not None:
        assert np.array_equal(header.pts, decoded.pts)
        assert header.fps == packets.fps


def test_hidden_frames_are_not_counted(
    tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers
) -> None:
    """VP8 has frames that are only referred to: packets of their own, with a time stamp, but never shown."""
    path = make_video(tmp_path / "shown.webm", 40, codec="libvpx", options={"cpu-used": "8"})
    with av.open(str(path)) as old, av.open(str(tmp_path / "hidden.webm"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.dts is None:
                continue
            content = bytearray(bytes(packet))
            if number in (7, 20):
                content[0] &= ~0x10  # show_frame of the frame tag (RFC 6386, 9.1)
            copy = av.Packet(bytes(content))
            copy.stream, copy.pts, copy.dts, copy.time_base = stream, packet.pts, packet.dts, packet.time_base
            copy.is_keyframe = packet.is_keyframe
            new.mux(copy)
    path = tmp_path / "hidden.webm"
    shown = [number for number in range(40) if number not in (7, 20)]
    assert np.array_equal(index_from_packets(path).pts, index_by_decoding(path).pts)
    assert frame_numbers(read_video(path)[0]) == shown
    assert frame_numbers(read_video(path, start=10, num_frames=12)[0]) == shown[10:22]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate(
    tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers, suffix: str
) -> None:
    times = np.cumsum(np.random.default_rng(0).integers(10, 90, 40)).tolist()
    path = make_video(tmp_path / f"a{suffix}", milliseconds=times, options={"g": "8", "bf": "2"})
    assert index_from_header(path) is None
    video, fps = read_video(path, start=17, num_frames=9, frame_skip=2)
    assert frame_numbers(video) == list(range(17, 35, 2))
    assert fps == pytest.approx(39_000 / (times[-1] - times[0]) / 2, rel=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_first_time_stamp_is_not_zero(
    tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers, suffix: str
) -> None:
    path = make_video(tmp_path / f"a{suffix}", start=1000, options={"g": "8"})
    assert frame_numbers(read_video(path)[0]) == list(range(40))
    assert frame_numbers(read_video(path, start=30, num_frames=3)[0]) == [30, 31, 32]


def test_a_long_file_is_not_decoded_from_its_start(
    tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "long.mp4", 240, height=16, options={"g": "10"})
    import vdm.data.video_reader as reader

    decoded = 0
    original = reader.decode

    def counting(*arguments: object) -> object:
        nonlocal decoded
        for frame in original(*arguments):  # type: ignore[arg-type]
            decoded += 1
            yield frame

    monkeypatch.setattr(reader, "decode", counting)
    assert frame_numbers(read_video(path, start=205, num_frames=4)[0]) == [205, 206, 207, 208]
    assert decoded < 25


def test_truncated_file_gives_what_is_there(
    tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_video(tmp_path / "whole.mp4", 200, options={"g": "12"})
    start = _with_header_first(whole, tmp_path / "start.mp4")
    content = start.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: int(len(content) * 0.6)])
    assert frame_numbers(read_video(cut, num_frames=4)[0]) == [0, 1, 2, 3]
    assert not caplog.records
    video, _ = read_video(cut)
    assert frame_numbers(video) == list(range(video.shape[1]))
    assert 4 < video.shape[1] < 200
    assert "cut.mp4: some frames are missing" in caplog.text
    with pytest.raises(ValueError, match=r"cut\.mp4 cannot be read: it has \d+ frames, 200 are needed"):
        read_video(cut, start=196, num_frames=4)


def _with_header_first(source: Path, target: Path) -> Path:
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


def test_damage_in_the_middle_is_left_out(
    tmp_path: Path, make_video: MakeVideo, frame_numbers: FrameNumbers
) -> None:
    path = _with_header_first(make_video(tmp_path / "a.mp4", 200, options={"g": "12"}), tmp_path / "b.mp4")
    content = bytearray(path.read_bytes())
    for position in range(len(content) // 2, len(content) // 2 + 300):
        content[position] ^= 0x5A
    path.write_bytes(content)
    numbers = frame_numbers(read_video(path)[0])
    assert 150 < len(numbers) < 200
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    "content", [b"", b"not a video", b"\x00\x00\x00\x18ftypmp42" + bytes(64)], ids=["empty", "text", "header"]
)
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"read_video: .*broken\.mp4 cannot be read"):
        read_video(tmp_path / "broken.mp4")


def test_missing_file_folder_and_sound_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="cannot be read"):
        read_video(tmp_path)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match="no video stream"):
        read_video(tmp_path / "sound.wav")


def test_names_outside_ascii(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "días de été" / "видео 视频 🎬.mp4", 3)
    assert read_video(path)[0].shape == (3, 3, 48, 64)


@pytest.mark.parametrize("channels", [1, 3])
def test_size_covers_and_crops_the_middle(tmp_path: Path, make_video: MakeVideo, channels: int) -> None:
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, 24:72] = 255
    path = make_video(tmp_path / "a.mp4", frames=[picture] * 2)
    video, _ = read_video(path, size=24, channels=channels)
    assert video.shape == (channels, 2, 24, 24)
    assert (video[..., 1:-1] > 0.9).all()
    video, _ = read_video(path, size=(24, 48), channels=channels)
    assert (video[..., 14:34] > 0.9).all()
    assert (video[..., :10] < -0.9).all()


def test_rotation_of_phones_is_undone(tmp_path: Path, make_video: MakeVideo) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32, 0] = 255
    path = make_video(tmp_path / "a.mp4", frames=[picture] * 2)
    content = bytearray(path.read_bytes())
    # The matrix of the track header (ISO 14496-12, 8.3.2), 16.16 fixed point: a quarter turn clockwise.
    matrix = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30)
    path.write_bytes(content)
    video, _ = read_video(path)
    assert video.shape == (3, 2, 64, 32)
    assert video[0, 0, 10, 16] > 0.8  # what was left is above
    assert video[0, 0, 54, 16] < -0.8
    assert read_video(path, size=(32, 16))[0].shape == (3, 2, 32, 16)


def test_pixels_that_are_not_square(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "a.mkv", 2, sample_aspect_ratio=Fraction(2, 1))
    assert read_video(path)[0].shape == (3, 2, 48, 128)


def test_transparency_becomes_black(tmp_path: Path, make_video: MakeVideo) -> None:
    from PIL import Image

    image = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (0, 0, 4, 8))
    image.save(tmp_path / "a.gif", save_all=True, append_images=[image.rotate(180)], duration=100)
    video, _ = read_video(tmp_path / "a.gif")
    assert (video[:, 0, :, :4] == 1).all()
    assert (video[:, 0, :, 4:] == -1).all()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"start": -1}, "start"),
        ({"start": 0.5}, "start"),
        ({"num_frames": 0}, "num_frames"),
        ({"frame_skip": 0}, "frame_skip"),
        ({"size": 0}, "size"),
        ({"size": (8,)}, "size"),
        ({"size": "8"}, "size"),
        ({"channels": 2}, "channels"),
        ({"channels": None}, "channels"),
        ({"start": 40}, "it has 40 frames, 41 are needed"),
        ({"num_frames": 41}, "it has 40 frames, 41 are needed"),
        ({"path": None}, "path"),
    ],
)
def test_bad_arguments(tmp_path: Path, make_video: MakeVideo, changes: dict[str, object], name: str) -> None:
    arguments = {"path": make_video(tmp_path / "a.mp4"), **changes}
    with pytest.raises(ValueError, match=rf"read_video: .*{name}"):
        read_video(**arguments)

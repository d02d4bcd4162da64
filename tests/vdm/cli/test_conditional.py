"""`vdm extend`, `interpolate`, `upscale` and `inpaint`: results, refusals, and going on after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vdm.cli.main import main
from vdm.data import MovingDigits, VideoFile, VideoParts, read_video, write_gif, write_video
from vdm.models import VideoUNetConfig
from vdm.training import (
    Config,
    DataConfig,
    DiffusionConfig,
    SamplingConfig,
    apply_overrides,
    export_model,
)
from vdm.training.trainer import Trainer

SIZE, FRAMES = 16, 8
CONFIG = Config(
    model=VideoUNetConfig(
        in_channels=1,
        base_channels=8,
        channel_multipliers=(1, 2),
        num_blocks=1,
        num_up_blocks=1,
        attention_levels=(1,),
        head_dim=8,
        embedding_dim=16,
        num_groups=4,
        num_classes=10,
    ),
    diffusion=DiffusionConfig(parameterization="v", loss_weight="v"),
    data=DataConfig(kind="moving-digits", size=SIZE, frames=FRAMES),
    sampling=SamplingConfig(steps=2, guidance_weight=0.5),
)


def export(folder: Path, *overrides: str) -> Path:
    """An untrained model whose last layer is not zero."""
    trainer = Trainer(apply_overrides(CONFIG, overrides), folder / "run")
    torch.manual_seed(0)
    with torch.no_grad():
        torch.nn.init.normal_(trainer.model.output_conv.weight, std=0.1)
    trainer.ema.load_state_dict(trainer.model.state_dict(), num_updates=0)
    return export_model(trainer.save(), folder / "tiny.safetensors")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """What 8 bits keep of 10 frames of a digit, (1, 10, 16, 16)."""
    video = MovingDigits(image_size=SIZE, num_frames=10, seed=1)[0].video
    return ((video + 1) * 127.5).round() / 127.5 - 1


@pytest.fixture
def clip(tmp_path: Path, digits: Tensor) -> Path:
    write_gif(tmp_path / "clip.gif", digits, fps=8)
    return tmp_path / "clip.gif"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def vdm(*arguments: str | Path | int) -> None:
    """Runs a command in this process, which saves its start."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code in (0, None)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str | Path | int) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert end.value.code not in (0, None)
        return capsys.readouterr().err

    return run


def grey(path: Path) -> Tensor:
    return read_video(path, channels=1)[0]


# Results


@pytest.mark.parametrize("method", ["reconstruction", "replacement"])
def test_extend_goes_on_after_the_given_frames(tiny: Path, clip: Path, digits: Tensor, method: str) -> None:
    out = clip.with_name("out.gif")
    vdm("extend", clip, "--model", tiny, "--out", out, "--frames", 21, "--context", 3, "--method", method)
    video = grey(out)
    assert video.shape == (1, 21, SIZE, SIZE)
    torch.testing.assert_close(video[:, :10], digits, rtol=0, atol=1e-6)
    assert VideoFile(out).fps == 8
    assert not out.with_name("out.gif.parts").exists()
    vdm("extend", clip, "--model", tiny, "--out", clip.with_name("s.gif"), "--seconds", 2.625, "--context", 3,
        "--method", method)  # fmt: skip
    assert clip.with_name("s.gif").read_bytes() == out.read_bytes()


def test_extend_sees_its_context_and_its_seed(tiny: Path, clip: Path, digits: Tensor) -> None:
    shared = ("--model", tiny, "--frames", 14, "--context", 4)
    results = []
    write_gif(clip.with_name("later.gif"), torch.cat([-digits[:, :6], digits[:, 6:]], 1), fps=8)
    for video, seed in (("clip", 0), ("later", 0), ("clip", 1)):
        out = clip.with_name(f"{video}-{seed}.gif")
        vdm("extend", clip.with_name(f"{video}.gif"), *shared, "--seed", seed, "--out", out)
        results.append(grey(out)[:, 10:])
    assert torch.equal(results[0], results[1])  # frames before the context do not count
    assert not torch.allclose(results[0], results[2], atol=0.1)


@pytest.mark.parametrize("stride", [1, 2])
def test_extend_by_a_stride(tiny: Path, clip: Path, stride: int) -> None:
    out = clip.with_name("out.gif")
    vdm(
        "extend", clip, "--model", tiny, "--out", out, "--frames", 15, "--stride", stride, "--sampler", "ddim"
    )
    assert grey(out).shape == (1, 15, SIZE, SIZE)


def test_interpolate_keeps_the_given_frames_and_their_time(tiny: Path, clip: Path, digits: Tensor) -> None:
    out = clip.with_name("out.gif")
    vdm("interpolate", clip, "--model", tiny, "--out", out, "--factor", 3)
    video = grey(out)
    assert video.shape == (1, 28, SIZE, SIZE)
    torch.testing.assert_close(video[:, ::3], digits, rtol=0, atol=1e-6)
    assert VideoFile(out).fps == 24


def test_interpolate_takes_positions(tiny: Path, clip: Path, digits: Tensor) -> None:
    write_gif(clip, digits[:, :3], fps=8)
    out = clip.with_name("out.mp4")
    vdm("interpolate", clip, "--model", tiny, "--out", out, "--positions", "0,2,7")
    assert VideoFile(out).num_frames == 8
    assert VideoFile(out).fps == 28


def test_upscale_draws_the_models_size(tiny: Path, clip: Path, digits: Tensor) -> None:
    small = torch.nn.functional.avg_pool2d(digits[0], 2)[None]
    write_gif(clip, small, fps=8)
    vdm("upscale", clip, "--model", tiny, "--out", clip.with_name("out.mp4"))
    assert (VideoFile(clip.with_name("out.mp4")).size, VideoFile(clip.with_name("out.mp4")).fps) == (
        (16, 16),
        8,
    )
    write_gif(clip, digits, fps=8)
    vdm("upscale", clip, "--model", tiny, "--out", clip.with_name("out.gif"), "--factor", 4, "--resize")
    assert grey(clip.with_name("out.gif")).shape == (1, 10, SIZE, SIZE)


def test_inpaint_keeps_what_is_not_marked(tiny: Path, clip: Path, digits: Tensor) -> None:
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[4:9, 6:14] = 255
    Image.fromarray(image).save(clip.with_name("mask.png"))
    moving = torch.from_numpy(image / 127.5 - 1).float()[None, None].repeat(1, 10, 1, 1)
    write_gif(clip.with_name("mask.gif"), moving, fps=8)
    moving[:, 5:] = -1
    write_gif(clip.with_name("half.gif"), moving, fps=8)
    for name, marks in (
        ("box", ("--box", "4,6,5,8")),
        ("image", ("--mask", clip.with_name("mask.png"))),
        ("video", ("--mask", clip.with_name("mask.gif"))),
        ("half", ("--mask", clip.with_name("half.gif"))),
    ):
        vdm("inpaint", clip, "--model", tiny, "--out", clip.with_name(f"{name}-out.gif"), *marks)
    video = grey(clip.with_name("box-out.gif"))
    kept = torch.from_numpy(image == 0)
    torch.testing.assert_close(video[..., kept], digits[..., kept], rtol=0, atol=1e-6)
    assert (video[..., ~kept] - digits[..., ~kept]).abs().mean() > 0.1
    assert torch.equal(grey(clip.with_name("image-out.gif")), video)
    assert torch.equal(grey(clip.with_name("video-out.gif")), video)
    half = grey(clip.with_name("half-out.gif"))
    torch.testing.assert_close(half[:, 5:], digits[:, 5:], rtol=0, atol=1e-6)
    assert VideoFile(clip.with_name("box-out.gif")).fps == 8


def test_resize_takes_what_does_not_fit(tmp_path: Path) -> None:
    model = export(tmp_path, "data.fps=10")
    colours = torch.rand(3, 30, 40, 48) * 2 - 1
    write_video(tmp_path / "a.mp4", colours, fps=20)
    vdm("extend", tmp_path / "a.mp4", "--model", model, "--out", tmp_path / "out.mp4", "--frames", 17, "--resize",
        "--scale", 2)  # fmt: skip
    out = VideoFile(tmp_path / "out.mp4")
    assert (out.num_frames, out.size, out.fps) == (17, (32, 32), 10)


def test_a_sheet_beside_the_result(tiny: Path, clip: Path) -> None:
    vdm("extend", clip, "--model", tiny, "--out", clip.with_name("out.gif"), "--frames", 16, "--sheet")
    with Image.open(clip.with_name("out.png")) as sheet:
        assert sheet.height == 2 * (64 + 2) + 2


# Refusals: one line, and nothing written


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("extend", (), "one of --frames and --seconds"),
        ("extend", ("--frames", 12, "--seconds", 2), "one of --frames and --seconds"),
        ("extend", ("--frames", 10), "longer than the video's 10 frames, got 10"),
        ("extend", ("--frames", 20, "--context", 11), "context"),
        ("extend", ("--frames", 20, "--context", 8), "context_frames"),
        ("extend", ("--frames", 20, "--context", 4, "--stride", 5), "stride"),
        ("extend", ("--frames", 20, "--label", 10), "labels must be in 0..9"),
        ("extend", ("--frames", 20, "--weight", -1), "weight"),
        ("extend", ("--frames", 20, "--weight", 1, "--method", "replacement"), "--weight needs"),
        ("extend", ("--frames", 20, "--method", "magic"), "method"),
        ("extend", ("--frames", 20, "--steps", 0), "steps"),
        ("extend", ("--frames", 20, "--set", "sampling.gama=1"), "did you mean 'gamma'"),
        ("interpolate", (), "one of --factor and --positions"),
        ("interpolate", ("--factor", 1), "factor"),
        ("interpolate", ("--factor", 7), "fps"),
        ("interpolate", ("--positions", "0,4,2"), "increasing"),
        ("interpolate", ("--positions", "0,4"), "must be 2, as there are positions, got 10"),
        ("upscale", (), "16x16 pixels over a whole number from 2 on, got 16x16 pixels"),
        ("upscale", ("--factor", 3), "--factor must divide"),
        ("upscale", ("--factor", 2), "8x8 pixels, got 16x16 pixels"),
        ("upscale", ("--resize",), "--resize needs --factor"),
        (
            "upscale",
            ("--factor", 2, "--resize", "--method", "replacement"),
            "--method must be reconstruction",
        ),
        ("inpaint", (), "one of --mask and --box"),
        ("inpaint", ("--box", "0,0,17,3"), "within the 16x16 pixels"),
        ("inpaint", ("--box", "0,0,0,3"), "within the 16x16 pixels"),
        ("inpaint", ("--box", "box"), "TOP,LEFT,HEIGHT,WIDTH"),
        ("inpaint", ("--box", "0,0,16,16"), "must leave something"),
        ("inpaint", ("--mask", "nowhere.png"), "nowhere.png cannot be read"),
        ("inpaint", ("--mask", "black.png"), "white somewhere"),
        ("inpaint", ("--mask", "small.png"), "--mask must have 16x16 pixels, got 8x8"),
        ("inpaint", ("--mask", "short.gif"), "must be an image or have 10 frames, got 4"),
    ],
)
def test_bad_options(
    tiny: Path,
    clip: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: tuple[str | int, ...],
    named: str,
) -> None:
    monkeypatch.chdir(clip.parent)
    Image.new("L", (16, 16)).save("black.png")
    Image.new("L", (8, 8), 255).save("small.png")
    write_gif("short.gif", torch.zeros(1, 4, 16, 16), fps=8)
    before = sorted(clip.parent.iterdir())
    (clip.parent / "out.gif").write_bytes(b"good")
    message = refused(command, clip, "--model", tiny, "--out", "out.gif", *options)
    assert named in message
    assert (clip.parent / "out.gif").read_bytes() == b"good"
    (clip.parent / "out.gif").unlink()
    assert sorted(clip.parent.iterdir()) == before


def test_bad_files(tiny: Path, clip: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    shared = ("--model", tiny, "--frames", 20)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    write_video(tmp_path / "large.mp4", torch.zeros(1, 10, 20, 16), fps=8)
    write_gif(tmp_path / "colour.gif", torch.rand(3, 10, 16, 16) * 2 - 1, fps=8)
    out = tmp_path / "out.gif"
    for video, target, named in (
        (tmp_path / "broken.mp4", out, "broken.mp4 cannot be read"),
        (tmp_path / "nowhere.mp4", out, "nowhere.mp4 cannot be read"),
        (tmp_path / "large.mp4", out, "needs a video of 16x16 pixels, got 20x16 pixels"),
        (tmp_path / "colour.gif", out, "needs a video of grey frames, got colour"),
        (clip, tmp_path / "out.txt", "path must end in"),
        (clip, tmp_path / "no" / "out.gif", "existing folder"),
        (clip, tmp_path, "got the folder"),
    ):
        message = refused("extend", video, *shared, "--out", target)
        assert named in message
        assert len(message.splitlines()) == 1
    model = export(tmp_path, "data.fps=12")
    assert "12 frames/s, got 8 frames/s" in refused(
        "extend", clip, "--model", model, *shared[2:], "--out", out
    )
    assert not out.exists()
    assert not list(tmp_path.glob("*.parts"))


# Interruptions


KILLED = """
import os, signal, sys
from vdm.cli.main import main
from vdm.cli.progress import SamplingProgress

calls = 0

def interrupt(self, step, signal_number=int(sys.argv[1]), last=int(sys.argv[2])):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal_number)

SamplingProgress.__call__ = interrupt
main(sys.argv[3:])
"""


def interrupted(
    number: signal.Signals, step: int, *arguments: str | Path | int
) -> subprocess.CompletedProcess[str]:
    """A command that gets a signal at a sampler's step, counted over all blocks."""
    words = [sys.executable, "-c", KILLED, str(int(number)), str(step), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)


COMMANDS: dict[str, tuple[str | int, ...]] = {
    "extend": ("--frames", 20, "--context", 2, "--stride", 2),
    "interpolate": ("--factor", 3),
    "upscale": ("--factor", 2, "--resize", "--set", "data.frames=3"),
    "inpaint": ("--box", "4,6,5,8", "--set", "data.frames=3"),
}


@pytest.mark.parametrize("command", ["extend", "inpaint"])
def test_a_killed_run_goes_on_to_the_same_file(
    tiny: Path, clip: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (command, clip, "--model", tiny, *COMMANDS[command], "--out")
    whole, out = clip.with_name("whole.mp4"), clip.with_name("out.mp4")
    vdm(*options, whole)
    out.write_bytes(b"good")
    # Two steps a block: within the third block.
    assert interrupted(signal.SIGKILL, 6, *options, out).returncode == -signal.SIGKILL
    assert out.read_bytes() == b"good"
    assert len(list(clip.with_name("out.mp4.parts").glob("block-*"))) == 2
    capsys.readouterr()
    vdm(*options, out)
    assert "going on after block 2 of" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    assert not list(clip.parent.glob("*.parts"))


@pytest.mark.parametrize("command", COMMANDS)
def test_any_block_can_be_the_first_after_an_interruption(
    tiny: Path, clip: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (command, clip, "--model", tiny, *COMMANDS[command], "--out")
    whole, out = clip.with_name("whole.gif"), clip.with_name("out.gif")
    vdm(*options, whole)
    append = VideoParts.append
    drawn = SimpleNamespace(blocks=0)

    def append_one(self: VideoParts, frames: Tensor) -> None:
        append(self, frames)
        drawn.blocks += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoParts, "append", append_one)
    while not out.exists():
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in (*options, out)])
        assert end.value.code in (0, 130)
        if end.value.code == 130:
            assert f"interrupted: {drawn.blocks} of" in capsys.readouterr().err
        assert drawn.blocks < 60
    assert drawn.blocks >= 3
    assert out.read_bytes() == whole.read_bytes()


def test_other_options_are_refused_by_name_until_the_blocks_are_gone(
    tiny: Path, clip: Path, refused: Callable[..., str]
) -> None:
    out = clip.with_name("out.gif")
    options = ("extend", clip, "--model", tiny, "--out", out, "--frames", 20, "--context", 2, "--stride", 2)
    done = interrupted(signal.SIGINT, 8, *options, "--steps", 3)
    assert done.returncode == 130
    assert "interrupted: 2 of 5 blocks are kept in" in done.stderr
    assert "the same command goes on" in done.stderr
    assert "sampling.steps 3 (now 2)" in refused(*options)
    write_gif(clip, torch.zeros(1, 10, 16, 16), fps=8)
    assert "with video" in refused(*options, "--steps", 3)
    assert not out.exists()


def test_memory_does_not_grow_with_the_length(
    tiny: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    frames, read = VideoParts.frames, VideoFile.read

    def counted_frames(self: VideoParts, start: int, stop: int) -> Tensor:
        nonlocal longest
        longest = max(longest, stop - start)
        return frames(self, start, stop)

    def counted_read(self: VideoFile, start: int, stop: int) -> Tensor:
        nonlocal longest
        longest = max(longest, stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(VideoParts, "frames", counted_frames)
    monkeypatch.setattr(VideoFile, "read", counted_read)
    write_gif(clip, torch.zeros(1, 100, SIZE, SIZE), fps=8)
    for command, options in (
        ("extend", ("--frames", 150)),
        ("interpolate", ("--factor", 2)),
        ("inpaint", ("--box", "0,0,8,8")),
    ):
        vdm(command, clip, "--model", tiny, "--out", clip.with_name("out.mp4"), "--steps", 1, *options)
    assert 1 <= longest <= 64

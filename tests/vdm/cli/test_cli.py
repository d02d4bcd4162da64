"""The command line, as a subprocess: what it writes, what it refuses, and that a refusal leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from vdm.cli.main import main
from vdm.data import VideoFolder, read_video
from vdm.training import apply_overrides, export_model, load_model, preset
from vdm.training.trainer import Trainer


def vdm(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "vdm.cli.main", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout)


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> str:
    """What the command writes to stderr when it fails; in this process, to save its start."""
    monkeypatch.setattr(sys, "argv", ["vdm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code not in (0, None)
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported, untrained tiny model whose last layer is not zero."""
    folder = tmp_path_factory.mktemp("tiny")
    config = apply_overrides(preset("tiny"), ["sampling.steps=2"])
    trainer = Trainer(config, folder / "run")
    with torch.no_grad():
        torch.nn.init.normal_(trainer.model.output_conv.weight, std=0.1)
    trainer.ema.load_state_dict(trainer.model.state_dict(), num_updates=0)
    return export_model(trainer.save(), folder / "tiny.safetensors")


def test_doctor_names_versions_and_a_backend_for_every_op() -> None:
    import vdm_kernels

    done = vdm("doctor")
    assert done.returncode == 0, done.stderr
    assert torch.__version__ in done.stdout
    for op in vdm_kernels.backends():
        assert op.removesuffix("_bwd") in done.stdout


def test_sample_writes_each_video_all_of_them_and_a_sheet(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = vdm(
        "sample", "--model", tiny, "--out", out, "--count", 3, "--labels", "7,2", "--frames", 5, "--fps", 10
    )
    assert done.returncode == 0, done.stderr
    names = ["0000-class-7.gif", "0001-class-2.gif", "0002-class-7.gif", "samples.gif", "samples.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    with Image.open(out / "0000-class-7.gif") as gif:
        assert (gif.n_frames, gif.size) == (5, (128, 128))
    assert "sampling" in done.stderr  # progress
    assert Path(done.stdout.split()[0]).name == "samples.png"


def test_a_video_depends_on_its_seed_and_class_alone(tiny: Path, tmp_path: Path) -> None:
    many, one = tmp_path / "many", tmp_path / "one"
    shared = ("sample", "--model", tiny, "--size", "16x24")
    assert vdm(*shared, "--out", many, "--count", 3, "--seed", 5, "--labels", "1,2,3").returncode == 0
    assert vdm(*shared, "--out", one, "--count", 1, "--seed", 7, "--labels", "3").returncode == 0
    first, _ = read_video(many / "0002-class-3.gif")
    second, _ = read_video(one / "0000-class-3.gif")
    assert first.shape[-2:] == (80, 120)
    # Convolutions of other batch sizes round differently; a grey level is 1/127.5.
    torch.testing.assert_close(first, second, atol=2.1 / 127.5, rtol=0)


def test_sample_writes_mp4_and_takes_any_setting(tiny: Path, tmp_path: Path) -> None:
    done = vdm(
        "sample", "--model", tiny, "--out", tmp_path / "o", "--count", 1, "--format", "mp4",
        "--set", "sampling.sampler=ddim", "--set", "sampling.threshold=dynamic", "--guidance-weight", 0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    video, fps = read_video(tmp_path / "o" / "samples.mp4")
    assert video.shape == (3, 8, 128, 128)
    assert fps == 8


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = vdm("sample", "--model", "nowhere.safetensors", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--size", "32by32"), "--size"),
        (("--size", "15"), "15"),
        (("--labels", "11"), "labels"),
        (("--labels", "one"), "labels"),
        (("--model", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--set", "sampling.stepz=3"), "stepz"),
        (("--set", "sampling.gamma=2"), "gamma"),
        (("--count", "0"), "count"),
        (("--steps", "-1"), "steps"),
        (("--format", "avi2"), "format"),
        (("--guidance-weight", "-1"), "guidance-weight"),
    ],
)
def test_sample_refuses_bad_input_in_one_line_and_writes_nothing(
    tiny: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    model = () if "--model" in arguments else ("--model", tiny)
    assert named in refused(monkeypatch, capsys, "sample", *model, "--out", out, *arguments)
    assert not out.exists()


def test_interrupted_sampling_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [
        "-u",
        "-m",
        "vdm.cli.main",
        "sample",
        "--model",
        str(tiny),
        "--out",
        str(out),
        "--steps",
        "100000",
    ]
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "sampling" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    process.stderr.close()
    assert not out.exists()


def test_data_writes_class_folders_that_the_loader_reads(tmp_path: Path) -> None:
    out = tmp_path / "digits"
    done = vdm("data", "moving-digits", "--out", out, "--count", 6, "--size", 16, "--frames", 5)
    assert done.returncode == 0, done.stderr
    data = VideoFolder(out, num_frames=5, size=16, channels=1)
    assert len(data) == 6
    clip = data[0]
    assert clip.video.shape == (1, 5, 16, 16)
    assert clip.label is not None
    assert data.classes[clip.label].isdigit()


def test_train_then_sample_then_export(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["training.steps=2", "training.batch_size=2", "sampling.steps=2", "sampling.count=1"]
    overrides = [word for value in small for word in ("--set", value)]
    done = vdm("train", "--preset", "tiny", "--out", run, *overrides)
    assert done.returncode == 0, done.stderr
    assert (run / "loss.png").is_file()
    assert vdm("sample", "--model", run, "--out", tmp_path / "samples").returncode == 0
    exported = tmp_path / "m.safetensors"
    assert vdm("export", run, "--out", exported, "--dtype", "fp16").returncode == 0
    model, config = load_model(exported)
    other, _ = load_model(run)
    assert config.training.steps == 2
    for weight, same in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, same.half().float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "preset"),
        (("--preset", "ucf102"), "ucf101"),
        (("--preset", "tiny", "--set", "training.lr=fast"), "lr"),
        (("--preset", "tiny", "--set", "model.base_channels=7"), "num_groups"),
        (("--preset", "tiny", "--set", "data.kind=video-folder", "--set", "data.path=nowhere"), "nowhere"),
        (("--preset", "tiny", "--resume"), "resume"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_train_refuses_bad_input_in_one_line_and_writes_nothing(
    tmp_path: Path,
    arguments: tuple[str, ...],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert named in refused(monkeypatch, capsys, "train", "--out", run, *arguments)
    assert not run.exists() or not any(run.iterdir())

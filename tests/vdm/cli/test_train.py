"""`vdm train` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vdm.cli.main import main
from vdm.training import list_checkpoints, load_checkpoint, preset

SETTINGS = (
    "model.base_channels=8",
    "model.num_groups=4",
    "model.head_dim=8",
    "data.size=8",
    "data.frames=2",
    "training.batch_size=2",
    "training.checkpoint_every=2",
    "sampling.steps=2",
    "sampling.count=2",
)
SMALL = ("--preset", "tiny", *(word for setting in SETTINGS for word in ("--set", setting)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["train", *arguments])
    return int(end.value.code or 0)


def test_train_and_go_on_by_the_folder_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run("--out", out, *SMALL, "--set", "training.steps=2") == 0
    assert run("--out", out, "--set", "training.steps=3", "--resume") == 0
    captured = capfd.readouterr()
    assert "resuming from" in captured.err
    assert "step 3/3  loss" in captured.err
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000003"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training"]["steps"] == 3
    assert config["model"]["base_channels"] == 8


def test_file_on_top_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "more.toml"
    path.write_text("[training]\nsteps = 1\nlr = 5e-4\n")
    assert (
        run("--out", str(tmp_path / "run"), *SMALL, "--config", str(path), "--set", "training.lr=7e-4") == 0
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training"]["steps"] == 1
    assert config["training"]["lr"] == 7e-4
    assert config["training"]["beta2"] == preset("tiny").training.beta2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--preset or --config is needed for a new run; presets: tiny, moving-digits"),
        (["--preset", "tinny"], "preset: name must be one of tiny,"),
        (["--preset", "tiny", "--set", "training.stepz=3"], "did you mean 'steps'?"),
        (["--preset", "tiny", "--set", "training.steps=x"], "training.steps must be an integer, got 'x'"),
        (["--config", "nowhere.toml"], "nowhere.toml must be a readable file"),
        (["--preset", "ucf101"], "root must be a folder, got 'data'"),
        (["--preset", "text-small"], "root must be a folder"),
        (["--preset", "tiny", "--resume"], "must hold a run to resume, got none"),
        (["--preset", "tiny", "--device", "gpu9"], "gpu9"),
    ],
)
def test_one_line_for_what_is_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--out", "run", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_interrupted_command_exits_with_130_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [sys.executable, "-m", "vdm.cli.main", "train", "--out", str(out), *SMALL]
    words += ["--set", "training.steps=100000"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not list_checkpoints(out / "checkpoints") and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert "stopping: finishing this step and saving" in error
    assert "Traceback" not in error
    last = load_checkpoint(list_checkpoints(out / "checkpoints")[-1])
    assert last.state["data_position"] == 2 * last.step

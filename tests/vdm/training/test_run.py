"""Starting and resuming: a run that is there is gone on with or left alone, never overwritten."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vdm.data import MovingDigits, write_mp4
from vdm.training import Checkpoint, Config, list_checkpoints, load_checkpoint, train
from vdm.training import checkpoint as checkpoint_module
from vdm.training.logs import read_log

MakeConfig = Callable[..., Config]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock, so that a change of any is seen."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def printed(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.fixture
def finished(make_config: MakeConfig, tmp_path: Path, quiet: Console) -> Path:
    """Folder of a finished run of the small configuration, with checkpoints at 6 and 8."""
    assert train(make_config(), tmp_path / "run", console=quiet) == 0
    return tmp_path / "run"


def test_finished_run_with_a_decaying_rate_cannot_be_extended(
    finished: Path, make_config: MakeConfig, quiet: Console
) -> None:
    """Here the rate decays towards the last step, so that a longer run would be another one."""
    before = contents(finished)
    with pytest.raises(ValueError, match=r"training\.steps was 8, now 12"):
        train(make_config("training.steps=12"), finished, console=quiet)
    assert contents(finished) == before
    assert train(make_config(), finished, console=quiet) == 0
    assert "finished already at step 8; raise training.steps to go on" in printed(quiet)
    assert list_checkpoints(finished / "checkpoints")[-1].name == "step-00000008"


def test_longer_run_equals_one_run(
    make_config: MakeConfig,
    tmp_path: Path,
    quiet: Console,
    assert_same_state: Callable[[Checkpoint, Checkpoint], None],
) -> None:
    constant = "training.lr_decay=constant"
    for steps in (3, 7):
        config = make_config(constant, f"training.steps={steps}", "training.checkpoint_every=5")
        assert train(config, tmp_path / "parts", console=quiet) == 0
    config = make_config(constant, "training.steps=7", "training.checkpoint_every=5")
    assert train(config, tmp_path / "whole", console=quiet) == 0
    parts, whole = (
        load_checkpoint(tmp_path / p / "checkpoints" / "step-00000007") for p in ("parts", "whole")
    )
    # The shorter run wrote a record at its end, so only the log's window may differ.
    parts.state["window"] = whole.state["window"]
    assert_same_state(parts, whole)
    assert "resuming from" in printed(quiet)


def test_samples_that_a_kill_left_out_are_drawn_again(
    finished: Path, make_config: MakeConfig, quiet: Console
) -> None:
    before = contents(finished)
    samples = sorted((finished / "samples").glob("*00000008*"))
    assert samples
    for path in samples:
        path.unlink()
    assert train(make_config(), finished, console=quiet) == 0
    after = contents(finished)
    assert {name for name in before if after.get(name) != before[name]} == set()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr=1", "training.lr was 0.002, now 1.0"),
        ("training.seed=4", "training.seed was 3, now 4"),
        ("training.batch_size=8", "training.batch_size was 4, now 8"),
        ("training.precision=bf16", 'training.precision was "fp32", now "bf16"'),
        ("model.base_channels=16", "model.base_channels was 8, now 16"),
        ("diffusion.schedule=linear_beta", 'diffusion.schedule was "cosine", now "linear_beta"'),
        ("data.frames=4", "data.frames was 3, now 4"),
    ],
)
def test_changed_configuration_is_one_error_that_lists_it(
    finished: Path, make_config: MakeConfig, quiet: Console, override: str, message: str
) -> None:
    before = contents(finished)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        train(make_config(override, "data.flip=true"), finished, console=quiet)
    assert "data.flip was false, now true" in str(caught.value)
    assert "choose another --out" in str(caught.value)
    assert contents(finished) == before


def test_what_does_not_change_the_result_may_change(
    finished: Path, make_config: MakeConfig, quiet: Console
) -> None:
    shutil.rmtree(finished / "checkpoints" / "step-00000008")
    config = make_config("training.checkpoint_every=1", "training.keep_checkpoints=1", "sampling.steps=3")
    assert train(config, finished, console=quiet) == 0
    assert [p.name for p in list_checkpoints(finished / "checkpoints")] == ["step-00000008"]
    assert json.loads((finished / "config.json").read_text())["sampling"]["steps"] == 3


def test_no_resume_never_overwrites(finished: Path, make_config: MakeConfig, quiet: Console) -> None:
    before = contents(finished)
    with pytest.raises(ValueError, match="holds a run already and --no-resume was given"):
        train(make_config(), finished, resume=False, console=quiet)
    assert contents(finished) == before


@pytest.mark.parametrize("options", [{"resume": True}, {"checkpoint": "step-00000003"}])
def test_resume_needs_a_run(
    make_config: MakeConfig, tmp_path: Path, quiet: Console, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="must hold a run to resume, got none"):
        train(make_config(), tmp_path / "new", console=quiet, **options)
    assert not (tmp_path / "new").exists()


def test_errors_come_before_anything_is_written(
    make_config: MakeConfig, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(ValueError, match=r"data\.path must be a folder of videos"):
        train(make_config("data.kind=video-folder"), tmp_path / "a", console=quiet)
    with pytest.raises(ValueError, match="root must be a folder"):
        train(make_config("data.kind=video-folder", "data.path=/nowhere"), tmp_path / "a", console=quiet)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--out must be a folder, got the file"):
        train(make_config(), tmp_path / "file", console=quiet)
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_with_parts_of_a_run(finished: Path, make_config: MakeConfig, quiet: Console) -> None:
    (finished / "config.json").unlink()
    before = contents(finished)
    with pytest.raises(ValueError, match=r"holds parts of a run but no config.json"):
        train(make_config(), finished, console=quiet)
    assert contents(finished) == before


def test_checkpoint_goes_back_and_sets_later_ones_aside(
    finished: Path,
    make_config: MakeConfig,
    quiet: Console,
    assert_same_state: Callable[[Checkpoint, Checkpoint], None],
) -> None:
    last = load_checkpoint(finished / "checkpoints" / "step-00000008")
    with pytest.raises(ValueError, match="must be one of: step-00000006, step-00000008; got 'step-00000007'"):
        train(make_config(), finished, checkpoint="step-00000007", console=quiet)
    assert train(make_config(), finished, checkpoint="step-00000006", console=quiet) == 0
    assert "set aside: " in printed(quiet)
    assert sorted(os.listdir(finished / "checkpoints")) == [
        "set-aside-step-00000008",
        "step-00000006",
        "step-00000008",
    ]
    assert_same_state(load_checkpoint(finished / "checkpoints" / "step-00000008"), last)
    assert [r["step"] for r in read_log(finished / "log.jsonl")] == [4, 8]


def test_corrupt_checkpoint_is_named_and_the_earlier_one_works(
    finished: Path, make_config: MakeConfig, quiet: Console
) -> None:
    path = finished / "checkpoints" / "step-00000008" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="go on from it with --checkpoint step-00000006") as caught:
        train(make_config(), finished, console=quiet)
    assert str(path) in str(caught.value)
    assert path.exists()
    assert train(make_config(), finished, checkpoint="step-00000006", console=quiet) == 0
    load_checkpoint(finished / "checkpoints" / "step-00000008")


def test_full_disk_ends_the_run_with_one_error_and_it_goes_on_later(
    make_config: MakeConfig,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_state: Callable[[Checkpoint, Checkpoint], None],
) -> None:
    real, calls = checkpoint_module.save_file, []

    def full(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 5:  # the EMA of the second checkpoint
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_file", full)
        with pytest.raises(
            ValueError, match="No space left on device; the newest checkpoint is step-00000003"
        ):
            train(make_config(), tmp_path / "run", console=quiet)
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000003"]
    assert train(make_config(), tmp_path / "run", console=quiet) == 0
    assert train(make_config(), tmp_path / "whole", console=quiet) == 0
    assert_same_state(
        *(load_checkpoint(tmp_path / p / "checkpoints" / "step-00000008") for p in ("run", "whole"))
    )


def test_full_disk_at_the_start_is_one_error(
    make_config: MakeConfig, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"train: .*run: No space left on device"):
            train(make_config(), tmp_path / "run", console=quiet)
    assert os.listdir(tmp_path / "run") == [".lock"]
    assert train(make_config("training.steps=1"), tmp_path / "run", console=quiet) == 0


def test_one_process_at_a_time(finished: Path, make_config: MakeConfig, quiet: Console) -> None:
    with (finished / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is in use by another vdm train"):
            train(make_config(), finished, console=quiet)


def test_leftovers_of_a_killed_process_are_removed(
    finished: Path, make_config: MakeConfig, quiet: Console
) -> None:
    (finished / "checkpoints" / ".writing-step-00000009-77").mkdir()
    (finished / ".vdm-0123.tmp").write_text("")
    (finished / "samples" / ".vdm-4567.tmp").write_text("")
    train(make_config(), finished, console=quiet)
    assert not [p for p in finished.rglob("*") if p.name.startswith((".vdm", ".writing"))]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder of three short videos in two classes."""
    dataset = MovingDigits(image_size=16, num_frames=6)
    for i, name in enumerate(("a/0.mp4", "a/1.mp4", "b/2.mp4")):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, dataset[i].video, fps=8)
    return tmp_path / "videos"


def test_videos_may_move_but_not_change(
    videos: Path, make_config: MakeConfig, tmp_path: Path, quiet: Console
) -> None:
    def config(path: Path, steps: int) -> Config:
        return make_config(
            "data.kind=video-folder",
            f"data.path={path}",
            f"training.steps={steps}",
            "training.lr_decay=constant",
            "data.num_image_frames=1",
            "model.num_classes=2",
        )

    run, moved = tmp_path / "run", tmp_path / "moved"
    assert train(config(videos, 2), run, console=quiet) == 0
    videos.rename(moved)
    assert train(config(moved, 3), run, console=quiet) == 0
    shutil.copy(moved / "a" / "0.mp4", moved / "b" / "3.mp4")
    before = contents(run)
    with pytest.raises(ValueError, match=r"the data must be the files that .*step-00000003 was trained on"):
        train(config(moved, 4), run, console=quiet)
    assert {k: v for k, v in contents(run).items() if k != "config.json"} == {
        k: v for k, v in before.items() if k != "config.json"
    }

"""Checkpoints are complete or not there, and what is not sound is named."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vdm.training import checkpoint as module
from vdm.training.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    optimizer_tensors,
    remove_leftovers,
    restore_optimizer,
    save_checkpoint,
    set_aside_after,
)


class Killed(BaseException):
    """Stands for the process's end: nothing catches it."""


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 1, 1))
    weight = next(model.parameters())
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(1, 2, 5, 5)).square().sum().backward()
        optimizer.step()
    return model, optimizer


MODEL, OPTIMIZER = trained()


def save(folder: Path, step: int, *, keep: int = 3, state: dict[str, Any] | None = None) -> Path:
    return save_checkpoint(
        folder,
        step=step,
        config={"training": {"lr": 1e-8}},
        model=MODEL,
        ema={"weight": torch.full((2, 2), float(step))},
        optimizer=OPTIMIZER,
        state=state or {"window": {"loss": [0.1, 3]}},
        keep=keep,
    )


def test_round_trip(tmp_path: Path) -> None:
    loaded = load_checkpoint(save(tmp_path, 12))
    assert loaded.path == tmp_path / "step-00000012"
    assert loaded.step == 12
    assert loaded.config == {"training": {"lr": 1e-8}}
    assert loaded.state["window"] == {"loss": [0.1, 3]}
    for name, tensor in MODEL.state_dict().items():
        assert torch.equal(loaded.model[name], tensor)
    assert torch.equal(loaded.ema["weight"], torch.full((2, 2), 12.0))
    model, optimizer = trained()
    optimizer.state.clear()
    restore_optimizer(optimizer, model, loaded.optimizer)
    for name, tensor in optimizer_tensors(OPTIMIZER, MODEL).items():
        assert torch.equal(optimizer_tensors(optimizer, model)[name], tensor), name


def test_restored_optimizer_steps_like_the_original(tmp_path: Path) -> None:
    loaded = load_checkpoint(save(tmp_path, 1))
    results = []
    for restored in (False, True):
        model, optimizer = trained()
        if restored:
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
            restore_optimizer(optimizer, model, loaded.optimizer)
        optimizer.zero_grad()
        model(torch.ones(1, 2, 5, 5)).square().sum().backward()
        optimizer.step()
        results.append(model.state_dict())
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])


def test_keeps_the_newest(tmp_path: Path) -> None:
    for step in (5, 10, 15, 100_000_000, 20):
        save(tmp_path, step, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000020", "step-100000000"]
    assert sorted(os.listdir(tmp_path)) == ["step-00000020", "step-100000000"]


def test_the_old_goes_only_after_the_new_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, keep=1)
    seen: list[list[str]] = []
    discard = module._discard

    def see(path: Path) -> None:
        seen.append(sorted(os.listdir(tmp_path)))
        discard(path)

    monkeypatch.setattr(module, "_discard", see)
    save(tmp_path, 2, keep=1)
    assert seen == [["step-00000001", "step-00000002"]]


def file_system_calls(monkeypatch: pytest.MonkeyPatch, kill_at: int | None) -> list[str]:
    """Counts the calls that change the disk; the process "dies" before call number kill_at."""
    calls: list[str] = []

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if len(calls) == kill_at:
                raise Killed
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (os, "fsync"),
        (Path, "mkdir"),
        (Path, "rename"),
        (Path, "write_text"),
        (module, "save_file"),
        (module.shutil, "rmtree"),
    ):
        counted(owner, name)
    return calls


def test_dying_at_any_moment_leaves_complete_checkpoints(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        save(tmp_path / "count", 1)
        save(tmp_path / "count", 2)
        calls = file_system_calls(patch, None)
        save(tmp_path / "count", 3, keep=2)
    assert calls.count("fsync") == 6  # four files, their folder, and the folder it is renamed in
    assert calls.index("rename") > [i for i, c in enumerate(calls) if c == "fsync"][4]
    for moment in range(len(calls)):
        folder = tmp_path / str(moment)
        save(folder, 1)
        save(folder, 2)
        with pytest.MonkeyPatch.context() as patch:
            file_system_calls(patch, moment)
            with pytest.raises(Killed):
                save(folder, 3, keep=2)
        steps = [load_checkpoint(path).step for path in list_checkpoints(folder)]
        assert steps[-1] in (2, 3)
        assert len(steps) >= 2
        remove_leftovers(folder)
        save(folder, 3, keep=2)
        assert sorted(os.listdir(folder)) == ["step-00000002", "step-00000003"]
        assert load_checkpoint(folder / "step-00000003").step == 3


@pytest.mark.parametrize(
    "name", ["state.json", "model.safetensors", "ema.safetensors", "optimizer.safetensors"]
)
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "delete", "grow"])
def test_damage_is_named_with_what_can_be_used(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = save(tmp_path, 3) / name
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:-7])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "grow":
        path.write_bytes(data + b" 1")
    else:
        path.unlink()
    (tmp_path / "step-00000002" / "ema.safetensors").write_bytes(b"also damaged")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "step-00000003")
    message = str(caught.value)
    assert str(path) in message
    assert "step-00000001 is sound: go on from it with --checkpoint step-00000001" in message
    assert "\n" not in message


def test_nothing_else_to_use(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no other sound checkpoint"):
        load_checkpoint(tmp_path / "step-00000001")
    with pytest.raises(CheckpointError, match="must be readable, got: No such file"):
        load_checkpoint(tmp_path / "step-00000009")


def test_another_format(tmp_path: Path) -> None:
    path = save(tmp_path, 1) / "state.json"
    document = json.loads(path.read_text())
    document["format"] = 99
    document["sha256"] = module._document_digest(document)
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="must have format 1, got 99"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("failing", ["save_file", "write_text", "fsync"])
def test_full_disk_is_one_error_and_earlier_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    save(tmp_path, 1)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr({"save_file": module, "write_text": Path, "fsync": os}[failing], failing, full)
        with pytest.raises(CheckpointError) as caught:
            save(tmp_path, 2)
    message = str(caught.value)
    assert f"could not write {tmp_path / 'step-00000002'}: No space left on device" in message
    assert "the newest checkpoint is step-00000001" in message
    assert os.listdir(tmp_path) == ["step-00000001"]
    load_checkpoint(save(tmp_path, 2))


def save_under_a_size_limit(folder: Path, queue: multiprocessing.Queue[str]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
    try:
        save(folder, 2)
    except CheckpointError as error:
        queue.put(str(error))
    else:
        queue.put("no error")


def test_file_size_limit_is_one_error(tmp_path: Path) -> None:
    """The kernel itself refuses to write: a file may not grow over 600 bytes."""
    save(tmp_path, 1)
    queue = multiprocessing.get_context("fork").Queue()
    process = multiprocessing.get_context("fork").Process(
        target=save_under_a_size_limit, args=(tmp_path, queue)
    )
    process.start()
    message = queue.get(timeout=60)
    process.join()
    assert "could not write" in message
    assert "File too large" in message
    assert os.listdir(tmp_path) == ["step-00000001"]


def test_later_checkpoints_are_set_aside_never_deleted(tmp_path: Path) -> None:
    for _ in range(2):
        for step in (1, 2, 3):
            save(tmp_path, step)
        moved = set_aside_after(tmp_path, 1)
    assert sorted(os.listdir(tmp_path)) == [
        "set-aside-step-00000002",
        "set-aside-step-00000002-2",
        "set-aside-step-00000003",
        "set-aside-step-00000003-2",
        "step-00000001",
    ]
    assert [p.name for p in moved] == ["set-aside-step-00000002-2", "set-aside-step-00000003-2"]
    assert load_checkpoint(moved[0]).step == 2


def test_listing_ignores_other_things(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in ("step-1", "step-000000022.writing", ".writing-step-00000002-1", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000009").write_text("a file")
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000001"]
    assert [p.name for p in remove_leftovers(tmp_path)] == [".writing-step-00000002-1"]
    assert list_checkpoints(tmp_path / "none") == []
    assert remove_leftovers(tmp_path / "none") == []


def test_random_state_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = load_checkpoint(save(tmp_path, 1)).state
    expected = torch.rand(3)
    torch.manual_seed(6)
    module.restore_torch_rng(state)
    assert torch.equal(torch.rand(3), expected)

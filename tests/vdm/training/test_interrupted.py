"""Runs that are killed, at any moment, and gone on with: the end is the same, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch

from vdm.cli.main import main
from vdm.training import Checkpoint, Config, apply_overrides, list_checkpoints, load_checkpoint, train
from vdm.training.logs import read_log
from vdm.training.parsing import config_to_dict

AssertSame = Callable[[Checkpoint, Checkpoint], None]
Start = Callable[[Path], ForkServerProcess]

# Most of the time goes into writing checkpoints, so that kills fall into that.
BUSY = (
    "training.steps=24",
    "training.accumulation_steps=1",
    "training.checkpoint_every=1",
    "training.sample_every=16",
)
LAST = "step-00000024"
PATIENCE = 300.0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, small_config: Config) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes
    assert train(apply_overrides(small_config, BUSY), folder) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def start(small_config: Config, tmp_path: Path, processes: ForkServerContext) -> Start:
    """`start(folder)`: `vdm train` of the busy configuration in a process of its own."""
    path = tmp_path / "busy.json"
    path.write_text(json.dumps(config_to_dict(apply_overrides(small_config, BUSY))))

    def run(folder: Path) -> ForkServerProcess:
        process = processes.Process(
            target=main, args=(["train", "--config", str(path), "--out", str(folder)],)
        )
        process.start()
        return process

    return run


def wait_until(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)


def newest(folder: Path) -> str:
    found = list_checkpoints(folder / "checkpoints")
    return found[-1].name if found else ""


def is_past(folder: Path, name: str) -> bool:
    return newest(folder) > name


def check_same_end(folder: Path, whole: Path, assert_same_state: AssertSame) -> None:
    assert_same_state(
        load_checkpoint(folder / "checkpoints" / LAST), load_checkpoint(whole / "checkpoints" / LAST)
    )
    records, expected = (
        [{k: v for k, v in r.items() if k != "clips_per_second"} for r in read_log(f / "log.jsonl")]
        for f in (folder, whole)
    )
    assert records == expected
    for path in (whole / "samples").iterdir():
        assert (folder / "samples" / path.name).read_bytes() == path.read_bytes()
    assert not [p for p in folder.rglob("*") if p.name.startswith((".vdm", ".writing"))]


def test_killed_at_random_moments(
    start: Start, uninterrupted: Path, tmp_path: Path, assert_same_state: AssertSame
) -> None:
    """kill -9, again and again, at moments that fall anywhere, also into the writing of checkpoints."""
    folder, moments, kills = tmp_path / "killed", random.Random(0), 0
    for _ in range(10):
        before = newest(folder)
        process = start(folder)
        wait_until(partial(is_past, folder, before), process)
        time.sleep(moments.uniform(0.0, 0.15))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        for path in list_checkpoints(folder / "checkpoints"):
            load_checkpoint(path)  # whatever is there is complete
        if newest(folder) == LAST:
            break
    process = start(folder)
    process.join(timeout=PATIENCE)
    assert process.exitcode == 0
    assert kills >= 3
    check_same_end(folder, uninterrupted, assert_same_state)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_signals_save_and_exit(
    start: Start,
    uninterrupted: Path,
    tmp_path: Path,
    assert_same_state: AssertSame,
    number: signal.Signals,
    status: int,
) -> None:
    folder = tmp_path / "stopped"
    for after in ("step-00000003", "step-00000011"):
        process = start(folder)
        wait_until(partial(is_past, folder, after), process)
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(timeout=PATIENCE)
        assert process.exitcode == status
        assert newest(folder) < LAST
    process = start(folder)
    process.join(timeout=PATIENCE)
    assert process.exitcode == 0
    check_same_end(folder, uninterrupted, assert_same_state)


def test_second_interrupt_exits_at_once(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    process = start(folder)
    wait_until(partial(is_past, folder, ""), process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)  # both may arrive as one: then it stops after saving
    process.join(timeout=PATIENCE)
    assert process.exitcode in (-signal.SIGINT, 130)
    for path in list_checkpoints(folder / "checkpoints"):
        load_checkpoint(path)

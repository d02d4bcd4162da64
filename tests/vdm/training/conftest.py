"""A run that takes a few hundredths of a second per step, and processes to kill."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from io import StringIO
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vdm.models import VideoUNetConfig
from vdm.training import (
    Checkpoint,
    Config,
    DataConfig,
    DiffusionConfig,
    SamplingConfig,
    TrainingConfig,
    apply_overrides,
)
from vdm.training.interrupts import StopSignals
from vdm.training.trainer import Trainer

# With dropout, accumulation, warm-up and a log record that spans checkpoints: everything a resumed run must restore.
SMALL = Config(
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
        dropout=0.1,
        num_classes=10,
    ),
    diffusion=DiffusionConfig(parameterization="v", loss_weight="v"),
    data=DataConfig(kind="moving-digits", size=8, frames=3),
    training=TrainingConfig(
        steps=8,
        batch_size=4,
        accumulation_steps=2,
        lr=2e-3,
        warmup_steps=4,
        lr_decay="cosine",
        ema_decay=0.9,
        conditioning_dropout=0.3,
        checkpoint_every=3,
        keep_checkpoints=2,
        sample_every=0,
        log_every=4,
        seed=3,
    ),
    sampling=SamplingConfig(steps=2, count=2),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors here are too small for threads, which would wait for each other instead."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_config() -> Config:
    """The small configuration."""
    return SMALL


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """`make_config("section.key=value", ...)`: the small configuration with these values."""

    def make(*overrides: str) -> Config:
        return apply_overrides(SMALL, overrides)

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """`make_trainer("section.key=value", ..., folder=...)`: a trainer of the small configuration."""

    def make(*overrides: str, folder: Path = tmp_path) -> Trainer:
        return Trainer(apply_overrides(SMALL, overrides), folder)

    return make


@pytest.fixture
def quiet() -> Console:
    """A console that keeps what is printed: `quiet.file.getvalue()`."""
    return Console(file=StringIO(), width=1000)


@pytest.fixture
def run_trainer(quiet: Console) -> Callable[[Trainer], int]:
    """`run_trainer(trainer)`: its whole run; returns the exit status."""

    def run(trainer: Trainer) -> int:
        with StopSignals() as stop:
            return trainer.train(console=quiet, stop=stop)

    return run


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Processes that start in milliseconds: forked from a server that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vdm.cli.main"])
    with pytest.MonkeyPatch.context() as patch:  # the server keeps the environment it starts in
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


@pytest.fixture
def assert_same_state() -> Callable[[Checkpoint, Checkpoint], None]:
    """Two checkpoints hold the same bits: weights, EMA, optimizer, generator, position and log window."""

    def check(one: Checkpoint, other: Checkpoint) -> None:
        assert one.step == other.step
        for name in ("model", "ema", "optimizer"):
            left, right = getattr(one, name), getattr(other, name)
            assert left.keys() == right.keys()
            for key in left:
                assert torch.equal(left[key], right[key]), f"{name} {key} differs"
        for key in ("seed", "data_position", "ema_updates", "torch_rng_state", "window", "config"):
            assert one.state[key] == other.state[key], f"{key} differs"

    return check

"""Starting and resuming a run in a folder, so that nothing that is there is ever lost."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vdm.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_leftovers,
    set_aside_after,
)
from vdm.training.config import Config, ConfigError
from vdm.training.logs import write_atomically
from vdm.training.parsing import config_differences, config_to_dict
from vdm.training.trainer import Trainer

# What may change when a run goes on: nothing here changes the weights of a given step.
_FREE_KEYS = frozenset(
    {
        "model.gradient_checkpointing",
        "training.steps",
        "training.checkpoint_every",
        "training.keep_checkpoints",
        "training.sample_every",
        "training.log_every",
        "training.workers",
    }
)


def train(
    config: Config,
    folder: Path,
    *,
    resume: bool | None = None,
    checkpoint: str | None = None,
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> int:
    """Train in a folder: a new run, or the rest of the run that is there.

    Args:
        config: the run.
        folder: its folder, created where absent.
        resume: None goes on where a run of the same configuration is there, and starts one where none is; True
            needs one to be there; False needs none to be there.
        checkpoint: name of the checkpoint to go on from, in place of the newest; later ones are set aside.
        device: where the network runs.
        console: where progress is shown.

    Returns:
        Exit status: 0, or 128 + signal number.

    Raises:
        ValueError: the folder holds another run, a checkpoint is not sound, data is missing, the loss is not
            finite, or the disk is full. The message says what to do, and nothing is lost.
    """
    console = Console(stderr=True) if console is None else console
    found = _previous_config(folder)
    if found is not None and resume is False:
        raise ConfigError(
            f"train: {folder} holds a run already and --no-resume was given; choose another --out"
        )
    if found is None and (resume or checkpoint):
        raise ConfigError(f"train: {folder} must hold a run to resume, got none")
    if found is not None:
        _require_same(found, config, folder)
    trainer = Trainer(config, folder, device=device)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        remove_leftovers(trainer.checkpoints)
        start = _starting_point(trainer.checkpoints, checkpoint)
        if start is not None:
            trainer.restore(start)
            for path in set_aside_after(trainer.checkpoints, start.step):
                console.print(f"set aside: {path}", markup=False)
            console.print(f"resuming from {start.path}", markup=False)
        content = json.dumps(config_to_dict(config), indent=2) + "\n"
        write_atomically(folder / "config.json", content.encode())
        if trainer.step >= config.training.steps:
            console.print(f"finished already at step {trainer.step}; raise training.steps to go on")
            return 0
        return trainer.train(console=console)


def _previous_config(folder: Path) -> dict[str, Any] | None:
    """Configuration of the run in a folder; None where there is no run."""
    path = folder / "config.json"
    if path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"train: {path} must be readable JSON, got: {error}") from error
        if isinstance(values, dict):
            return values
        raise ConfigError(f"train: {path} must hold the configuration of a run, got {values!r}")
    checkpoints = list_checkpoints(folder / "checkpoints")
    if checkpoints or (folder / "log.jsonl").exists():
        raise ConfigError(f"train: {folder} holds parts of a run but no config.json; choose another --out")
    return None


def _require_same(found: dict[str, Any], config: Config, folder: Path) -> None:
    """A run goes on only with what it was started with, except for keys that do not change the result."""
    changed = []
    for name, old, new in config_differences(found, config_to_dict(config)):
        schedule = name == "training.steps" and config.training.lr_decay != "constant"
        if name.startswith("sampling.") or (name in _FREE_KEYS and not schedule):
            continue
        changed.append(f"{name} was {json.dumps(old)}, now {json.dumps(new)}")
    if changed:
        raise ConfigError(
            f"train: {folder} holds a run with another configuration: {'; '.join(changed)}. "
            "Give the same values to resume it, or choose another --out"
        )


def _starting_point(folder: Path, name: str | None) -> Checkpoint | None:
    if name is not None:
        path = folder / Path(name).name
        if path not in list_checkpoints(folder):
            known = ", ".join(p.name for p in list_checkpoints(folder)) or "none"
            raise ConfigError(f"train: --checkpoint must be one of: {known}; got {name!r}")
        return load_checkpoint(path)
    complete = list_checkpoints(folder)
    return load_checkpoint(complete[-1]) if complete else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process, however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"train: {folder} is in use by another vdm train") from error
        yield

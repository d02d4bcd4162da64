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

from vdm.data import atomic_file
from vdm.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_leftovers,
    set_aside_after,
)
from vdm.training.config import Config, ConfigError
from vdm.training.interrupts import StopSignals
from vdm.training.parsing import config_differences, config_to_dict, load_config
from vdm.training.trainer import Trainer, TrainingError

# What may change when a run goes on: nothing here changes the weights of a given step. That folders that have
# moved hold the same files is checked by the data's fingerprint.
_FREE_KEYS = frozenset(
    {
        "model.gradient_checkpointing",
        "data.path",
        "data.image_path",
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
    with StopSignals() as stop:
        _check_folder(config, folder, resume=resume, checkpoint=checkpoint)
        trainer = Trainer(config, folder, device=device)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                _check_folder(config, folder, resume=resume, checkpoint=checkpoint)
                _clean(folder)
                _write_config(config, folder)
                _restore(trainer, checkpoint, console)
                if trainer.step < config.training.steps or trainer.samples_missing():
                    return trainer.train(console=console, stop=stop)
        except OSError as error:
            raise TrainingError(f"train: {error.filename or folder}: {error.strerror}") from error
    _say(console, f"finished already at step {trainer.step}; raise training.steps to go on")
    return 0


def _check_folder(config: Config, folder: Path, *, resume: bool | None, checkpoint: str | None) -> None:
    """Is what is asked for possible with what the folder holds? Nothing has been touched yet."""
    found = _previous_config(folder)
    if found is None:
        if resume or checkpoint:
            raise ConfigError(f"train: {folder} must hold a run to resume, got none")
        return
    if resume is False:
        raise ConfigError(
            f"train: {folder} holds a run already and --no-resume was given; choose another --out"
        )
    changed = []
    for name, old, new in config_differences(found, config_to_dict(config)):
        decays = name == "training.steps" and config.training.lr_decay != "constant"
        if name.startswith("sampling.") or (name in _FREE_KEYS and not decays):
            continue
        changed.append(f"{name} was {json.dumps(old)}, now {json.dumps(new)}")
    if changed:
        raise ConfigError(
            f"train: {folder} holds a run with another configuration: {'; '.join(changed)}. "
            "Give the same values to resume it, or choose another --out"
        )


def _previous_config(folder: Path) -> dict[str, Any] | None:
    """Configuration of the run in a folder; None where there is no run."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"train: --out must be a folder, got the file {folder}")
    path = folder / "config.json"
    if path.is_file():
        return config_to_dict(load_config(path))  # through Config: keys newer than the run get their defaults
    if list_checkpoints(folder / "checkpoints") or (folder / "log.jsonl").exists():
        raise ConfigError(f"train: {folder} holds parts of a run but no config.json; choose another --out")
    return None


def _restore(trainer: Trainer, checkpoint: str | None, console: Console) -> None:
    """Put the trainer where the run was: at a named checkpoint or the newest; at the start without any."""
    start = _starting_point(trainer.checkpoints, checkpoint)
    if start is None:
        return
    trainer.restore(start)
    for path in set_aside_after(trainer.checkpoints, start.step):
        _say(console, f"set aside: {path}")
    _say(console, f"resuming from {start.path}")
    before, now = start.state.get("threads"), torch.get_num_threads()
    if before not in (None, now) and trainer.device.type == "cpu":
        _say(
            console, f"note: the run had {before} threads before and has {now} now; sums may round otherwise"
        )


def _starting_point(folder: Path, name: str | None) -> Checkpoint | None:
    complete = list_checkpoints(folder)
    if name is None:
        return load_checkpoint(complete[-1]) if complete else None
    path = folder / Path(name).name
    if path not in complete:
        known = ", ".join(p.name for p in complete) or "none"
        raise ConfigError(f"train: --checkpoint must be one of: {known}; got {name!r}")
    return load_checkpoint(path)


def _clean(folder: Path) -> None:
    """Delete the unfinished files of a killed process."""
    remove_leftovers(folder / "checkpoints")
    for place in (folder, folder / "samples"):
        for path in place.glob(".vdm-*.tmp"):
            path.unlink()


def _write_config(config: Config, folder: Path) -> None:
    with atomic_file(folder / "config.json") as file:
        file.write((json.dumps(config_to_dict(config), indent=2) + "\n").encode())


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process, however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"train: {folder} is in use by another vdm train") from error
        yield

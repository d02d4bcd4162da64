"""Checkpoints that are either complete or not there: `checkpoints/step-00001000/`.

A checkpoint is written into a folder of its own aside, every file and the folder are fsynced, and only then
is it renamed to its final name. Whatever is killed at whatever moment, a folder named `step-*` is complete;
a size and a SHA-256 per file tell bit rot and truncation by other hands.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FORMAT_VERSION = 1
_STATE_FILE = "state.json"
_TENSOR_FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
_NAME = re.compile(r"step-(\d{8,})")
_ASIDE = ".writing-"


class CheckpointError(ValueError):
    """A checkpoint could not be written or cannot be used; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on, as read from disk; tensors on the CPU."""

    path: Path
    step: int
    config: dict[str, Any]
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in a folder, oldest step first; empty when there are none."""
    if not folder.is_dir():
        return []
    found = [(int(m.group(1)), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what a killed write left behind; returns what was deleted."""
    leftovers = sorted(folder.glob(f"{_ASIDE}*")) if folder.is_dir() else []
    for path in leftovers:
        shutil.rmtree(path)
    return leftovers


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename the checkpoints of later steps, so that a run can go back to `step`; returns their new paths.

    Nothing is deleted: `step-00002000` becomes `set-aside-step-00002000`, with a number where that is taken.
    """
    moved = []
    for path in list_checkpoints(folder):
        if int(path.name.removeprefix("step-")) <= step:
            continue
        target = folder / f"set-aside-{path.name}"
        number = 2
        while target.exists():
            target = folder / f"set-aside-{path.name}-{number}"
            number += 1
        path.rename(target)
        moved.append(target)
    if moved:
        _fsync_folder(folder)
    return moved


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    config: Mapping[str, Any],
    model: nn.Module,
    ema: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `folder/step-XXXXXXXX` atomically and durably, then delete all but the newest `keep` checkpoints.

    Args:
        folder: the run's `checkpoints` folder; created where absent.
        step: number of steps done.
        config: the run's configuration, JSON values only.
        model, ema, optimizer: what is saved.
        state: further JSON values (seed, data position, log state).
        keep: how many checkpoints to keep, at least 1; the new one is durable before an old one goes.

    Raises:
        CheckpointError: the disk is full or refuses; earlier checkpoints are untouched.
    """
    final = folder / checkpoint_name(step)
    aside = folder / f"{_ASIDE}{final.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir()
        contents = (model.state_dict(), ema, optimizer_tensors(optimizer, model))
        files = {}
        for name, tensors in zip(_TENSOR_FILES, contents):
            save_file({k: _plain(v) for k, v in tensors.items()}, aside / name)
            files[name] = _fsync_and_describe(aside / name)
        document = {
            **state,
            "format": FORMAT_VERSION,
            "step": step,
            "config": dict(config),
            "torch_rng_state": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
            "versions": {"torch": torch.__version__, "safetensors": safetensors.__version__},
            "files": files,
        }
        document["sha256"] = _document_digest(document)
        (aside / _STATE_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")
        _fsync_and_describe(aside / _STATE_FILE)
        _fsync_folder(aside)
        if final.exists():  # saved again at the same step: the content is the same by construction
            _discard(final)
        aside.rename(final)
        _fsync_folder(folder)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(_write_failure(folder, final, error)) from error
    for old in list_checkpoints(folder)[:-keep]:
        try:
            _discard(old)
        except OSError as error:
            raise CheckpointError(f"save_checkpoint: could not delete {old}: {error.strerror}") from error
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Raises:
        CheckpointError: a file is missing, truncated or changed. The message names it, and the newest
            earlier checkpoint of the run that is sound.
    """
    try:
        return _read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_advice(path)}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter name>/<key>` -> tensor."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        grouped.setdefault(name, {})[key] = tensor
    for name, parameter in model.named_parameters():
        for key, tensor in grouped.get(name, {}).items():
            if key == "step":  # a fused optimizer counts where the parameters are
                value = tensor.to(parameter.device if optimizer.defaults.get("fused") else "cpu")
            else:
                value = torch.empty_like(parameter, memory_format=torch.preserve_format)
                value.copy_(tensor)
            optimizer.state[parameter][key] = value


def restore_torch_rng(state: Mapping[str, Any]) -> None:
    """Set torch's CPU generator to the state in a checkpoint."""
    raw = base64.b64decode(state["torch_rng_state"])
    torch.set_rng_state(torch.tensor(list(raw), dtype=torch.uint8))


def _read(path: Path) -> Checkpoint:
    state_path = path / _STATE_FILE
    try:
        document = json.loads(state_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"load_checkpoint: {state_path} must be readable, got: {error.strerror}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"load_checkpoint: {state_path} is corrupt (not valid JSON)") from error
    if not isinstance(document, dict) or document.get("sha256") != _document_digest(document):
        raise CheckpointError(f"load_checkpoint: {state_path} is corrupt (its checksum does not match)")
    if document["format"] != FORMAT_VERSION:
        raise CheckpointError(
            f"load_checkpoint: {state_path} must have format {FORMAT_VERSION}, got {document['format']}"
        )
    model, ema, optimizer = (_read_tensors(path / name, document["files"][name]) for name in _TENSOR_FILES)
    return Checkpoint(path, document["step"], document["config"], model, ema, optimizer, document)


def _read_tensors(path: Path, expected: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(
                f"load_checkpoint: {path} is truncated or changed (must have {expected['bytes']} bytes, "
                f"got {size})"
            )
        if _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"load_checkpoint: {path} is corrupt (its checksum does not match)")
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"load_checkpoint: {path} must be readable, got: {error.strerror}") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"load_checkpoint: {path} is corrupt ({error})") from error


def _advice(path: Path) -> str:
    """What to use instead of a checkpoint that cannot be read."""
    others = [p for p in list_checkpoints(path.parent) if p.name != path.name]
    for other in reversed(others):
        try:
            _read(other)
        except CheckpointError:
            continue
        return f"{other.name} is sound: go on from it with --checkpoint {other.name}"
    return "there is no other sound checkpoint in that folder"


def _write_failure(folder: Path, final: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    kept = list_checkpoints(folder)
    newest = f"the newest checkpoint is {kept[-1].name}" if kept else "there is no earlier checkpoint"
    return (
        f"save_checkpoint: could not write {final}: {reason}; {newest}, nothing else was touched. "
        "Free some space and run the same command to go on"
    )


def _discard(path: Path) -> None:
    """Delete a checkpoint without a moment in which half of it looks complete."""
    doomed = path.with_name(f"{_ASIDE}deleting-{path.name}-{os.getpid()}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def _document_digest(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _fsync_and_describe(path: Path) -> dict[str, Any]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""One file that holds a trained model and how to use it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from vdm.data.atomic_files import atomic_file
from vdm.models import VideoUNet
from vdm.training.build import build_model
from vdm.training.checkpoint import list_checkpoints, load_checkpoint
from vdm.training.config import Config, ConfigError
from vdm.training.parsing import apply_overrides, config_from_dict, config_to_dict

STORAGE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
StorageDtype = Literal["fp32", "fp16", "bf16"]


def export_model(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    dtype: StorageDtype = "fp32",
    sampling: Sequence[str] = (),
) -> Path:
    """Write the EMA weights of a checkpoint and its configuration as one `.safetensors` file.

    Args:
        checkpoint: folder of a checkpoint.
        path: the file to write; complete or not there.
        dtype: how floating-point weights are stored; they are loaded as float32.
        sampling: changes to the defaults of `vdm sample`, as "steps=40".

    Raises:
        ValueError: the checkpoint is not sound, a change is not to a field of `SamplingConfig`, or the path cannot be
            written to.
    """
    if dtype not in STORAGE_DTYPES:
        raise ValueError(f"export_model: dtype must be one of {', '.join(STORAGE_DTYPES)}, got {dtype!r}")
    loaded = load_checkpoint(Path(checkpoint))
    stored = STORAGE_DTYPES[dtype]
    weights = {k: v.to(stored) if v.is_floating_point() else v for k, v in loaded.ema.items()}
    config = apply_overrides(config_from_dict(loaded.config), [f"sampling.{change}" for change in sampling])
    metadata = {
        "format": "pt",
        "vdm_config": json.dumps(config_to_dict(config)),
        "vdm_step": str(loaded.step),
    }
    with atomic_file(path) as file:
        file.write(save(weights, metadata=metadata))
    return Path(path)


def newest_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """The newest checkpoint of a run's folder; a checkpoint's own folder is returned as it is.

    Raises:
        ValueError: the folder holds neither.
    """
    path = Path(folder)
    if (path / "state.json").is_file():
        return path
    found = list_checkpoints(path / "checkpoints")
    if not found:
        raise ValueError(f"newest_checkpoint: folder must be of a run or of a checkpoint, got {path}")
    return found[-1]


def load_model(
    path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> tuple[VideoUNet, Config]:
    """A trained model, in eval mode and float32, and its configuration.

    Args:
        path: a file that `export_model` wrote; or the folder of a run or of a checkpoint, for its EMA weights.
        device: where the model goes.

    Raises:
        ValueError: there is no model, it cannot be read, or it does not fit this version.
    """
    if Path(path).is_dir():
        checkpoint = load_checkpoint(newest_checkpoint(path))
        weights, given = checkpoint.ema, checkpoint.config
    else:
        weights, given = _read_exported(path)
    try:
        config = config_from_dict(given)
        model = build_model(config)
        model.load_state_dict(weights)
    except (ConfigError, RuntimeError) as error:
        raise ValueError(f"load_model: {path} does not fit this version: {error}") from error
    return model.to(device).eval(), config


def _read_exported(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and configuration of a file that `export_model` wrote."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"load_model: {path} must be a readable safetensors file, got: {error}") from error
    if "vdm_config" not in metadata:
        raise ValueError(f"load_model: {path} must be a file written by export_model, got no configuration")
    return weights, json.loads(metadata["vdm_config"])

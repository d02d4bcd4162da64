"""One file that holds a trained model and how to use it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save

from vdm.data.atomic_files import atomic_file
from vdm.models import VideoUNet
from vdm.training.build import build_model
from vdm.training.checkpoint import load_checkpoint
from vdm.training.config import Config, ConfigError
from vdm.training.parsing import config_from_dict, config_to_dict

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
StorageDtype = Literal["fp32", "fp16", "bf16"]


def export_model(
    checkpoint: str | os.PathLike[str], path: str | os.PathLike[str], *, dtype: StorageDtype = "fp32"
) -> Path:
    """Write the EMA weights of a checkpoint and its configuration as one `.safetensors` file.

    Args:
        checkpoint: folder of a checkpoint.
        path: the file to write; complete or not there.
        dtype: how floating-point weights are stored; they are loaded as float32.

    Raises:
        ValueError: the checkpoint is not sound, or the path cannot be written to.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"export_model: dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    loaded = load_checkpoint(Path(checkpoint))
    stored = _DTYPES[dtype]
    weights = {k: v.to(stored) if v.is_floating_point() else v for k, v in loaded.ema.items()}
    metadata = {
        "format": "pt",
        "vdm_config": json.dumps(config_to_dict(config_from_dict(loaded.config))),
        "vdm_step": str(loaded.step),
    }
    with atomic_file(path) as file:
        file.write(save(weights, metadata=metadata))
    return Path(path)


def load_model(
    path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> tuple[VideoUNet, Config]:
    """The model in a file that `export_model` wrote, in eval mode with float32 weights, and its configuration.

    Raises:
        ValueError: the file cannot be read, or was not written by `export_model`.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118: not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"load_model: {path} must be a readable safetensors file, got: {error}") from error
    if "vdm_config" not in metadata:
        raise ValueError(f"load_model: {path} must be a file written by export_model, got no configuration")
    try:
        config = config_from_dict(json.loads(metadata["vdm_config"]))
        model = build_model(config)
        model.load_state_dict(weights)
    except (ConfigError, RuntimeError) as error:
        raise ValueError(f"load_model: {path} does not fit this version: {error}") from error
    return model.to(device).eval(), config

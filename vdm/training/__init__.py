"""Training: configuration, the loop, checkpoints that survive anything, and exported models."""

from vdm.training.checkpoint import Checkpoint, CheckpointError, list_checkpoints, load_checkpoint
from vdm.training.config import (
    Config,
    ConfigError,
    DataConfig,
    DiffusionConfig,
    SamplingConfig,
    TrainingConfig,
)
from vdm.training.ema import EMA
from vdm.training.export import export_model, load_model, newest_checkpoint
from vdm.training.parsing import apply_overrides, config_from_dict, config_to_dict, load_config
from vdm.training.presets import PRESETS, preset
from vdm.training.run import train
from vdm.training.sampling import sample_videos, write_samples
from vdm.training.trainer import Trainer, TrainingError

__all__ = [
    "EMA",
    "PRESETS",
    "Checkpoint",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataConfig",
    "DiffusionConfig",
    "SamplingConfig",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "apply_overrides",
    "config_from_dict",
    "config_to_dict",
    "export_model",
    "list_checkpoints",
    "load_checkpoint",
    "load_config",
    "load_model",
    "newest_checkpoint",
    "preset",
    "sample_videos",
    "train",
    "write_samples",
]

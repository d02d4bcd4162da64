"""Named runs: VDM's own six, the model that ships with the package, and a tiny one for trying out.

The networks are those of `vdm.models.preset`; here are their data, optimization and sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from vdm.models import preset as model_preset
from vdm.training.config import (
    Config,
    ConfigError,
    DataConfig,
    DiffusionConfig,
    SamplingConfig,
    TrainingConfig,
)

_TINY = Config(
    model=replace(model_preset("tiny"), num_classes=10),
    diffusion=DiffusionConfig(parameterization="v", loss_weight="v"),
    data=DataConfig(kind="moving-digits", size=16, frames=8),
    training=TrainingConfig(
        steps=200,
        batch_size=8,
        lr=1e-3,
        warmup_steps=20,
        ema_decay=0.99,
        checkpoint_every=100,
        sample_every=0,
    ),
    sampling=SamplingConfig(steps=16, guidance_weight=0.5, count=4),
)

_MOVING_DIGITS = Config(
    model=model_preset("moving-digits"),
    diffusion=DiffusionConfig(parameterization="v", loss_weight="v"),
    data=DataConfig(kind="moving-digits", size=32, frames=16),
    training=TrainingConfig(
        steps=4500,
        batch_size=8,
        lr=1e-3,
        warmup_steps=200,
        lr_decay="cosine",
        ema_decay=0.999,
        checkpoint_every=250,
        sample_every=1000,
    ),
    sampling=SamplingConfig(steps=40, guidance_weight=1.0, count=10),
)


def _vdm(name: str, *, size: int = 64, frames: int = 16, num_image_frames: int = 8) -> Config:
    """What the runs of Ho et al. 2022 (arXiv 2204.03458), appendix A, share; the values are ucf101's."""
    return Config(
        model=replace(model_preset(name), gradient_checkpointing=True),
        diffusion=DiffusionConfig(parameterization="eps", loss_weight="eps"),
        data=DataConfig(
            kind="video-folder", path="data", size=size, frames=frames, num_image_frames=num_image_frames
        ),
        training=TrainingConfig(
            steps=500_000,
            batch_size=128,
            lr=3e-4,
            beta2=0.99,
            warmup_steps=1000,
            ema_decay=0.9999,
            precision="bf16",
            conditioning_dropout=0.1,
            checkpoint_every=5000,
            sample_every=5000,
            log_every=50,
            workers=8,
        ),
        sampling=SamplingConfig(steps=256, gamma=0.1, count=4),
    )


def _bair() -> Config:
    config = _vdm("bair")
    return replace(
        config,
        diffusion=DiffusionConfig(parameterization="v", loss_weight="v"),
        training=replace(config.training, lr=2e-4, beta2=0.999, ema_decay=0.999),
        sampling=replace(config.sampling, gamma=0.0),
    )


def _kinetics600() -> Config:
    config = _vdm("kinetics600")
    return replace(
        config,
        diffusion=DiffusionConfig(parameterization="v", loss_weight="v"),
        training=replace(config.training, lr=2e-4, batch_size=256),
        sampling=replace(config.sampling, steps=128, gamma=0.0),
    )


def _text(config: Config, *, lr: float = 3e-4) -> Config:
    return replace(
        config,
        training=replace(config.training, lr=lr),
        sampling=replace(config.sampling, gamma=0.3, guidance_weight=2.0),
    )


PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "tiny": _TINY,
        "moving-digits": _MOVING_DIGITS,
        "ucf101": _vdm("ucf101"),
        "bair": _bair(),
        "kinetics600": _kinetics600(),
        "text-small": _text(_vdm("text-small")),
        "text-large": _text(_vdm("text-large")),
        "text-128": _text(_vdm("text-128", size=128, frames=9, num_image_frames=7), lr=2e-4),
    }
)


def preset(name: str) -> Config:
    """The run of a preset.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: name must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]

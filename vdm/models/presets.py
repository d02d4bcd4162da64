"""Named configurations: those of Video Diffusion Models (Ho et al. 2022, appendix A) and two small ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from vdm.models.config import VideoUNetConfig
from vdm.models.video_unet import VideoUNet

# The paper gives text by BERT-large (1024 wide) through attention pooling.
_TEXT_WIDTH = 1024

# What the six configurations of the paper have in common, with the values of UCF101.
_UCF101 = VideoUNetConfig(
    base_channels=256,
    channel_multipliers=(1, 2, 4, 8),
    num_blocks=2,
    attention_levels=(1, 2, 3),
    head_dim=64,
    embedding_dim=1024,
    embedding_layers=4,
    num_groups=32,
    dropout=0.1,
)
_TEXT_LARGE = replace(_UCF101, dropout=0.0, text_embedding_dim=_TEXT_WIDTH)

PRESETS: Mapping[str, VideoUNetConfig] = MappingProxyType(
    {
        "ucf101": _UCF101,
        "bair": replace(
            _UCF101, base_channels=128, channel_multipliers=(1, 2, 3, 4), num_blocks=3, embedding_layers=2
        ),
        "kinetics600": replace(_UCF101, embedding_layers=2),
        "text-small": replace(_TEXT_LARGE, base_channels=128),
        "text-large": _TEXT_LARGE,
        "text-128": replace(
            _TEXT_LARGE,
            base_channels=128,
            channel_multipliers=(1, 2, 4, 8, 16),
            attention_levels=(2, 3, 4),
            head_dim=128,
        ),
        "moving-digits": VideoUNetConfig(
            in_channels=1,
            base_channels=16,
            channel_multipliers=(1, 2, 4),
            num_blocks=1,
            num_up_blocks=1,
            attention_levels=(1, 2),
            head_dim=32,
            embedding_dim=128,
            num_groups=8,
            num_classes=10,
        ),
        "tiny": VideoUNetConfig(
            in_channels=1,
            base_channels=16,
            channel_multipliers=(1, 2),
            num_blocks=1,
            attention_levels=(1,),
            head_dim=16,
            embedding_dim=32,
            num_groups=4,
        ),
    }
)

# What each preset was made for: (frames, size).
_VIDEO_SIZE: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "ucf101": (16, 64),
        "bair": (16, 64),
        "kinetics600": (16, 64),
        "text-small": (16, 64),
        "text-large": (16, 64),
        "text-128": (9, 128),
        "moving-digits": (16, 32),
        "tiny": (8, 16),
    }
)


def preset(name: str) -> VideoUNetConfig:
    """The configuration of a preset.

    Raises:
        ValueError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: name must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def parameter_table() -> str:
    """A Markdown table of the presets with their parameter counts, counted on the meta device."""
    lines = [
        "| preset | video | base channels | multipliers | blocks | head dim | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, config in PRESETS.items():
        with torch.device("meta"):
            model = VideoUNet.from_config(config)
        count = sum(p.numel() for p in model.parameters())
        frames, size = _VIDEO_SIZE[name]
        multipliers = ", ".join(str(m) for m in config.channel_multipliers)
        lines.append(
            f"| {name} | {frames}×{size}² | {config.base_channels} | {multipliers} | {config.num_blocks} | "
            f"{config.head_dim} | {count:,} |"
        )
    return "\n".join(lines) + "\n"

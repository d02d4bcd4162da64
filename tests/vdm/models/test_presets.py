from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vdm.models import PRESETS, VideoUNet, parameter_table, preset

DOCS = Path(__file__).parents[3] / "docs" / "models.md"


def test_the_documented_parameter_counts_are_the_actual_ones() -> None:
    assert parameter_table() in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "base", "multipliers", "blocks", "resolutions", "head_dim", "size"),
    [
        ("ucf101", 256, (1, 2, 4, 8), 2, (8, 16, 32), 64, 64),
        ("bair", 128, (1, 2, 3, 4), 3, (8, 16, 32), 64, 64),
        ("kinetics600", 256, (1, 2, 4, 8), 2, (8, 16, 32), 64, 64),
        ("text-small", 128, (1, 2, 4, 8), 2, (8, 16, 32), 64, 64),
        ("text-large", 256, (1, 2, 4, 8), 2, (8, 16, 32), 64, 64),
        ("text-128", 128, (1, 2, 4, 8, 16), 2, (8, 16, 32), 128, 128),
    ],
)
def test_the_published_configurations(
    name: str,
    base: int,
    multipliers: tuple[int, ...],
    blocks: int,
    resolutions: tuple[int, ...],
    head_dim: int,
    size: int,
) -> None:
    config = preset(name)
    assert (config.base_channels, config.channel_multipliers, config.num_blocks) == (
        base,
        multipliers,
        blocks,
    )
    assert {size // 2**level for level in config.attention_levels} == set(resolutions)
    assert (config.head_dim, config.embedding_dim, config.num_groups) == (head_dim, 1024, 32)
    assert config.dropout == (0.0 if name.startswith("text") else 0.1)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_its_structure(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = VideoUNet.from_config(config)
    assert model.config == config
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    for level, down in enumerate(model.down):
        assert len(down.blocks) == config.num_blocks
        assert all(
            (block.attention is not None) == (level in config.attention_levels) for block in down.blocks
        )
    assert [len(up.blocks) for up in model.up] == [config.up_blocks] * config.num_levels


def test_an_unknown_preset_is_an_error_that_lists_them() -> None:
    with pytest.raises(ValueError, match=r"preset: name must be one of ucf101, bair, .*, got 'ucf'"):
        preset("ucf")

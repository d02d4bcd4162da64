from __future__ import annotations

import dataclasses
import inspect
import json

import pytest

from vdm.models import VideoUNet, VideoUNetConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": 0}, "out_channels must be at least 1 or None, got 0"),
        ({"num_groups": 48}, "num_groups must divide C=64, got 48"),
        ({"head_dim": 48}, "head_dim must divide C=128 of attention level 1, got 48"),
        ({"base_channels": 32, "attention_levels": (1, 2), "head_dim": 96}, "head_dim must divide C=64"),
        ({"attention_levels": (), "head_dim": 96}, "head_dim must divide C=512 of attention level 3, got 96"),
        ({"attention_levels": (4,)}, r"attention_levels must be in 0..3 for 4 levels, got 4"),
        ({"attention_levels": (1, 1)}, r"attention_levels must not repeat, got \(1, 1\)"),
        ({"channel_multipliers": ()}, "channel_multipliers needs at least one level, got none"),
        ({"channel_multipliers": (1, 0)}, r"channel_multipliers must be at least 1, got \(1, 0\)"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"num_up_blocks": 4}, r"num_up_blocks must be one of \(2, 3\) or None, got 4"),
        ({"embedding_layers": 0}, "embedding_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"norm_scope": "batch"}, "norm_scope must be"),
        ({"relative_bias": "alibi"}, "relative_bias must be one of"),
        ({"relative_bias_buckets": 6}, "relative_bias_buckets must be a positive multiple of 4, got 6"),
        ({"relative_bias_max_distance": 8}, "relative_bias_max_distance must be over buckets/4=8, got 8"),
        ({"relative_bias": "distance", "relative_bias_max_distance": 0}, "must be at least 1, got 0"),
        ({"relative_bias_width": 0}, "relative_bias_width must be at least 1, got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1 or None, got 0"),
        ({"spatial_bias_size": -1}, "spatial_bias_size must be at least 1 or None, got -1"),
        ({"low_res_channels": -1}, "low_res_channels must not be negative, got -1"),
    ],
)
def test_bad_fields_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"VideoUNetConfig: .*{message}"):
        VideoUNetConfig(**changes)
    with pytest.raises(ValueError, match="VideoUNetConfig: "):
        VideoUNet(**changes)


def test_a_config_survives_json() -> None:
    config = VideoUNetConfig(channel_multipliers=(1, 2), attention_levels=(1,), num_classes=7)
    assert VideoUNetConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_the_model_takes_exactly_the_fields_of_the_config_with_their_defaults() -> None:
    parameters = inspect.signature(VideoUNet).parameters
    fields = {field.name: field.default for field in dataclasses.fields(VideoUNetConfig)}
    assert {name: parameter.default for name, parameter in parameters.items()} == fields


def test_the_model_keeps_its_config() -> None:
    config = VideoUNetConfig(
        in_channels=1,
        base_channels=8,
        channel_multipliers=(1,),
        attention_levels=(0,),
        head_dim=4,
        dropout=0.5,
    )
    assert VideoUNet.from_config(config).config == config

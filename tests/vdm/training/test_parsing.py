"""Configurations from files, overrides and presets; what is wrong is one clear error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm.training import PRESETS, Config, ConfigError, apply_overrides, config_from_dict, load_config, preset
from vdm.training.parsing import config_differences, config_to_dict

TINY = preset("tiny")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_overrides_are_typed_by_the_fields() -> None:
    config = apply_overrides(
        TINY,
        [
            "training.lr=3e-5",
            "training.steps=1_000",
            "training.compile=true",
            "training.clip_norm=none",
            "model.channel_multipliers=1,2,4",
            "model.attention_levels=[]",
            "sampling.labels=(3, 1)",
            "diffusion.parameterization=eps",
            "data.path=a=b",
        ],
    )
    assert config.training.lr == 3e-5
    assert config.training.steps == 1000
    assert isinstance(config.training.steps, int)
    assert config.training.compile is True
    assert config.training.clip_norm is None
    assert config.model.channel_multipliers == (1, 2, 4)
    assert config.model.attention_levels == ()
    assert config.sampling.labels == (3, 1)
    assert config.diffusion.parameterization == "eps"
    assert config.data.path == "a=b"
    assert TINY.training.compile is False


def test_overrides_apply_together() -> None:
    """Neither of the two is valid on its own."""
    config = apply_overrides(TINY, ["training.batch_size=9", "training.accumulation_steps=3"])
    assert (config.training.batch_size, config.training.accumulation_steps) == (9, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.batchsize=1", "unknown key training.batchsize, did you mean 'batch_size'"),
        ("training.learning_rate=1", "unknown key training.learning_rate; known are: accumulation_steps, "),
        ("training.warmup=1", "did you mean 'warmup_steps'"),
        ("trainig.lr=1", "unknown section 'trainig', did you mean 'training'"),
        ("nonsense.lr=1", "known are: data, diffusion, model, sampling, training"),
        ("training.lr", "must be section.key=value, got 'training.lr'"),
        ("lr=1", "must be section.key=value"),
        ("training.steps=2.5", "training.steps must be an integer, got '2.5'"),
        ("training.lr=fast", "training.lr must be a finite number, got 'fast'"),
        ("training.compile=maybe", "training.compile must be true or false, got 'maybe'"),
        ("training.lr_decay=cosin", "must be one of constant, cosine, got 'cosin', did you mean 'cosine'"),
        ("model.channel_multipliers=1,x", "model.channel_multipliers must be an integer, got 'x'"),
        ("training.lr=none", "training.lr must be a finite number, got 'none'"),
        ("training.batch_size=0", "training.batch_size must be at least 1, got 0"),
        ("training.accumulation_steps=3", "must divide batch_size=8, got 3"),
        ("training.ema_decay=1", "training.ema_decay must be in [0, 1), got 1.0"),
        ("training.lr=-1", "training.lr must be positive"),
        ("training.lr=nan", "training.lr must be a finite number"),
        ("training.lr=inf", "training.lr must be a finite number"),
        ("training.seed=-1", "training.seed must be in [0, 2^63), got -1"),
        ("data.size=15", "data.size must be a multiple of 2 for 2 levels, got 15"),
        ("sampling.labels=10", "sampling.labels must be in 0..9, got 10"),
        ("sampling.steps=0", "sampling.steps must be at least 1"),
        ("sampling.delta=1.5", "sampling.delta must be in [0, 1], got 1.5"),
        ("sampling.corrector_steps=-1", "sampling.corrector_steps must be at least 0, got -1"),
        ("sampling.steps_per_level=0", "sampling.steps_per_level must be at least 1, got 0"),
        ("sampling.eta0=0", "sampling.eta0 must be positive, got 0"),
        ("sampling.sampler=annealed_langevin", "needs diffusion.schedule=geometric_ve, got cosine"),
        ("model.num_groups=5", "num_groups must divide C=16, got 5"),
        ("diffusion.logsnr_min=30", "diffusion.logsnr_min must be below logsnr_max"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_overrides(TINY, [override])


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".toml", "[training]\nlr = 1\nsteps = 7\n[model]\nattention_levels = [1]\n"),
        (".json", '{"training": {"lr": 1, "steps": 7}, "model": {"attention_levels": [1]}}'),
    ],
)
def test_files_change_what_they_name(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"config{suffix}"
    path.write_text(text)
    config = load_config(path, base=TINY)
    assert config.training.lr == 1.0
    assert isinstance(config.training.lr, float)
    assert config.training == dataclasses.replace(TINY.training, lr=1.0, steps=7)
    assert config.model == TINY.model
    assert load_config(path).data == Config().data


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "[training]\nlr = \n", "a.toml could not be parsed"),
        ("a.json", "{", "a.json could not be parsed"),
        ("a.json", "[1]", "must hold sections, got list"),
        ("a.toml", "training = 3\n", "[training] must be a table of keys, got 3"),
        ("a.toml", "[training]\nlr = true\n", "training.lr must be a finite number, got True"),
        ("a.toml", "[training]\nsteps = true\n", "training.steps must be an integer, got True"),
        ("a.toml", "[training]\nsteps = 1.0\n", "training.steps must be an integer, got 1.0"),
        ("a.toml", '[training]\ncompile = "yes"\n', "training.compile must be true or false, got 'yes'"),
        ("a.toml", "[data]\nfps = 'x'\n", "data.fps must be a finite number, or none, got 'x'"),
        ("a.toml", "[dat]\nfps = 1\n", "unknown section [dat], did you mean 'data'"),
        ("a.toml", "[data]\nsizes = 1\n", "unknown key data.sizes, did you mean 'size'"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a readable file, got: No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="must be a readable file"):
        load_config(tmp_path)


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_one_error(text: str) -> None:
    for key in ("training.lr", "training.steps", "model.channel_multipliers", "sampling.labels", "data.path"):
        with contextlib.suppress(ValueError):
            config = apply_overrides(TINY, [f"{key}={text}"])
            assert config_from_dict(config_to_dict(config)) == config


@given(st.text(max_size=30))
def test_any_override_is_an_error_or_a_config(text: str) -> None:
    with contextlib.suppress(ValueError):
        apply_overrides(TINY, [text])


def test_differences() -> None:
    changed = apply_overrides(TINY, ["training.lr=1", "data.frames=4"])
    assert config_differences(config_to_dict(TINY), config_to_dict(changed)) == [
        ("data.frames", 8, 4),
        ("training.lr", 1e-3, 1.0),
    ]


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"preset: name must be one of tiny, .*, got 'nope'"):
        preset("nope")


def test_vdm_presets_are_those_of_the_paper() -> None:
    """lr, β2, batch, EMA, image frames, target, sampling steps and γ of Ho et al. 2022, appendix A."""
    table = {
        "ucf101": (3e-4, 0.99, 128, 0.9999, 8, "eps", 256, 0.1, 0.1),
        "bair": (2e-4, 0.999, 128, 0.999, 8, "v", 256, 0.0, 0.1),
        "kinetics600": (2e-4, 0.99, 256, 0.9999, 8, "v", 128, 0.0, 0.1),
        "text-small": (3e-4, 0.99, 128, 0.9999, 8, "eps", 256, 0.3, 0.0),
        "text-large": (3e-4, 0.99, 128, 0.9999, 8, "eps", 256, 0.3, 0.0),
        "text-128": (2e-4, 0.99, 128, 0.9999, 7, "eps", 256, 0.3, 0.0),
    }
    for name, expected in table.items():
        c = preset(name)
        t, s = c.training, c.sampling
        found = (t.lr, t.beta2, t.batch_size, t.ema_decay, c.data.num_image_frames)
        assert (*found, c.diffusion.parameterization, s.steps, s.gamma, c.model.dropout) == expected
        assert c.data.frames == (9 if name == "text-128" else 16)
        assert c.data.size == (128 if name == "text-128" else 64)

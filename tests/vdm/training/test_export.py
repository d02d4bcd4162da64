"""One file with a model: what goes in comes out, and other files are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vdm.training import export_model, load_model
from vdm.training.export import StorageDtype, newest_checkpoint
from vdm.training.trainer import Trainer


@pytest.fixture
def saved(make_trainer: Callable[..., Trainer]) -> Trainer:
    """A trainer whose checkpoint of step 0 has EMA weights other than the model's."""
    trainer = make_trainer("training.ema_decay=0")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.normal_(std=0.1)
    trainer.ema.load_state_dict(trainer.model.state_dict(), num_updates=0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    trainer.save()
    return trainer


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 0.0), ("fp16", 5e-4), ("bf16", 4e-3)])
def test_round_trip_of_the_ema_weights(
    saved: Trainer, tmp_path: Path, dtype: StorageDtype, tolerance: float
) -> None:
    path = export_model(newest_checkpoint(tmp_path), tmp_path / "model.safetensors", dtype=dtype)
    model, config = load_model(path)
    assert config == saved.config
    assert not model.training
    for name, expected in saved.ema.state_dict().items():
        found = model.state_dict()[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=0 if dtype == "fp32" else 1e-6)


def test_half_precision_halves_the_file(saved: Trainer, tmp_path: Path) -> None:
    sizes = [
        export_model(newest_checkpoint(tmp_path), tmp_path / f"{dtype}.safetensors", dtype=dtype)
        .stat()
        .st_size
        for dtype in ("fp32", "fp16")
    ]
    count = sum(p.numel() for p in saved.model.parameters())
    assert sizes[0] - sizes[1] == pytest.approx(2 * count, rel=0.02)


def test_folders_of_runs_and_checkpoints_load_too(saved: Trainer, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "checkpoints" / "step-00000000"):
        model, _ = load_model(folder)
        assert torch.equal(model.input_conv.weight, saved.ema.state_dict()["input_conv.weight"])


def test_what_is_no_model_is_refused(saved: Trainer, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("text")
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    good = export_model(newest_checkpoint(tmp_path), tmp_path / "good.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
    for name, message in (
        ("none.safetensors", "must be a readable safetensors file"),
        ("text.safetensors", "must be a readable safetensors file"),
        ("cut.safetensors", "must be a readable safetensors file"),
        ("other.safetensors", "must be a file written by export_model"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load_model(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="must be of a run or of a checkpoint"):
        load_model(tmp_path / "samples" if (tmp_path / "samples").exists() else tmp_path.parent)


def test_refusals_write_nothing(saved: Trainer, tmp_path: Path) -> None:
    before = sorted(os.listdir(tmp_path))
    checkpoint = newest_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="dtype must be one of fp32, fp16, bf16, got 'int8'"):
        export_model(checkpoint, tmp_path / "a", dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must lie in an existing folder"):
        export_model(checkpoint, tmp_path / "no" / "a")
    with pytest.raises(ValueError, match="must be readable"):
        export_model(tmp_path, tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == before

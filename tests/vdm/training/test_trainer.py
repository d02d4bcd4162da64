"""Steps of the trainer: what they compute, and that nothing bad is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from vdm.data import Batch, Clip, DrawDataset, collate
from vdm.training import Config, TrainingError, list_checkpoints, load_checkpoint
from vdm.training.build import TrainingData
from vdm.training.loader import batches, draw_indices
from vdm.training.logs import read_log
from vdm.training.objective import TextEmbedding
from vdm.training.trainer import Trainer, learning_rate

MakeConfig = Callable[..., Config]
MakeTrainer = Callable[..., Trainer]
RunTrainer = Callable[[Trainer], int]


def micro_batches(trainer: Trainer, step: int) -> list[Batch]:
    training = trainer.config.training
    return [
        collate([trainer.data.dataset[i] for i in indices])
        for micro in range(training.accumulation_steps)
        for indices in [
            draw_indices(
                step, micro, batch_size=training.batch_size, accumulation_steps=training.accumulation_steps
            )
        ]
    ]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def test_accumulation_equals_the_big_batch(make_trainer: MakeTrainer) -> None:
    trainers = [
        make_trainer("model.dropout=0", f"training.accumulation_steps={n}", "training.lr_decay=constant")
        for n in (1, 2, 4)
    ]
    for step in range(3):
        values = [t.train_step(micro_batches(t, step)) for t in trainers]
        for other in values[1:]:
            for name in values[0]:
                assert other[name] == pytest.approx(values[0][name], rel=1e-3), name
    expected = weights(trainers[0])
    for trainer in trainers[1:]:
        for name, tensor in weights(trainer).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-5)


def test_loss_goes_down(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        "training.lr_decay=constant",
        "training.lr=5e-3",
        "training.batch_size=16",
        "training.accumulation_steps=1",
    )
    losses = [trainer.train_step(micro_batches(trainer, step))["loss"] for step in range(40)]
    assert np.mean(losses[:5]) > 0.8
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_steps_repeat_bit_for_bit(make_trainer: MakeTrainer) -> None:
    one, other = make_trainer(), make_trainer()
    torch.manual_seed(99)  # nothing outside the run matters
    for step in range(2):
        assert one.train_step(micro_batches(one, step)) == other.train_step(micro_batches(other, step))
        torch.rand(7)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name])


def test_clipping_bounds_what_the_optimizer_sees(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("training.clip_norm=0.01")
    norm = trainer.train_step(micro_batches(trainer, 0))["grad_norm"]
    assert norm > 0.1
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    clipped = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
    assert clipped == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("override", ["training.precision=bf16", "model.gradient_checkpointing=true"])
def test_other_ways_to_compute_stay_close(make_trainer: MakeTrainer, override: str) -> None:
    plain, other = make_trainer(), make_trainer(override)
    first = plain.train_step(micro_batches(plain, 0)), other.train_step(micro_batches(other, 0))
    tolerance = 2e-2 if "bf16" in override else 1e-5
    for name in ("loss", "grad_norm"):
        assert first[1][name] == pytest.approx(first[0][name], rel=tolerance)
    assert all(p.dtype == torch.float32 for p in other.model.parameters())


def test_learning_rate_by_hand(make_config: MakeConfig) -> None:
    cosine = make_config("training.steps=12", "training.warmup_steps=4", "training.lr=1").training
    assert [learning_rate(cosine, n) for n in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(cosine, 8) == pytest.approx(0.5)
    assert learning_rate(cosine, 12) == pytest.approx(0.0, abs=1e-12)
    constant = replace(cosine, lr_decay="constant", warmup_steps=0)
    assert {learning_rate(constant, n) for n in (0, 5, 11)} == {1.0}


@pytest.mark.parametrize("where", ["loss", "gradient", "weights"])
def test_what_is_not_finite_ends_the_run_and_is_never_saved(
    make_trainer: MakeTrainer, run_trainer: RunTrainer, where: str, tmp_path: Path
) -> None:
    trainer = make_trainer("training.checkpoint_every=2")
    real_step = trainer.train_step

    def poison(micro: list[Batch]) -> dict[str, float]:
        parameter = next(trainer.model.parameters())
        if trainer.step == 5 and where == "loss":
            micro[0].video[0, 0, 0, 0, 0] = math.nan
        if trainer.step == 5 and where == "gradient":
            parameter.register_hook(lambda gradient: gradient * math.inf)
        values = real_step(micro)
        if trainer.step == 6 and where == "weights":
            parameter.data.view(-1)[0] = math.nan
        return values

    trainer.train_step = poison  # type: ignore[method-assign, assignment]
    with pytest.raises(TrainingError) as caught:
        run_trainer(trainer)
    message = str(caught.value)
    step = 6 if where == "weights" else 5
    assert f"at step {step};" in message
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'step-00000004'}" in message
    assert [p.name for p in list_checkpoints(trainer.checkpoints)] == ["step-00000002", "step-00000004"]
    saved = load_checkpoint(trainer.checkpoints / "step-00000004")
    assert all(t.isfinite().all() for t in (*saved.model.values(), *saved.optimizer.values()))


def test_bad_steps_do_not_touch_the_weights(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train_step(micro_batches(trainer, 0))
    before, averages = weights(trainer), {k: v.clone() for k, v in trainer.ema.state_dict().items()}
    bad = micro_batches(trainer, 1)
    bad[1].video[0, 0, 0, 0, 0] = math.inf
    with pytest.raises(TrainingError, match=r"weights must be finite, got loss=\w+ at step 1;"):
        trainer.train_step(bad)
    assert trainer.step == 1
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, before[name])
    for name, tensor in trainer.ema.state_dict().items():
        assert torch.equal(tensor, averages[name])


def test_run_writes_everything(
    make_trainer: MakeTrainer, run_trainer: RunTrainer, quiet: Console, tmp_path: Path
) -> None:
    trainer = make_trainer("training.sample_every=5", "training.log_every=2")
    assert run_trainer(trainer) == 0
    assert [p.name for p in list_checkpoints(trainer.checkpoints)] == ["step-00000006", "step-00000008"]
    records = read_log(tmp_path / "log.jsonl")
    assert [r["step"] for r in records] == [2, 4, 6, 8]
    assert records[0].keys() >= {"loss", "lr", "grad_norm", "clips_per_second"}
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "step-00000005.gif",
        "step-00000005.png",
        "step-00000008.gif",
        "step-00000008.png",
    ]
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    text = quiet.file.getvalue()  # type: ignore[attr-defined]
    assert "step 8/8  loss " in text


def test_log_holds_means_over_its_steps(
    make_trainer: MakeTrainer, run_trainer: RunTrainer, tmp_path: Path
) -> None:
    every, each = (
        make_trainer(folder=tmp_path / "a"),
        make_trainer("training.log_every=1", folder=tmp_path / "b"),
    )
    run_trainer(every)
    run_trainer(each)
    means = read_log(tmp_path / "a" / "log.jsonl")
    single = read_log(tmp_path / "b" / "log.jsonl")
    assert [r["step"] for r in means] == [4, 8]
    assert means[0]["loss"] == pytest.approx(np.mean([r["loss"] for r in single[:4]]))
    assert means[1]["lr"] == single[7]["lr"]


def test_sampling_does_not_change_the_run(
    make_trainer: MakeTrainer, run_trainer: RunTrainer, tmp_path: Path
) -> None:
    plain, sampling = (
        make_trainer(folder=tmp_path / "a"),
        make_trainer("training.sample_every=2", folder=tmp_path / "b"),
    )
    run_trainer(plain)
    run_trainer(sampling)
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(sampling)[name])


@pytest.mark.parametrize("workers", [0, 2])
def test_data_comes_in_order_whoever_makes_it(make_trainer: MakeTrainer, workers: int) -> None:
    dataset = make_trainer().data.dataset
    found = list(
        batches(dataset, batch_size=4, accumulation_steps=2, first_step=3, last_step=6, workers=workers)
    )
    assert len(found) == 6
    for number, batch in enumerate(found):
        first = 12 + 2 * number
        expected = collate([dataset[first], dataset[first + 1]])
        assert torch.equal(batch.video, expected.video)
        assert torch.equal(batch.labels, expected.labels)  # type: ignore[arg-type]


class Captioned(DrawDataset):
    """Grey clips with a caption, a class where asked for, and a chosen number of channels."""

    def __init__(self, *, channels: int = 1, caption: str | None = "grey", classes: int = 0) -> None:
        super().__init__(seed=0)
        self.channels, self.caption = channels, caption
        self.classes = tuple(str(i) for i in range(classes)) or None

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Clip:
        label = index % len(self.classes) if self.classes else None
        return Clip(torch.zeros(self.channels, 3, 8, 8), label, self.caption, 8.0)

    def draw_frame(self, rng: np.random.Generator) -> Clip:
        return Clip(torch.zeros(self.channels, 1, 8, 8), None, self.caption, 8.0)


def encode(texts: list[str]) -> TextEmbedding:
    return TextEmbedding(pooled=torch.ones(len(texts), 6), tokens=torch.ones(len(texts), 4, 5))


def test_text_models_train(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("model.num_classes=none", "model.text_embedding_dim=6", "model.text_token_dim=5")
    data = TrainingData(Captioned())
    trainer = Trainer(config, tmp_path, data=data, text_encoder=encode)
    assert math.isfinite(trainer.train_step(micro_batches(trainer, 0))["loss"])


def test_joint_training_on_frames_of_other_clips(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("data.num_image_frames=2")
    found = micro_batches(trainer, 0)
    assert found[0].video.shape == (2, 1, 5, 8, 8)
    assert math.isfinite(trainer.train_step(found)["loss"])


@pytest.mark.parametrize(
    ("overrides", "dataset", "message"),
    [
        ([], Captioned(classes=3, channels=3), "model.in_channels must be the data's 3, got 1"),
        ([], Captioned(), "model.num_classes=10 needs labelled data"),
        ([], Captioned(classes=11), "model.num_classes must be at least the data's 11, got 10"),
        (["data.num_image_frames=1"], Captioned(classes=9), "model.num_classes must be the data's 9, got 10"),
        (["model.text_embedding_dim=6"], Captioned(classes=3), "needs Trainer(text_encoder=...), got none"),
        (["model.low_res_channels=1"], Captioned(classes=3), "needs low-resolution videos"),
    ],
)
def test_data_that_does_not_fit(
    make_config: MakeConfig, tmp_path: Path, overrides: list[str], dataset: DrawDataset, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Trainer(make_config(*overrides), tmp_path, data=TrainingData(dataset))
    assert list(tmp_path.iterdir()) == []


def test_captions_are_needed_for_text(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("model.num_classes=none", "model.text_embedding_dim=6")
    with pytest.raises(ValueError, match="needs videos with captions"):
        Trainer(config, tmp_path, data=TrainingData(Captioned(caption=None)), text_encoder=encode)

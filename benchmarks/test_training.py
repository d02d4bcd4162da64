"""One training step of `vdm.training.Trainer`: noising, prediction, loss, gradients, AdamW and EMA."""

import tempfile
from pathlib import Path

import torch
from harness.inputs import Inputs
from harness.models import fill_zeros, unet_config
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Function, Workload
from torch import Tensor

from vdm.data import Batch
from vdm.training.config import Config, DataConfig, TrainingConfig
from vdm.training.trainer import Trainer

TABLE = Table(
    op="training",
    cpu=({"preset": "moving-digits", "B": 8, "F": 16, "H": 32}, {"dim": 64, "B": 1, "F": 16, "H": 64}),
    cuda=(
        {"dim": 64, "B": 4, "F": 16, "H": 64},
        {"preset": "bair", "B": 4, "F": 16, "H": 64},
        {"preset": "ucf101", "B": 4, "F": 16, "H": 64},
    ),
    quick={"dim": 16, "B": 1, "F": 4, "H": 16},
    directions=("step",),
    baselines=("eager", "compile"),
    ours={"cpu": ("vdm",), "cuda": ("vdm",)},
    slow=("compile",),
)


def training_step(key: RowKey, *, compiled: bool) -> Function:
    """() -> (loss, norm of the gradient), from a trainer that takes one step per call on the same batch."""
    batch, frames, height = key.numbers("B", "F", "H")
    config = Config(
        model=unet_config(key),
        data=DataConfig(size=height, frames=frames),
        training=TrainingConfig(
            batch_size=batch, precision="bf16" if key.dtype == torch.bfloat16 else "fp32", compile=compiled
        ),
    )
    trainer = Trainer(config, Path(tempfile.gettempdir()), device=key.device)  # writes nothing by itself
    fill_zeros(trainer.model)
    draw = Inputs(key.device, torch.float32)
    classes = config.model.num_classes
    clips = Batch(
        video=draw.normal(batch, config.model.in_channels, frames, height, height).clamp(-1, 1),
        labels=None if classes is None else torch.arange(batch, device=key.device) % classes,
        captions=None,
        fps=torch.full((batch,), 8.0, device=key.device),
    )

    def call() -> Tensor:
        values = trainer.train_step([clips])
        return torch.tensor([values["loss"], values["grad_norm"]])

    return call


def make(key: RowKey) -> Workload:
    step = training_step(key, compiled=False)
    return Workload(
        call=step,
        plain=step,
        inputs=(),
        compile_options={},  # the trainer's own
        compiled=lambda options: training_step(key, compiled=True),
        memory=True,
    )


def test_training(row: Row) -> None:
    row.measure(make)

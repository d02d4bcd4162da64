"""`vdm.samplers.ancestral` with guidance and clipping: a few steps of the whole loop, network included."""

import torch
from harness.models import Network, autocast, build_unet, conditioning, inference_options
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Function, Workload

from vdm.diffusion import CosineSchedule, model_denoiser
from vdm.guidance import classifier_free_guidance, static_threshold
from vdm.models import Conditioning
from vdm.samplers import ancestral

# steps = sampler steps in one call; each is one prediction for 2B videos.
TABLE = Table(
    op="sampling",
    cpu=({"preset": "moving-digits", "B": 2, "F": 16, "H": 32, "steps": 4},),
    cuda=(
        {"preset": "moving-digits", "B": 64, "F": 16, "H": 32, "steps": 16},
        {"preset": "text-small", "B": 4, "F": 16, "H": 64, "steps": 8},
    ),
    quick={"preset": "moving-digits", "B": 1, "F": 4, "H": 16, "steps": 2},
    directions=("step",),
    baselines=("eager", "compile"),
    ours={"cpu": ("vdm",), "cuda": ("vdm",)},
    slow=("compile",),
)


def sampler(network: Network, key: RowKey, channels: int, condition: Conditioning) -> Function:
    """() -> videos."""
    batch, frames, height, steps = key.numbers("B", "F", "H", "steps")
    denoiser = model_denoiser(network, parameterization="v", conditioning=condition)
    guided = static_threshold(classifier_free_guidance(denoiser, 1.0))
    return lambda: ancestral(
        guided,
        (batch, channels, frames, height, height),
        schedule=CosineSchedule(),
        seeds=0,
        num_steps=steps,
        device=key.device,
        dtype=torch.float32,
    )


def make(key: RowKey) -> Workload:
    model, condition = build_unet(key), conditioning(key)
    assert condition is not None  # guidance needs one
    channels = model.config.in_channels
    run = sampler(autocast(model, key), key, channels, condition)
    return Workload(
        call=run,
        plain=run,
        inputs=(),
        compile_options=inference_options(key),
        compiled=lambda options: sampler(
            autocast(torch.compile(model, options=options, dynamic=False), key), key, channels, condition
        ),
    )


def test_sampling(row: Row) -> None:
    row.measure(make)

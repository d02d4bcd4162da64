"""What guidance costs: sampler steps without any, with each kind, and the peak memory of a call."""

import torch
from harness.inputs import Inputs
from harness.models import Network, autocast, build_unet, conditioning, inference_options
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Function, Workload
from torch import Tensor

from vdm.diffusion import CosineSchedule, Denoiser, ModelDenoiser, model_denoiser
from vdm.guidance import (
    classifier_free_guidance,
    downsample,
    reconstruction_guidance,
    replacement,
    static_threshold,
)
from vdm.models import Conditioning
from vdm.samplers import ancestral

# "reconstruction" and "checkpointed" are guidance in time, "both" in time and in space.
KINDS = ("none", "classifier-free", "replacement", "reconstruction", "checkpointed", "both")
CPU = {"preset": "moving-digits", "B": 2, "F": 16, "H": 32, "steps": 2}
SMALL = {"preset": "moving-digits", "B": 64, "F": 16, "H": 32, "steps": 8}
LARGE = {"preset": "text-small", "B": 4, "F": 16, "H": 64, "steps": 4}
TABLE = Table(
    op="guidance",
    cpu=tuple({"kind": kind, **CPU} for kind in KINDS),
    cuda=tuple({"kind": kind, **size} for size in (SMALL, LARGE) for kind in KINDS),
    quick={"kind": "checkpointed", "preset": "moving-digits", "B": 1, "F": 4, "H": 16, "steps": 2},
    directions=("step",),
    baselines=("eager", "compile"),
    ours={"cpu": ("vdm",), "cuda": ("vdm",)},
    slow=("compile",),
)


def guided(network: ModelDenoiser, kind: str, known: Tensor) -> Denoiser:
    """The first half of the frames is known."""
    frames = torch.arange(known.shape[2], device=known.device)
    mask = (frames < known.shape[2] // 2).reshape(1, 1, -1, 1, 1)
    if kind == "none":
        return static_threshold(network)
    if kind == "classifier-free":
        return static_threshold(classifier_free_guidance(network, 1.0))
    denoiser: Denoiser = network
    if kind != "replacement":
        half = downsample(known, known.shape[3] // 2, known.shape[4] // 2) if kind == "both" else None
        denoiser = reconstruction_guidance(
            network, 1.0, known=known, mask=mask, low_resolution=half, checkpoint=kind == "checkpointed"
        )
    return replacement(static_threshold(denoiser), known, mask, seeds=0)


def sampler(network: Network, key: RowKey, known: Tensor, condition: Conditioning | None) -> Function:
    """() -> videos."""
    denoiser = model_denoiser(network, parameterization="v", conditioning=condition)
    conditioned = guided(denoiser, str(key.size["kind"]), known)
    (steps,) = key.numbers("steps")
    return lambda: ancestral(
        conditioned, known.shape, schedule=CosineSchedule(), seeds=0, num_steps=steps, device=key.device
    )


def make(key: RowKey) -> Workload:
    model, condition = build_unet(key), conditioning(key)
    batch, frames, height = key.numbers("B", "F", "H")
    draw = Inputs(key.device, torch.float32)
    known = draw.normal(batch, model.config.in_channels, frames, height, height).clamp(-1, 1).contiguous()
    run = sampler(autocast(model, key), key, known, condition)
    return Workload(
        call=run,
        plain=run,
        inputs=(),
        compile_options=inference_options(key) if key.size["kind"] in KINDS[:3] else {"max_autotune": True},
        compiled=lambda options: sampler(
            autocast(torch.compile(model, options=options, dynamic=False), key), key, known, condition
        ),
        memory=True,
    )


def test_guidance(row: Row) -> None:
    row.measure(make)

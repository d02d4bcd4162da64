"""The samplers with a clipped, guided or plain denoiser: a few steps of the whole loop, network included.

`eager` is the same loop by PyTorch's own operations. Every row reports `frames_per_second` of these few steps;
a call of the network is what counts, so that divided by the calls of a real run it is the real run's.
"""

from functools import partial
from typing import Any

import pytest
import torch
from harness.models import Network, autocast, build_unet, conditioning, inference_options
from harness.row import Row
from harness.table import RowKey, Size, Table
from harness.workload import CompileOptions, Function, Workload

from vdm.diffusion import CosineSchedule, GeometricVESchedule, Parameterization, model_denoiser
from vdm.guidance import classifier_free_guidance, static_threshold
from vdm.models import Conditioning
from vdm.samplers import (
    ancestral,
    annealed_langevin,
    ddim,
    distilled,
    dpm_solver_pp,
    predictor_corrector,
)

SAMPLERS = {
    "ancestral": partial(ancestral, gamma=0.1),
    "ddim": ddim,
    "predictor-corrector": predictor_corrector,
    "dpm-solver-pp": dpm_solver_pp,
    "distilled": distilled,
    "annealed-langevin": partial(annealed_langevin, steps_per_level=1),
}


def of_every_sampler(size: Size) -> tuple[Size, ...]:
    """Unguided, and ancestral also guided: one prediction for 2B videos a step, which is guidance's overhead."""
    unguided: tuple[Size, ...] = tuple({"sampler": name, **size, "guided": False} for name in SAMPLERS)
    return ({"sampler": "ancestral", **size, "guided": True}, *unguided)


# steps = steps of the grid in one call; predictor-corrector and annealed Langevin call the network more often.
TABLE = Table(
    op="sampling",
    cpu=of_every_sampler({"preset": "moving-digits", "B": 2, "F": 16, "H": 32, "steps": 4}),
    cuda=(
        *of_every_sampler({"preset": "moving-digits", "B": 64, "F": 16, "H": 32, "steps": 16}),
        *of_every_sampler({"preset": "moving-digits", "B": 1, "F": 16, "H": 32, "steps": 16, "graph": True}),
        {
            "sampler": "ancestral",
            "preset": "text-small",
            "B": 4,
            "F": 16,
            "H": 64,
            "steps": 8,
            "guided": True,
        },
    ),
    quick={
        "sampler": "ancestral",
        "preset": "moving-digits",
        "B": 1,
        "F": 4,
        "H": 16,
        "steps": 2,
        "guided": True,
    },
    directions=("step",),
    baselines=("eager", "compile"),
    ours={"cpu": ("vdm",), "cuda": ("vdm",)},
    slow=("compile",),
)


def sampling(
    network: Network, key: RowKey, channels: int, condition: Conditioning, *, graph: bool
) -> Function:
    """() -> videos; `graph` is for the row of ours where the size asks for it."""
    batch, frames, height, steps = key.numbers("B", "F", "H", "steps")
    name = str(key.size["sampler"])
    preserving = name != "annealed-langevin"
    parameterization: Parameterization = "v" if preserving else "eps"
    denoiser: Any = model_denoiser(
        network, parameterization=parameterization, conditioning=condition, variance_preserving=preserving
    )
    if key.size["guided"]:
        denoiser = classifier_free_guidance(denoiser, 1.0)
    return lambda: SAMPLERS[name](
        static_threshold(denoiser),
        (batch, channels, frames, height, height),
        schedule=CosineSchedule() if preserving else GeometricVESchedule(),
        seeds=0,
        num_steps=steps,
        device=key.device,
        dtype=torch.float32,
        cuda_graph=graph,
    )


def make(key: RowKey) -> Workload:
    model, condition = build_unet(key), conditioning(key)
    assert condition is not None  # guidance needs one
    channels = model.config.in_channels
    sampled = partial(sampling, key=key, channels=channels, condition=condition)

    def compiled(options: CompileOptions) -> Function:
        if key.size["sampler"] != "ancestral" or "graph" in key.size:
            pytest.skip("compile: the network of every sampler is that of the rows of ancestral")
        network = torch.compile(model, options=options, dynamic=False)
        return sampled(autocast(network, key), graph=False)

    return Workload(
        call=sampled(autocast(model, key), graph="graph" in key.size and key.backend == "vdm"),
        plain=sampled(autocast(model, key), graph=False),
        inputs=(),
        compile_options=inference_options(key),
        compiled=compiled,
    )


def test_sampling(row: Row) -> None:
    row.measure(make)
    if row.benchmark.stats is not None:
        frames = row.key.size["B"] * row.key.size["F"]
        row.benchmark.extra_info["frames_per_second"] = frames / row.benchmark.stats.stats.median

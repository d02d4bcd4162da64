"""`VideoUNet`, one prediction: on our kernels, on the reference, and the reference compiled."""

from importlib import import_module

import torch
from harness.inputs import Inputs
from harness.models import autocast, build_unet, conditioning, inference_options
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Function, Workload

PEER = "video-diffusion-pytorch"

TABLE = Table(
    op="video_unet",
    cpu=({"preset": "moving-digits", "B": 4, "F": 16, "H": 32}, {"dim": 64, "B": 1, "F": 16, "H": 64}),
    cuda=(
        {"dim": 64, "B": 1, "F": 16, "H": 64},
        {"preset": "bair", "B": 8, "F": 16, "H": 64},
        {"preset": "ucf101", "B": 8, "F": 16, "H": 64},
    ),
    quick={"dim": 16, "B": 1, "F": 4, "H": 16},
    directions=("fwd",),
    baselines=("eager", "compile"),
    libraries=(PEER,),
    ours={"cpu": ("vdm",), "cuda": ("vdm",)},
    slow=("compile",),
)


def peer(key: RowKey) -> Function | str:
    """The most used implementation of the paper, at the same width and multipliers."""
    if "dim" not in key.size:
        return "has no such preset"
    try:
        package = import_module("video_diffusion_pytorch")
    except ImportError:
        return f"pip install {PEER}"
    (width,) = key.numbers("dim")
    torch.manual_seed(0)
    model = package.Unet3D(dim=width, dim_mults=(1, 2, 4, 8)).to(key.device).eval()
    network = autocast(lambda x, logsnr, condition: model(x, logsnr), key)
    return lambda x, logsnr: network(x, logsnr, None)


def make(key: RowKey) -> Workload:
    model, condition = build_unet(key), conditioning(key)
    network = autocast(model, key)
    batch, frames, height = key.numbers("B", "F", "H")
    draw = Inputs(key.device, key.dtype)
    x = draw.normal(batch, model.config.in_channels, frames, height, height)
    return Workload(
        call=lambda x, logsnr: network(x, logsnr, condition),
        plain=lambda x, logsnr: network(x, logsnr, condition),
        inputs=(x, draw.floats((-4.0, 4.0), batch)),
        libraries={PEER: peer(key)},
        other_models=(PEER,),
        compile_options=inference_options(key),
        memory=True,
    )


def test_video_unet(row: Row) -> None:
    row.measure(make)

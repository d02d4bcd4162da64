"""What the rows of the sampler steps share: sizes, inputs, and x̂ in plain PyTorch."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from harness.inputs import Inputs
from harness.table import RowKey, Size
from harness.workload import Work, size_in_bytes

GUIDANCE_WEIGHT = 2.0

# RGB videos of 16×64×64: 6.3, 25 and 100 MB in float32; x̂ is clipped to [-1, 1].
CPU_SIZES: tuple[Size, ...] = (
    {"B": 8, "C": 3, "F": 16, "H": 64, "guided": False},
    {"B": 32, "C": 3, "F": 16, "H": 64, "guided": False},
    {"B": 32, "C": 3, "F": 16, "H": 64, "guided": True},
)
CUDA_SIZES: tuple[Size, ...] = (
    *CPU_SIZES,
    {"B": 128, "C": 3, "F": 16, "H": 64, "guided": False},
    {"B": 128, "C": 3, "F": 16, "H": 64, "guided": True},
)
QUICK_SIZE: Size = {"B": 8, "C": 3, "F": 16, "H": 32, "guided": True}


def step_inputs(key: RowKey) -> tuple[Tensor, ...]:
    """(z, logsnr_t, logsnr_s, seed, prediction[, uncond])."""
    batch, channels, frames, height = key.numbers("B", "C", "F", "H")
    draw = Inputs(key.device, key.dtype)
    videos = [draw.normal(batch, channels, frames, height, height, grad=True) for _ in range(3)]
    z, prediction, uncond = videos
    logsnr_t = draw.floats((-4.0, 4.0), batch)
    _leave_the_bound(z, logsnr_t, prediction, uncond if key.size["guided"] else None)
    tail = (prediction, uncond) if key.size["guided"] else (prediction,)
    return (z, logsnr_t, logsnr_t + 0.5, draw.seeds(batch), *tail)


def _leave_the_bound(z: Tensor, logsnr: Tensor, v: Tensor, uncond: Tensor | None) -> None:
    """Set to zero where |x̂| is 1 to rounding: there the gradient of the clip is a matter of the last bit."""
    with torch.no_grad():
        x = clipped_x(
            z.float(), logsnr, v.float(), None if uncond is None else uncond.float(), bound=math.inf
        )
        inside = (x.abs() - 1).abs() > 1e-4
        for video in (z, v) if uncond is None else (z, v, uncond):
            video.mul_(inside)


def step_work(key: RowKey, inputs: tuple[Tensor, ...]) -> Mapping[str, Work]:
    """Forward reads its videos and writes one; backward reads them and a gradient, and writes one of each."""
    videos = 3 if key.size["guided"] else 2
    size = size_in_bytes(inputs[0])
    return {"fwd": Work((videos + 1) * size), "bwd": Work((2 * videos + 1) * size)}


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """`alpha = sqrt(sigmoid(logsnr))` and `sigma = sqrt(sigmoid(-logsnr))`, as (B, 1, 1, 1, 1)."""
    logsnr = logsnr.view(-1, 1, 1, 1, 1)
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def clipped_x(z: Tensor, logsnr: Tensor, v: Tensor, uncond: Tensor | None, *, bound: float = 1.0) -> Tensor:
    """x̂ of a guided v-prediction, clipped to [-bound, bound]."""
    alpha, sigma = alpha_sigma(logsnr)
    if uncond is not None:
        v = (1 + GUIDANCE_WEIGHT) * v - GUIDANCE_WEIGHT * uncond
    return (alpha * z - sigma * v).clamp(-bound, bound)

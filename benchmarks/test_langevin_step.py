"""`langevin_step`: guidance, x̂, clipping, score and noise in one pass over a v-prediction."""

import torch
from harness.row import Row
from harness.sampler_step import (
    CPU_SIZES,
    CUDA_SIZES,
    GUIDANCE_WEIGHT,
    QUICK_SIZE,
    alpha_sigma,
    clipped_x,
    step_inputs,
    step_work,
)
from harness.table import RowKey, Table
from harness.workload import Workload
from torch import Tensor

import vdm_kernels

TABLE = Table(op="langevin_step", cpu=CPU_SIZES, cuda=CUDA_SIZES, quick=QUICK_SIZE)


def call(
    z: Tensor,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    seed: Tensor,
    prediction: Tensor,
    uncond: Tensor | None = None,
) -> Tensor:
    return vdm_kernels.langevin_step(
        z,
        prediction,
        logsnr_t,
        seed,
        1,
        parameterization="v",
        uncond=uncond,
        guidance_weight=None if uncond is None else GUIDANCE_WEIGHT,
        threshold=1.0,
    )


def plain(
    z: Tensor,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    seed: Tensor,
    prediction: Tensor,
    uncond: Tensor | None = None,
) -> Tensor:
    """`z - (delta / 2) sigma eps + sqrt(delta) sigma noise` at delta = 0.1, with PyTorch's own noise."""
    alpha, sigma = alpha_sigma(logsnr_t)
    drift = z - alpha * clipped_x(z, logsnr_t, prediction, uncond)
    return (z - 0.05 * drift + 0.1**0.5 * sigma * torch.randn_like(z)).to(z.dtype)


def make(key: RowKey) -> Workload:
    inputs = step_inputs(key)
    return Workload(call=call, plain=plain, inputs=inputs, random=True, work=step_work(key, inputs))


def test_langevin_step(row: Row) -> None:
    row.measure(make)

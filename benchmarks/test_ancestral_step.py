"""`ancestral_step`: guidance, x̂, clipping, posterior mean and noise in one pass over a v-prediction."""

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

TABLE = Table(op="ancestral_step", cpu=CPU_SIZES, cuda=CUDA_SIZES, quick=QUICK_SIZE)


def call(
    z: Tensor,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    seed: Tensor,
    prediction: Tensor,
    uncond: Tensor | None = None,
) -> Tensor:
    return vdm_kernels.ancestral_step(
        z,
        prediction,
        logsnr_t,
        logsnr_s,
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
    """The posterior's mean and standard deviation, with PyTorch's own noise."""
    alpha_t, _ = alpha_sigma(logsnr_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    difference = (logsnr_t - logsnr_s).view(-1, 1, 1, 1, 1)
    gain = -torch.expm1(difference)
    x = clipped_x(z, logsnr_t, prediction, uncond)
    mean = difference.exp() * (alpha_s / alpha_t) * z + gain * alpha_s * x
    return (mean + gain.sqrt() * sigma_s * torch.randn_like(z)).to(z.dtype)


def make(key: RowKey) -> Workload:
    inputs = step_inputs(key)
    return Workload(call=call, plain=plain, inputs=inputs, random=True, work=step_work(key, inputs))


def test_ancestral_step(row: Row) -> None:
    row.measure(make)

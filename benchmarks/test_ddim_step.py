"""`ddim_step` with eta 0: guidance, x̂, clipping and the step in one pass over a v-prediction."""

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

TABLE = Table(op="ddim_step", cpu=CPU_SIZES, cuda=CUDA_SIZES, quick=QUICK_SIZE)


def call(
    z: Tensor,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    seed: Tensor,
    prediction: Tensor,
    uncond: Tensor | None = None,
) -> Tensor:
    return vdm_kernels.ddim_step(
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
    """`z_s = alpha_s x + sigma_s eps`, eps taken again from the clipped x."""
    alpha_t, sigma_t = alpha_sigma(logsnr_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    x = clipped_x(z, logsnr_t, prediction, uncond)
    return (alpha_s * x + sigma_s * (z - alpha_t * x) / sigma_t).to(z.dtype)


def make(key: RowKey) -> Workload:
    inputs = step_inputs(key)
    return Workload(call=call, plain=plain, inputs=inputs, work=step_work(key, inputs))


def test_ddim_step(row: Row) -> None:
    row.measure(make)

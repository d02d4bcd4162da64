"""The arguments that the sampler steps share, checked and brought to one form."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.ops.step.coefficients import PARAMETERIZATIONS

Parameterization = Literal["eps", "x", "v"]
_BYTES = {torch.float64: 8, torch.float32: 4, torch.bfloat16: 2, torch.float16: 2}


class StepArguments(NamedTuple):
    """In the order in which the ops take them; every tensor is contiguous."""

    z: Tensor
    prediction: Tensor
    uncond: Tensor | None
    logsnr_t: Tensor
    logsnr_s: Tensor
    guidance_weight: Tensor | None
    threshold: Tensor | None
    seed: Tensor
    draw: Tensor
    parameterization: str


def step_arguments(
    op: str,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    guidance_weight: float | Tensor | None,
    threshold: float | Tensor | None,
    seed: Tensor,
    draw: int | Tensor,
    parameterization: str,
) -> StepArguments:
    """Raises ValueError for a wrong argument of the step `op`; none of it reads a tensor's values."""
    checks.batched(op, "z", z)
    batch, device = z.shape[0], z.device
    _prediction(op, "prediction", prediction, z)
    checks.per_sample(op, "logsnr_t", logsnr_t, batch, device, torch.float32)
    checks.per_sample(op, "logsnr_s", logsnr_s, batch, device, torch.float32)
    checks.per_sample(op, "seed", seed, batch, device, torch.int64)
    if type(parameterization) is not str or parameterization not in PARAMETERIZATIONS:
        checks.one_of(op, "parameterization", parameterization, PARAMETERIZATIONS)
    if (uncond is None) != (guidance_weight is None):
        given, missing = ("guidance_weight", "uncond") if uncond is None else ("uncond", "guidance_weight")
        raise ValueError(f"{op}: {missing} must be given together with {given}, got None")
    if uncond is not None:
        _prediction(op, "uncond", uncond, z)
        if uncond.dtype != prediction.dtype:
            raise ValueError(
                f"{op}: uncond must have prediction's dtype {prediction.dtype}, got {uncond.dtype}"
            )
        uncond = uncond.contiguous()
    if guidance_weight is not None:
        guidance_weight = checks.per_sample_or_float(op, "guidance_weight", guidance_weight, batch, device)
    if threshold is not None:
        threshold = checks.per_sample_or_float(op, "threshold", threshold, batch, device, minimum=0.0)
    return StepArguments(
        z.contiguous(),
        prediction.contiguous(),
        uncond,
        logsnr_t.contiguous(),
        logsnr_s.contiguous(),
        guidance_weight,
        threshold,
        seed.contiguous(),
        checks.draw_number(op, draw, seed),
        parameterization,
    )


def _prediction(op: str, name: str, value: Tensor, z: Tensor) -> None:
    checks.is_tensor(op, name, value)
    if value.shape != z.shape:
        raise ValueError(f"{op}: {name} must have z's shape {tuple(z.shape)}, got {tuple(value.shape)}")
    if value.dtype != z.dtype and _BYTES.get(value.dtype, 8) >= _BYTES[z.dtype]:
        raise ValueError(f"{op}: {name} must have z's dtype {z.dtype} or a narrower one, got {value.dtype}")
    if value.device != z.device:
        raise ValueError(f"{op}: {name} must be on {z.device}, got {value.device}")

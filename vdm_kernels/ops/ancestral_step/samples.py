"""Calls of `ancestral_step` that tests share."""

from __future__ import annotations

import torch

from vdm_kernels.ops.step.samples import bad_step_samples, step_samples
from vdm_kernels.testing import Sample


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    found = step_samples(dtype, device, "gamma")
    last = {**found[2].arguments, "add_noise": False}
    # x_hat itself, the limit of the mean: what a multistep sampler keeps.
    to_x_hat = {**last, "logsnr_s": torch.full_like(last["logsnr_s"], torch.inf), "threshold": 1.0}
    return [*found, Sample("last_step", last), Sample("to_x_hat", to_x_hat)]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    return bad_step_samples(device, "gamma")

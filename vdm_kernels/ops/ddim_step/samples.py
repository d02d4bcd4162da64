"""Calls of `ddim_step` that tests share."""

from __future__ import annotations

import torch

from vdm_kernels.ops.step.samples import bad_step_samples, step_samples
from vdm_kernels.testing import Sample


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    return step_samples(dtype, device, "eta")


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    return bad_step_samples(device, "eta")

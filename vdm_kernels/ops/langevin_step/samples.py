"""Calls of `langevin_step` that tests share: those of the other steps, at one log-SNR."""

from __future__ import annotations

import torch

from vdm_kernels.ops.step.samples import bad_step_samples, step_samples
from vdm_kernels.testing import Sample


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    return [_at_one_logsnr(sample) for sample in step_samples(dtype, device, "delta")]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    bad = [sample for sample in bad_step_samples(device, "delta") if sample.name != "logsnr_s"]
    return [_at_one_logsnr(sample) for sample in bad]


def _at_one_logsnr(sample: Sample) -> Sample:
    arguments = {name: value for name, value in sample.arguments.items() if name != "logsnr_s"}
    arguments = {"logsnr" if name == "logsnr_t" else name: value for name, value in arguments.items()}
    return Sample(sample.name.replace("logsnr_t", "logsnr"), arguments, large=sample.large)

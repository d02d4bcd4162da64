"""Plain PyTorch definition of `q_sample` and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels.ops.philox_normal.reference import philox_normal
from vdm_kernels.ops.step.coefficients import log_alpha_sigma
from vdm_kernels.ops.step.reference import compute_dtype, per_sample


def q_sample(
    x: Tensor, logsnr: Tensor, seed: Tensor, draw: Tensor, variance_preserving: bool
) -> tuple[Tensor, Tensor]:
    """See `vdm_kernels.q_sample`."""
    log_alpha, log_sigma = log_alpha_sigma(logsnr, variance_preserving)
    eps = philox_normal(x.shape, seed, draw, torch.float32)
    alpha, sigma = per_sample(log_alpha.exp(), x), per_sample(log_sigma.exp(), x)
    z = alpha * x.to(compute_dtype(x)) + sigma * eps
    return z.to(x.dtype), eps.to(x.dtype)


def q_sample_bwd(
    dz: Tensor,
    x: Tensor,
    logsnr: Tensor,
    seed: Tensor,
    draw: Tensor,
    variance_preserving: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """dx = alpha dz."""
    log_alpha, _ = log_alpha_sigma(logsnr, variance_preserving)
    return [(per_sample(log_alpha.exp(), x) * dz.to(compute_dtype(x))).to(x.dtype)]

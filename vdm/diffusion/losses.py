"""Training losses and the sampling of training times.

    L = E_{t ~ U(0,1), ε} [ w(λ_t) ||x̂ - x||² ]

The weight is applied to the squared error of the network's own output, where it stays bounded for every λ.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from vdm.diffusion.checks import (
    check_batched,
    check_choice,
    check_floating,
    check_integer,
    check_like,
    check_logsnr,
    check_number,
    checked_device,
)
from vdm.diffusion.parameterization import Parameterization, check_parameterization
from vdm.diffusion.process import broadcast_alpha_sigma, compute_dtype

LossWeight = Literal["eps", "v", "x", "truncated", "min_snr"]
LOSS_WEIGHTS: tuple[str, ...] = get_args(LossWeight)


def loss_weight(
    logsnr: Tensor,
    weight: LossWeight,
    *,
    parameterization: Parameterization = "x",
    min_snr_gamma: float = 5.0,
    variance_preserving: bool = True,
) -> Tensor:
    """The factor on the squared error of the network's output that weights ||x̂ - x||² by w(λ).

        w(λ):  eps e^λ,   v 1 + e^λ,   x 1,   truncated max(e^λ, 1),   min_snr min(e^λ, γ)
        ||x̂ - x||²  =  e^{-λ} ||ε̂ - ε||²  =  ||v̂ - v||² / (1 + e^λ)

    Both factors are multiplied as logarithms, so nothing overflows: the eps weight on an ε network is exactly
    1, and so is the v weight on a v network. Truncated: Salimans & Ho 2022 (arXiv 2202.00512). Min-SNR: Hang
    et al. 2023 (2303.09556).

    Args:
        logsnr: λ, any shape.
        weight: the name of w.
        parameterization: what the network predicts; "x" gives w itself.
        min_snr_gamma: γ > 0 of "min_snr".
        variance_preserving: which process; "v" needs the variance-preserving one.

    Returns:
        The factor, the shape of λ, at least float32.

    Raises:
        ValueError: an unknown name, γ <= 0, or logsnr not a floating-point tensor.
    """
    check_floating("loss_weight", "logsnr", logsnr)
    _check_weight("loss_weight", weight, parameterization, min_snr_gamma, variance_preserving)
    logsnr = logsnr.to(torch.promote_types(logsnr.dtype, torch.float32))
    zero = torch.zeros_like(logsnr)
    if weight == "eps":
        log_weight = logsnr
    elif weight == "v":
        log_weight = torch.logaddexp(logsnr, zero)
    elif weight == "x":
        log_weight = zero
    elif weight == "truncated":
        log_weight = logsnr.clamp(min=0.0)
    else:
        log_weight = logsnr.clamp(max=math.log(min_snr_gamma))
    if parameterization == "eps":
        log_weight = log_weight - logsnr
    elif parameterization == "v":
        log_weight = log_weight - torch.logaddexp(logsnr, zero)
    return torch.exp(log_weight)


def diffusion_loss(
    model_output: Tensor,
    x: Tensor,
    eps: Tensor,
    logsnr: Tensor,
    *,
    parameterization: Parameterization,
    weight: LossWeight,
    mask: Tensor | None = None,
    min_snr_gamma: float = 5.0,
    variance_preserving: bool = True,
) -> Tensor:
    """The weighted squared error per sample, averaged over elements: w(λ) mean((x̂ - x)²).

    Args:
        model_output: the network's output at z = α x + σ ε, (B, ...).
        x: clean data, the same shape.
        eps: the noise in z, the same shape.
        logsnr: λ, (B,).
        parameterization: what the network predicts.
        weight: the name of w(λ), see `loss_weight`.
        mask: which elements count (True, or a weight >= 0), (B, F) for frames or any shape with a batch axis
            that broadcasts to x's, e.g. (B, 1, F, H, W); the mean is over those, 0 for a row with none.
        min_snr_gamma: γ of "min_snr".
        variance_preserving: which process.

    Returns:
        (B,) loss, in at least float32 whatever the network's dtype.

    Raises:
        ValueError: shapes, devices, dtypes or names do not fit.
    """
    where = "diffusion_loss"
    check_batched(where, "model_output", model_output)
    check_like(where, "x", x, "model_output", model_output)
    check_like(where, "eps", eps, "model_output", model_output)
    check_logsnr(where, "logsnr", logsnr, "model_output", model_output)
    _check_weight(where, weight, parameterization, min_snr_gamma, variance_preserving)
    if mask is not None:
        mask = _checked_mask(where, mask, x)

    dtype = torch.promote_types(compute_dtype(model_output), x.dtype)
    x, eps = x.to(dtype), eps.to(dtype)
    if parameterization == "eps":
        target = eps
    elif parameterization == "x":
        target = x
    else:
        alpha, sigma = broadcast_alpha_sigma(logsnr, x, variance_preserving=variance_preserving)
        target = alpha * eps - sigma * x
    difference = model_output.to(dtype) - target
    if mask is None:
        error = difference.square().flatten(1).mean(1)
    else:
        # where, not a product alone: an element that does not count may be anything, NaN included.
        counts = mask.to(dtype).expand_as(difference)
        squared_error = torch.where(counts != 0, difference, 0.0).square()
        total = counts.flatten(1).sum(1).clamp(min=torch.finfo(dtype).tiny)
        error = (counts * squared_error).flatten(1).sum(1) / total
    factor = loss_weight(
        logsnr,
        weight,
        parameterization=parameterization,
        min_snr_gamma=min_snr_gamma,
        variance_preserving=variance_preserving,
    )
    return factor.to(dtype) * error


def stratified_times(
    batch_size: int,
    seed: int | torch.Generator,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Low-variance training times: one uniform offset per batch, one time in each of B equal intervals.

        t_i = (u + i / B) mod 1,   u ~ U[0, 1),   i = 0 .. B - 1

    Kingma et al. 2021 (arXiv 2107.00630), appendix I.1: each t_i is uniform on [0, 1), and a mean over the
    batch has far lower variance than with independent draws. To stratify over several processes or
    micro-batches, draw the whole batch from one seed and let each take its slice.

    Args:
        batch_size: B >= 1.
        seed: an int, the same times on every device; or a CPU torch.Generator, which is advanced by one draw.
        device: where the result lies; the CPU by default.
        dtype: floating-point dtype of the result.

    Returns:
        t (B,) in [0, 1].

    Raises:
        ValueError: batch_size < 1, a seed that is not a 64-bit integer, or a dtype that is not floating.
    """
    where = "stratified_times"
    check_integer(where, "batch_size", batch_size, minimum=1, maximum=2**31 - 1)
    if not isinstance(seed, torch.Generator):
        check_integer(where, "seed", seed, minimum=-(2**63), maximum=2**64 - 1)
        seed = torch.Generator().manual_seed(int(seed))
    elif seed.device.type != "cpu":
        raise ValueError(f"{where}: seed must be an integer or a CPU generator, got one on {seed.device}")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{where}: dtype must be floating point, got {dtype}")
    place = checked_device(where, device)
    offset = torch.rand((), generator=seed, dtype=torch.float64)
    strata = torch.arange(int(batch_size), dtype=torch.float64) / batch_size
    return ((offset + strata) % 1.0).to(place, dtype)


def _check_weight(
    where: str, weight: object, parameterization: object, min_snr_gamma: object, variance_preserving: bool
) -> None:
    check_choice(where, "weight", weight, LOSS_WEIGHTS)
    check_parameterization(where, parameterization, variance_preserving)
    check_number(where, "min_snr_gamma", min_snr_gamma, minimum=0.0, exclusive_minimum=True)


def _checked_mask(where: str, mask: Tensor, x: Tensor) -> Tensor:
    """`mask` shaped to broadcast against x; (B, F) becomes (B, 1, F, 1, 1) for a video."""
    if not isinstance(mask, Tensor):
        raise ValueError(f"{where}: mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.is_complex():
        raise ValueError(f"{where}: mask must be boolean or real, got {mask.dtype}")
    shape = tuple(mask.shape)
    if mask.device != x.device:
        raise ValueError(f"{where}: mask must be on device {x.device}, got {mask.device}")
    if x.ndim == 5 and shape == (x.shape[0], x.shape[2]):
        return mask[:, None, :, None, None]
    fits = mask.ndim == x.ndim and shape[0] == x.shape[0]
    if not fits or any(m not in (1, n) for m, n in zip(shape, x.shape, strict=True)):
        raise ValueError(
            f"{where}: mask must be (B, F) or broadcast to x's shape {tuple(x.shape)} with its batch axis,"
            f" got {shape}"
        )
    return mask

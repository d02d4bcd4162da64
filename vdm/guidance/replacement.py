"""Replacement: conditional sampling that overwrites what is known with its own noised version.

    z^a ~ q(z_t^a | x^a) = N(α_t x^a, σ_t² I),   x̂^a = x^a

Ho et al. 2022 (arXiv 2204.03458), section 3.1, after Song et al. 2021 (2011.13456). By itself it leaves out the
term that `reconstruction_guidance` adds, and the unknown part comes out inconsistent with the known one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, Prediction, predict
from vdm.diffusion.checks import check_batched, check_bool, check_callable, check_like, check_logsnr
from vdm.diffusion.process import broadcast_alpha_sigma
from vdm.guidance.known import check_known
from vdm.samplers.loop import Seeds, sample_seeds
from vdm_kernels import philox_normal

_FIRST_DRAW = 2**40  # samplers count their draws from 0


def replacement(
    denoiser: Denoiser,
    known: Tensor,
    mask: Tensor,
    *,
    seeds: Seeds,
    variance_preserving: bool = True,
) -> Denoiser:
    """Replace the known part of z by a sample of q(z_t^a | x^a) before every prediction, and of x̂ by x^a after it.

        z^a <- α_t x^a + σ_t ε_t^a,   x̂^a <- x^a

    The noise is a function of (seed, λ_t) alone: fresh at every step, and the same for a corrector at the same λ.
    A sampler's result holds x^a exactly. It is the outermost of the wrappers.

    Args:
        denoiser: any denoiser, guided or not.
        known: x^a, (B, C, F, H, W) in [-1, 1]; finite where the mask is True, ignored elsewhere.
        mask: bool, True where known; every axis 1 or as long as that of `known`.
        seeds: one per sample, as for the samplers: give both the same.
        variance_preserving: which process z belongs to.

    Returns:
        The conditioned denoiser, for z of known's shape and device.

    Raises:
        ValueError: an argument is not as above, or (when called) z does not have known's shape and device, or
            the denoiser's prediction is of the other process.
    """
    where = "replacement"
    check_callable(where, "denoiser", denoiser)
    check_known(where, known, mask)
    check_bool(where, "variance_preserving", variance_preserving)
    seed = sample_seeds(where, seeds, len(known), known.device)

    def replaced(z: Tensor, logsnr: Tensor) -> Prediction:
        check_batched(where, "z", z)
        check_like(where, "z", z, "known", known)
        check_logsnr(where, "logsnr", logsnr, "z", z)
        alpha, sigma = broadcast_alpha_sigma(logsnr, z, variance_preserving=variance_preserving)
        noised = alpha * known + sigma * noise_at(logsnr, seed, z)
        z = torch.where(mask, noised.to(z.dtype), z)
        prediction = predict(where, denoiser, z, logsnr, variance_preserving=variance_preserving)
        x = torch.where(mask, known.to(z.dtype), prediction.x(z, logsnr))
        return Prediction(x, "x", variance_preserving=variance_preserving)

    return replaced


def noise_at(logsnr: Tensor, seed: Tensor, like: Tensor) -> Tensor:
    """Standard normals of like's shape and dtype that depend on each sample's seed and λ alone.

    The draw number is the bits of λ as a float32, above all that a sampler uses.
    """
    draw = logsnr.detach().float().contiguous().view(torch.int32).long() + _FIRST_DRAW
    size = (1, *like.shape[1:])
    rows = [philox_normal(size, seed[i : i + 1], draw[i : i + 1], dtype=like.dtype) for i in range(len(like))]
    return torch.cat(rows)

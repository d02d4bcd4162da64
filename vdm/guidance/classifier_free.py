"""Classifier-free guidance: extrapolate from an unconditional to a conditional prediction.

    prediction <- (1 + w) prediction(z, c) - w prediction(z),   w >= 0

Ho & Salimans 2022 (arXiv 2207.12598), eq. 6. The combination is linear, so it is the same in ε, x and v. It
stays lazy in the `Prediction`: a sampler's fused step does it while it reads the two outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, ModelDenoiser, Prediction, predict
from vdm.diffusion.checks import check_batched, check_callable, check_logsnr
from vdm.guidance.weight import GuidanceWeight, check_weight, is_zero, weight_at


def classifier_free_guidance(denoiser: ModelDenoiser, weight: GuidanceWeight) -> Denoiser:
    """Guide a conditional network by its own unconditional prediction, both in one batch of 2B.

    The unconditional half is the network under `conditioning.null()`. A weight of 0 given as a number is the
    conditional prediction, and costs no second half.

    Args:
        denoiser: a network with its conditioning.
        weight: w >= 0; 0 is no guidance.

    Returns:
        The guided denoiser.

    Raises:
        ValueError: denoiser is not a ModelDenoiser with a conditioning, or weight is not as above.
    """
    where = "classifier_free_guidance"
    if not isinstance(denoiser, ModelDenoiser):
        raise ValueError(f"{where}: denoiser must be a ModelDenoiser, got {type(denoiser).__name__}")
    conditioning = denoiser.conditioning
    if conditioning is None:
        raise ValueError(f"{where}: denoiser must have a conditioning to guide by, got None")
    check_weight(where, weight)
    if is_zero(weight):
        return denoiser
    both = conditioning.cat(conditioning, conditioning.null())

    def guided(z: Tensor, logsnr: Tensor) -> Prediction:
        check_batched(where, "z", z)
        check_logsnr(where, "logsnr", logsnr, "z", z)
        output = denoiser.output(torch.cat([z, z]), torch.cat([logsnr, logsnr]), both)
        value, uncond = output.chunk(2)
        return Prediction(
            value,
            denoiser.parameterization,
            uncond=uncond,
            guidance_weight=weight_at(where, weight, logsnr),
            variance_preserving=denoiser.variance_preserving,
        )

    return guided


def combine(conditional: Denoiser, unconditional: Denoiser, weight: GuidanceWeight) -> Denoiser:
    """Guide one denoiser by another: (1 + w) conditional - w unconditional.

    Two plain predictions of one parameterization stay lazy; anything else (one already guided or thresholded,
    two parameterizations) is combined as x̂.

    Args:
        conditional: the denoiser to move towards.
        unconditional: the denoiser to move away from.
        weight: w >= 0.

    Returns:
        The guided denoiser.

    Raises:
        ValueError: an argument is not as above, or (when called) the two are of different processes.
    """
    where = "combine"
    check_callable(where, "conditional", conditional)
    check_callable(where, "unconditional", unconditional)
    check_weight(where, weight)

    def guided(z: Tensor, logsnr: Tensor) -> Prediction:
        first = predict(where, conditional, z, logsnr)
        second = predict(where, unconditional, z, logsnr, variance_preserving=first.variance_preserving)
        at = weight_at(where, weight, logsnr)
        lazy = first.parameterization == second.parameterization and first.value.dtype == second.value.dtype
        if lazy and all(p.uncond is None and p.threshold is None for p in (first, second)):
            value, uncond, parameterization = first.value, second.value, first.parameterization
        else:
            value, uncond, parameterization = first.x(z, logsnr), second.x(z, logsnr), "x"
        return Prediction(
            value,
            parameterization,
            uncond=uncond,
            guidance_weight=at,
            variance_preserving=first.variance_preserving,
        )

    return guided

"""Classifier-free guidance limited to an interval of noise levels."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, ModelDenoiser, Prediction
from vdm.diffusion.checks import check_batched, check_logsnr, check_number
from vdm.guidance.classifier_free import classifier_free_guidance
from vdm.guidance.weight import GuidanceWeight, check_weight, weight_at


def interval_guidance(
    denoiser: ModelDenoiser, weight: GuidanceWeight, *, logsnr_min: float, logsnr_max: float
) -> Denoiser:
    """Classifier-free guidance where logsnr_min <= λ <= logsnr_max, the conditional prediction elsewhere.

        prediction <- (1 + w 1[λ in interval]) prediction(z, c) - w 1[λ in interval] prediction(z)

    Kynkäänniemi et al. 2024 (arXiv 2404.07724), with λ = -2 log σ for their σ. Outside the interval there is no
    second half of the batch: a step costs what it costs without guidance. (While a CUDA graph is captured, λ
    cannot be read, and both halves are computed everywhere.)

    Args:
        denoiser: a network with its conditioning.
        weight: w >= 0 inside the interval.
        logsnr_min: the noisiest λ that is guided.
        logsnr_max: the cleanest λ that is guided, at least logsnr_min.

    Returns:
        The guided denoiser.

    Raises:
        ValueError: an argument is not as above.
    """
    where = "interval_guidance"
    check_number(where, "logsnr_min", logsnr_min)
    check_number(where, "logsnr_max", logsnr_max)
    if logsnr_min > logsnr_max:
        raise ValueError(f"{where}: logsnr_min must be at most logsnr_max={logsnr_max}, got {logsnr_min}")
    check_weight(where, weight)

    def inside(logsnr: Tensor) -> Tensor:
        return (logsnr >= logsnr_min) & (logsnr <= logsnr_max)

    def limited(logsnr: Tensor) -> Tensor:
        value = weight_at(where, weight, logsnr)
        return inside(logsnr).to(torch.float32) * value

    guided = classifier_free_guidance(denoiser, limited)

    def guided_inside(z: Tensor, logsnr: Tensor) -> Prediction:
        check_batched(where, "z", z)
        check_logsnr(where, "logsnr", logsnr, "z", z)
        captured = z.is_cuda and torch.cuda.is_current_stream_capturing()
        if captured or bool(inside(logsnr).any()):
            return guided(z, logsnr)
        return denoiser(z, logsnr)

    return guided_inside

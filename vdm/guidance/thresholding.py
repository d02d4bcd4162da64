"""Thresholding of x̂, against the saturation that guidance causes.

x̂ <- clip(x̂, -s', s') / s',   s' = max(s, 1)

Saharia et al. 2022 (arXiv 2205.11487), section 2.3.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from vdm.diffusion import Denoiser, Prediction, predict
from vdm.diffusion.checks import check_callable, check_number
from vdm.diffusion.process import compute_dtype
from vdm_kernels import abs_quantile


def static_threshold(denoiser: Denoiser) -> Denoiser:
    """Clip x̂ to [-1, 1]: s = 1.

    Args:
        denoiser: an unthresholded denoiser, guided or not.

    Returns:
        The thresholded denoiser; the clipping itself is done where the prediction is used.

    Raises:
        ValueError: denoiser is not callable, or (when called) its predictions are thresholded already.
    """
    where = "static_threshold"
    check_callable(where, "denoiser", denoiser)

    def thresholded(z: Tensor, logsnr: Tensor) -> Prediction:
        return replace(_unthresholded(where, denoiser, z, logsnr), threshold=1.0)

    return thresholded


def dynamic_threshold(denoiser: Denoiser, p: float = 0.995) -> Denoiser:
    """Clip x̂ to s and divide by s, where s is the p-quantile of |x̂| of each sample, kept at 1 or above.

    The quantile is exact, over all elements of a sample, of any size.

    Args:
        denoiser: an unthresholded denoiser, guided or not.
        p: the quantile, in (0, 1].

    Returns:
        The thresholded denoiser; s is treated as a constant (no gradient flows through it).

    Raises:
        ValueError: denoiser is not callable, p is outside (0, 1], or (when called) the denoiser's predictions
            are thresholded already.
    """
    where = "dynamic_threshold"
    check_callable(where, "denoiser", denoiser)
    check_number(where, "p", p, minimum=0.0, maximum=1.0, exclusive_minimum=True)

    def thresholded(z: Tensor, logsnr: Tensor) -> Prediction:
        prediction = _unthresholded(where, denoiser, z, logsnr)
        if z.ndim < 2:
            raise ValueError(f"{where}: z must be (B, ...) with elements to rank, got shape {tuple(z.shape)}")
        x = prediction.x(z.to(compute_dtype(z)), logsnr)
        return replace(prediction, threshold=abs_quantile(x.detach(), float(p)).float())

    return thresholded


def _unthresholded(where: str, denoiser: Denoiser, z: Tensor, logsnr: Tensor) -> Prediction:
    prediction = predict(where, denoiser, z, logsnr)
    if prediction.threshold is not None:
        raise ValueError(
            f"{where}: denoiser must not be thresholded already, got threshold in its prediction"
        )
    return prediction

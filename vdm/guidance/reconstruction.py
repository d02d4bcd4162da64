"""Reconstruction guidance: conditional sampling by the gradient of how well x̂ reproduces what is known.

    x̃^b = x̂^b(z_t) - (w_r α_t / 2) ∇_{z_t^b} ||x^a - x̂^a(z_t)||²              in time (or over pixels)
    x̃   = x̂(z_t)   - (w_r α_t / 2) ∇_{z_t}   ||x^a - D(x̂(z_t))||²             in space

Ho et al. 2022 (arXiv 2204.03458), eq. 7 and 8: the sums of squares of each sample. Where both are known the two
gradients add. D is the antialiased bilinear downsampling of every frame, `interpolate(..., antialias=True)`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vdm.diffusion import Denoiser, Prediction, alpha_sigma, input_gradients, predict
from vdm.diffusion.checks import (
    check_batched,
    check_bool,
    check_callable,
    check_integer,
    check_like,
    check_logsnr,
)
from vdm.diffusion.process import compute_dtype, per_sample
from vdm.guidance.known import check_known, check_low_resolution, check_low_resolution_fits, check_video
from vdm.guidance.weight import GuidanceWeight, check_weight, is_zero, weight_at


def reconstruction_guidance(
    denoiser: Denoiser,
    weight: GuidanceWeight,
    *,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    low_resolution: Tensor | None = None,
    checkpoint: bool = False,
) -> Denoiser:
    """Move x̂ towards what reproduces the known values, the known low-resolution video, or both.

    The gradient runs back through the network to z; parameters get none. The known part of x̂ is left as it is:
    wrap the result in `replacement` with the same `known` and `mask`. A call costs a forward and a backward
    pass of the network and holds the activations of one, or with `checkpoint` two forward passes and a backward
    pass and the activations of one block.

    Args:
        denoiser: a denoiser that is differentiable in z; thresholded and classifier-free guided ones are.
        weight: w_r >= 0; 0 gives the denoiser back.
        known: x^a, (B, C, F, H, W) in [-1, 1]; finite where the mask is True, ignored elsewhere.
        mask: bool, True where known; every axis 1 or as long as that of `known`. Given with `known`.
        low_resolution: x^a in space, (B, C, F, h, w) in [-1, 1], h and w divisors of H and W.
        checkpoint: recompute the activations of each block in the backward pass (`VideoUNet`, or any network
            whose modules have an attribute `gradient_checkpointing`).

    Returns:
        The guided denoiser, which works under `torch.no_grad` and `torch.inference_mode` too.

    Raises:
        ValueError: an argument is not as above, or nothing is known; or (when called) z does not fit what is
            known, or the denoiser's prediction is not differentiable in z.
    """
    where = "reconstruction_guidance"
    check_callable(where, "denoiser", denoiser)
    check_weight(where, weight)
    check_bool(where, "checkpoint", checkpoint)
    if (known is None) != (mask is None):
        raise ValueError(
            f"{where}: known and mask must be given together, got only {'known' if mask is None else 'mask'}"
        )
    if known is None and low_resolution is None:
        raise ValueError(f"{where}: known with mask, or low_resolution, must be given, got neither")
    if known is not None:
        check_known(where, known, mask)
    if low_resolution is not None:
        check_low_resolution(where, low_resolution)
        if known is not None:
            check_low_resolution_fits(where, low_resolution, "known", known)
    if is_zero(weight):
        return denoiser
    with torch.inference_mode(False):
        known, mask, low_resolution = (
            None if value is None else _ordinary(value) for value in (known, mask, low_resolution)
        )

    def guided(z: Tensor, logsnr: Tensor) -> Prediction:
        check_batched(where, "z", z)
        check_logsnr(where, "logsnr", logsnr, "z", z)
        if known is not None:
            check_like(where, "z", z, "known", known)
        if low_resolution is not None:
            check_low_resolution_fits(where, low_resolution, "z", z)
        with input_gradients(checkpoint=checkpoint):
            leaf, level = _ordinary(z).requires_grad_(), _ordinary(logsnr)
            prediction = predict(where, denoiser, leaf, level)
            x = prediction.x(leaf.to(compute_dtype(leaf)), level)
            error = _squared_error(x, known, mask, low_resolution)
            gradient = _gradient(where, error, leaf)
        alpha, _ = alpha_sigma(logsnr, variance_preserving=prediction.variance_preserving)
        scale = per_sample(0.5 * alpha * weight_at(where, weight, logsnr), z).to(x.dtype)
        if mask is not None:
            gradient = gradient.masked_fill(mask, 0.0)
        x = (x.detach() - scale * gradient).to(z.dtype)
        return Prediction(x, "x", variance_preserving=prediction.variance_preserving)

    return guided


def downsample(x: Tensor, height: int, width: int) -> Tensor:
    """D: every frame of a video to (height, width), antialiased bilinear; differentiable.

    `torch.nn.functional.interpolate(..., mode="bilinear", antialias=True)`, which is what Pillow and torchvision
    do: for a factor r the triangle filter of half-width r pixels.

    Args:
        x: (B, C, F, H, W).
        height: h, a divisor of H.
        width: w, a divisor of W.

    Returns:
        (B, C, F, h, w), in x's dtype.

    Raises:
        ValueError: x is no video, or h and w do not divide its height and width.
    """
    where = "downsample"
    check_video(where, "x", x)
    for name, value, full in (("height", height, x.shape[-2]), ("width", width, x.shape[-1])):
        check_integer(where, name, value, minimum=1)
        if full % value:
            raise ValueError(f"{where}: {name} must divide x's {full}, got {value}")
    frames = x.transpose(1, 2).flatten(0, 1)
    small = functional.interpolate(
        frames, (int(height), int(width)), mode="bilinear", align_corners=False, antialias=True
    )
    return small.unflatten(0, (len(x), -1)).transpose(1, 2)


def _squared_error(
    x: Tensor, known: Tensor | None, mask: Tensor | None, low_resolution: Tensor | None
) -> Tensor:
    """||x^a - x̂^a||² + ||x^a - D(x̂)||², summed over the samples too, which do not depend on each other."""
    error = x.new_zeros(())
    if known is not None and mask is not None:
        error = error + torch.where(mask, known - x, 0.0).square().sum()
    if low_resolution is not None:
        error = error + (low_resolution - downsample(x, *low_resolution.shape[-2:])).square().sum()
    return error


def _gradient(where: str, error: Tensor, z: Tensor) -> Tensor:
    gradient = torch.autograd.grad(error, z, allow_unused=True)[0] if error.requires_grad else None
    if gradient is None:
        raise ValueError(
            f"{where}: denoiser must be differentiable in z, got a prediction without a gradient"
        )
    return gradient


def _ordinary(value: Tensor) -> Tensor:
    """`value` apart from any graph, and as a tensor that autograd may save where it comes from inference mode."""
    return value.clone() if value.is_inference() else value.detach()

"""Any values given any values: the one call under extension, interpolation, upscaling and inpainting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from vdm.diffusion import Denoiser
from vdm.diffusion.checks import check_bool, check_callable, check_choice
from vdm.guidance import GuidanceWeight, reconstruction_guidance, replacement
from vdm.guidance.known import check_known, check_low_resolution, check_low_resolution_fits
from vdm.guidance.weight import check_weight
from vdm.samplers.loop import Callback, Seeds, sample_seeds

Sampler: TypeAlias = Callable[..., Tensor]
"""A function of `vdm.samplers`, its own arguments bound: `partial(ancestral, schedule=..., num_steps=256, gamma=0.1)`.

It is called as sampler(denoiser, shape, seeds=..., callback=..., device=..., dtype=...).
"""

Method: TypeAlias = Literal["reconstruction", "replacement"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class ConditionalSampler:
    """How what is unknown is drawn given what is known, without a model that was trained for it.

    The sampler is given

        replacement(threshold(reconstruction_guidance(denoiser, weight, ...)), ...)

    with the reconstruction guidance left out of the method "replacement".

    Attributes:
        denoiser: any denoiser, classifier-free guided or not, of the frames of one block.
        sampler: a sampler with everything bound but denoiser, shape, seeds, callback, device and dtype.
        method: "reconstruction" (guidance, with replacement of the known part) or "replacement" alone.
        weight: w_r >= 0 of reconstruction guidance; given exactly with that method. 0 is replacement.
        threshold: denoiser -> denoiser applied to what guidance gives, as `static_threshold`; None for none.
        checkpoint: save memory in the gradient of reconstruction guidance, for a second forward pass.
        variance_preserving: which process the denoiser and the sampler are of.
        callback: the sampler's, called at every step (of every block).

    Raises:
        ValueError: an argument is not as above.
    """

    denoiser: Denoiser
    sampler: Sampler
    method: Method = "reconstruction"
    weight: GuidanceWeight | None = None
    threshold: Callable[[Denoiser], Denoiser] | None = None
    checkpoint: bool = False
    variance_preserving: bool = True
    callback: Callback | None = None

    def __post_init__(self) -> None:
        where = "ConditionalSampler"
        check_callable(where, "denoiser", self.denoiser)
        check_callable(where, "sampler", self.sampler)
        check_choice(where, "method", self.method, METHODS)
        if self.method == "reconstruction":
            check_weight(where, self.weight)
        elif self.weight is not None:
            raise ValueError(f"{where}: weight must be None with method='replacement', got {self.weight!r}")
        if self.threshold is not None:
            check_callable(where, "threshold", self.threshold)
        check_bool(where, "checkpoint", self.checkpoint)
        check_bool(where, "variance_preserving", self.variance_preserving)
        if self.callback is not None:
            check_callable(where, "callback", self.callback)


def complete(
    how: ConditionalSampler,
    known: Tensor,
    mask: Tensor,
    *,
    seeds: Seeds,
    low_resolution: Tensor | None = None,
) -> Tensor:
    """Draw what is unknown of a video given what is known: x^b ~ p(x^b | x^a).

    Ho et al. 2022 (arXiv 2204.03458), section 3.1. The methods are approximate; docs/guidance.md says how good.

    Args:
        how: denoiser, sampler and method.
        known: x^a, (B, C, F, H, W) in [-1, 1]; finite where the mask is True, ignored elsewhere. Device and
            dtype of the result.
        mask: bool, True where known; every axis 1 or as long as that of `known`. All False needs
            `low_resolution`.
        seeds: one per sample, as for the samplers.
        low_resolution: the whole video at a lower resolution, (B, C, F, h, w) in [-1, 1], h and w divisors of H
            and W, to be reproduced by the antialiased bilinear downsampling of the result.

    Returns:
        (B, C, F, H, W), equal to `known` where the mask is True. No gradient is recorded.

    Raises:
        ValueError: an argument is not as above; nothing or everything is known; low_resolution is given with
            the method "replacement"; (at the first step) the denoiser returns anything else than a Prediction
            of known's shape.
    """
    where = "complete"
    check_how(where, how)
    check_known(where, known, mask)
    if bool(mask.all()):
        raise ValueError(f"{where}: mask must leave something to draw, got all True")
    if low_resolution is None and not bool(mask.any()):
        raise ValueError(f"{where}: mask must be True somewhere without low_resolution, got all False")
    return draw(where, how, known, mask, seeds=seeds, low_resolution=low_resolution)


def check_how(where: str, how: object) -> None:
    """Require a ConditionalSampler."""
    if not isinstance(how, ConditionalSampler):
        raise ValueError(f"{where}: how must be a ConditionalSampler, got {type(how).__name__}")


def draw(
    where: str,
    how: ConditionalSampler,
    known: Tensor,
    mask: Tensor,
    *,
    seeds: Seeds,
    low_resolution: Tensor | None = None,
) -> Tensor:
    """`complete` for checked known and mask, and for nothing known too."""
    if low_resolution is not None:
        check_low_resolution(where, low_resolution)
        check_low_resolution_fits(where, low_resolution, "known", known)
        if how.method == "replacement":
            raise ValueError(
                f"{where}: low_resolution must come with method='reconstruction', got 'replacement'"
            )
    seed = sample_seeds(where, seeds, len(known), known.device)
    some = bool(mask.any())
    denoiser = how.denoiser
    if how.weight is not None and (some or low_resolution is not None):
        denoiser = reconstruction_guidance(
            denoiser,
            how.weight,
            known=known if some else None,
            mask=mask if some else None,
            low_resolution=low_resolution,
            checkpoint=how.checkpoint,
        )
    if how.threshold is not None:
        denoiser = how.threshold(denoiser)
    if some:
        denoiser = replacement(denoiser, known, mask, seeds=seed, variance_preserving=how.variance_preserving)
    with torch.no_grad():
        return how.sampler(
            denoiser,
            tuple(known.shape),
            seeds=seed,
            callback=how.callback,
            device=known.device,
            dtype=known.dtype,
        )

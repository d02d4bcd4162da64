"""Guidance, thresholding and conditioning on known values: each takes a denoiser and gives a denoiser."""

from vdm.guidance.classifier_free import classifier_free_guidance, combine
from vdm.guidance.interval import interval_guidance
from vdm.guidance.oscillating import oscillating_guidance
from vdm.guidance.reconstruction import downsample, reconstruction_guidance
from vdm.guidance.replacement import replacement
from vdm.guidance.thresholding import dynamic_threshold, static_threshold
from vdm.guidance.weight import GuidanceWeight

__all__ = [
    "GuidanceWeight",
    "classifier_free_guidance",
    "combine",
    "downsample",
    "dynamic_threshold",
    "interval_guidance",
    "oscillating_guidance",
    "reconstruction_guidance",
    "replacement",
    "static_threshold",
]

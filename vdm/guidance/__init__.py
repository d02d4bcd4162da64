"""Guidance and thresholding: each takes a denoiser and gives a denoiser."""

from vdm.guidance.classifier_free import GuidanceWeight, classifier_free_guidance, combine
from vdm.guidance.thresholding import dynamic_threshold, static_threshold

__all__ = ["GuidanceWeight", "classifier_free_guidance", "combine", "dynamic_threshold", "static_threshold"]

"""Checks of what a video is conditioned on: known values under a mask, a known low-resolution video."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm.diffusion.checks import check_floating, check_readable


def check_known(where: str, known: object, mask: object) -> None:
    """Require known (B, C, F, H, W), and a bool mask over it (every axis 1 or as long) that covers no NaN or inf."""
    check_video(where, "known", known)
    assert isinstance(known, Tensor)
    check_mask(where, mask, tuple(known.shape), known.device)
    assert isinstance(mask, Tensor)
    bad = int((~known.isfinite() & mask).sum())
    if bad:
        raise ValueError(
            f"{where}: known must be finite where mask is True, got {bad} values that are NaN or infinite"
        )


def check_mask(where: str, mask: object, shape: tuple[int, ...], device: torch.device) -> None:
    """Require a bool mask over a video of `shape`: every axis 1 or as long."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        came = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{where}: mask must be a torch.Tensor of torch.bool, got {came}")
    check_readable(where, "mask", mask)
    fits = mask.ndim == 5 and all(length in (1, full) for length, full in zip(mask.shape, shape))
    if not fits:
        raise ValueError(
            f"{where}: mask must have five axes, each 1 or as in the known video's shape {tuple(shape)},"
            f" got shape {tuple(mask.shape)}"
        )
    if mask.device != device:
        raise ValueError(f"{where}: mask must be on the known video's device {device}, got {mask.device}")


def check_low_resolution(where: str, low_resolution: object) -> None:
    """Require a finite (B, C, F, h, w)."""
    check_video(where, "low_resolution", low_resolution)
    assert isinstance(low_resolution, Tensor)
    bad = int((~low_resolution.isfinite()).sum())
    if bad:
        raise ValueError(f"{where}: low_resolution must be finite, got {bad} values that are NaN or infinite")


def check_low_resolution_fits(where: str, low_resolution: Tensor, name: str, video: Tensor) -> None:
    """Require low_resolution to be of the shape (B, C, F, H, W) of `video`, with h and w divisors of H and W."""
    *leading, height, width = video.shape
    low_height, low_width = low_resolution.shape[-2:]
    if list(low_resolution.shape[:-2]) != leading or height % low_height or width % low_width:
        raise ValueError(
            f"{where}: low_resolution must be (B, C, F, h, w) for {name} (B, C, F, H, W) of shape"
            f" {tuple(video.shape)}, with h and w divisors of H and W, got shape {tuple(low_resolution.shape)}"
        )
    if low_resolution.device != video.device:
        raise ValueError(
            f"{where}: low_resolution must be on {name}'s device {video.device}, got {low_resolution.device}"
        )


def check_video(where: str, name: str, value: object) -> None:
    """Require a floating-point (B, C, F, H, W) with data and no empty axis."""
    check_floating(where, name, value)
    assert isinstance(value, Tensor)
    check_readable(where, name, value)
    if value.ndim != 5 or value.numel() == 0:
        raise ValueError(
            f"{where}: {name} must be (B, C, F, H, W), none of them 0, got shape {tuple(value.shape)}"
        )

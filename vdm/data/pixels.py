"""Between videos in [-1, 1] and 8-bit pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Luma of ITU-R BT.601; the weights add up to one, so grey stays what it is.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def from_uint8(frames: np.ndarray) -> Tensor:
    """Returns a video (C, F, H, W) float32 in [-1, 1] from frames (F, H, W, C) uint8: x = 2 p / 255 - 1."""
    video = np.moveaxis(frames, -1, 0).astype(np.float32)
    video *= np.float32(2 / 255)
    video -= np.float32(1)
    return torch.from_numpy(np.ascontiguousarray(video))


def to_uint8(where: str, name: str, video: Tensor) -> np.ndarray:
    """Returns 8-bit frames of a video: p = round(255 (x + 1) / 2) with x clamped to [-1, 1].

    Args:
        where, name: for error messages.
        video: (..., C, F, H, W), C 1 or 3, uint8 or floating point.

    Returns:
        (..., F, H, W, C) uint8, contiguous.

    Raises:
        ValueError: not such a tensor, or it contains NaN or infinity.
    """
    if not isinstance(video, Tensor) or not (video.dtype == torch.uint8 or video.is_floating_point()):
        got = str(video.dtype) if isinstance(video, Tensor) else type(video).__name__
        raise ValueError(f"{where}: {name} must be a floating point or uint8 tensor, got {got}")
    if video.ndim < 4 or video.numel() == 0 or video.shape[-4] not in (1, 3):
        raise ValueError(
            f"{where}: {name} must have shape (..., C, F, H, W), not empty, with C 1 or 3, "
            f"got {tuple(video.shape)}"
        )
    video = video.detach().cpu().movedim(-4, -1)
    if video.dtype == torch.uint8:
        return np.ascontiguousarray(video.numpy())
    video = video.to(torch.promote_types(video.dtype, torch.float32))
    if not bool(video.isfinite().all()):
        raise ValueError(f"{where}: {name} must be finite, got NaN or infinity")
    return np.ascontiguousarray(((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())


def frames_to_uint8(where: str, frames: Tensor, shape: tuple[int, ...] | None) -> np.ndarray:
    """Returns what is appended to a file as 8-bit frames, checked to be like those before.

    Args:
        where: for error messages.
        frames: (C, F, H, W), or (C, H, W) for one; else as for `to_uint8`.
        shape: (H, W, C) of the frames before, None for the first ones.

    Returns:
        (F, H, W, C) uint8, contiguous.

    Raises:
        ValueError: not such a tensor, or it contains NaN or infinity.
    """
    if isinstance(frames, Tensor) and frames.ndim == 3:
        frames = frames[:, None]
    pixels = to_uint8(where, "frames", frames)
    if pixels.ndim != 4 or shape not in (None, pixels.shape[1:]):
        wanted = "(C, F, H, W) or (C, H, W)"
        if shape is not None:
            wanted += f" with C={shape[2]}, H={shape[0]}, W={shape[1]}"
        raise ValueError(f"{where}: frames must have shape {wanted}, got {tuple(frames.shape)}")
    return pixels


def to_grey(frames: np.ndarray) -> np.ndarray:
    """Returns the luma of frames (..., 3) uint8: (..., 1) uint8."""
    return np.rint(frames @ _LUMA).astype(np.uint8)[..., None]


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel of frames (..., H, W, C) `scale` times in both directions."""
    return frames if scale == 1 else frames.repeat(scale, axis=-3).repeat(scale, axis=-2)

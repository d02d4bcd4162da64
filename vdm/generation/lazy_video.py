"""A video that is read a window at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vdm.diffusion.checks import check_callable, check_integer, checked_device
from vdm.guidance.known import check_video


@dataclass(frozen=True)
class LazyVideo:
    """A video that is read a window at a time, for those that do not fit in memory.

    Attributes:
        shape: (B, C, F, H, W).
        read: (start, stop) -> frames start .. stop - 1, (B, C, stop - start, H, W).
        dtype: of what is read.
        device: of what is read.

    Raises:
        ValueError: an argument is not as above.
    """

    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        where = "LazyVideo"
        if not isinstance(self.shape, (tuple, list)) or len(self.shape) != 5:
            raise ValueError(f"{where}: shape must be (B, C, F, H, W), got {self.shape!r}")
        for length in self.shape:
            check_integer(where, "shape", length, minimum=1)
        check_callable(where, "read", self.read)
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise ValueError(f"{where}: dtype must be a floating-point torch.dtype, got {self.dtype!r}")
        if checked_device(where, self.device) is None:
            raise ValueError(f"{where}: device must be a torch device, got None")

    @staticmethod
    def of(where: str, name: str, video: object) -> LazyVideo:
        """A tensor as a LazyVideo, a LazyVideo as it is.

        Raises:
            ValueError: `video` is neither, or no floating-point (B, C, F, H, W).
        """
        if isinstance(video, LazyVideo):
            return video
        check_video(where, name, video)
        assert isinstance(video, Tensor)
        return LazyVideo(
            tuple(video.shape), lambda start, stop: video[:, :, start:stop], video.dtype, video.device
        )

    def frames(self, where: str, name: str, start: int, stop: int) -> Tensor:
        """`read(start, stop)`, checked.

        Raises:
            ValueError: what is read has another shape, dtype or device.
        """
        frames = self.read(start, stop)
        batch, channels, _, height, width = self.shape
        check_video(where, name, frames)
        if frames.shape != (batch, channels, stop - start, height, width):
            raise ValueError(
                f"{where}: {name} must give {(batch, channels, stop - start, height, width)} for frames"
                f" {start} to {stop}, got {tuple(frames.shape)}"
            )
        if frames.dtype != self.dtype or frames.device != torch.empty(0, device=self.device).device:
            raise ValueError(
                f"{where}: {name} must be {self.dtype} on {self.device}, got {frames.dtype} on {frames.device}"
            )
        return frames

    def zeros(self, num_frames: int, *, size: tuple[int, int] | None = None) -> Tensor:
        """An empty window: zeros (B, C, num_frames, H, W), or of another (H, W)."""
        height, width = self.shape[3:] if size is None else size
        return torch.zeros(*self.shape[:2], num_frames, height, width, dtype=self.dtype, device=self.device)

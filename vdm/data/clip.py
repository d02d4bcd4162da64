"""What a data set hands out: one clip, and a batch of clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Clip:
    """One training draw.

    Attributes:
        video: (C, F, H, W) float32 in [-1, 1]; the last `num_image_frames` of F are images of their own.
        label: class index; or, where frames differ, (F,) int64; or None where there are no classes.
        caption: text, or None where the data has no captions.
        fps: frames per second of the clip as it is, after skipping or resampling.
        num_image_frames: how many entries at the end of the F axis are independent images (joint training).
        image_captions: one text for each of these, or None.
    """

    video: Tensor
    label: int | Tensor | None
    caption: str | None
    fps: float
    num_image_frames: int = 0
    image_captions: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Batch:
    """Clips of one shape, stacked.

    Attributes:
        video: (B, C, F, H, W) float32 in [-1, 1].
        labels: (B,) int64, or (B, F) int64 where labels are per frame, or None.
        captions: B strings, or None.
        fps: (B,) float32.
        num_image_frames: the same for every row.
        image_captions: B times `num_image_frames` strings, or None.
    """

    video: Tensor
    labels: Tensor | None
    captions: list[str] | None
    fps: Tensor
    num_image_frames: int = 0
    image_captions: list[tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return self.video.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Returns the batch with its tensors on `device`."""
        return dataclasses.replace(
            self,
            video=self.video.to(device, non_blocking=non_blocking),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=non_blocking),
            fps=self.fps.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory (what `DataLoader(pin_memory=True)` calls)."""
        return dataclasses.replace(
            self,
            video=self.video.pin_memory(),
            labels=None if self.labels is None else self.labels.pin_memory(),
            fps=self.fps.pin_memory(),
        )


def collate(clips: Sequence[Clip]) -> Batch:
    """Stacks clips into a batch; a `collate_fn` for `torch.utils.data.DataLoader`.

    Raises:
        ValueError: no clips; clips of different shapes; some with and some without label or caption; labels
            per clip and per frame mixed; or different `num_image_frames`.
    """
    if len(clips) == 0:
        raise ValueError("collate: at least one clip is needed, got none")
    shapes = {tuple(clip.video.shape) for clip in clips}
    if len(shapes) > 1:
        raise ValueError(f"collate: clips must have one shape (C, F, H, W), got {sorted(shapes)}")
    image_frames = {clip.num_image_frames for clip in clips}
    if len(image_frames) > 1:
        raise ValueError(f"collate: clips must agree on num_image_frames, got {sorted(image_frames)}")
    return Batch(
        video=torch.stack([clip.video for clip in clips]),
        labels=_stack_labels(clips),
        captions=_all_or_none([clip.caption for clip in clips], "a caption"),
        fps=torch.tensor([clip.fps for clip in clips], dtype=torch.float32),
        num_image_frames=image_frames.pop(),
        image_captions=_all_or_none([clip.image_captions for clip in clips], "image captions"),
    )


def _all_or_none(values: Sequence[Value | None], what: str) -> list[Value] | None:
    present = [value for value in values if value is not None]
    if len(present) not in (0, len(values)):
        raise ValueError(
            f"collate: all clips or none must have {what}, got {len(present)} of {len(values)} with it"
        )
    return present or None


def _stack_labels(clips: Sequence[Clip]) -> Tensor | None:
    labels = _all_or_none([clip.label for clip in clips], "a label")
    if labels is None:
        return None
    per_frame = [label for label in labels if isinstance(label, Tensor)]
    if len(per_frame) not in (0, len(labels)):
        raise ValueError(
            "collate: labels must all be per clip or all per frame, "
            f"got {len(per_frame)} of {len(labels)} per frame"
        )
    if per_frame:
        return torch.stack(per_frame).to(torch.int64)
    return torch.tensor(labels, dtype=torch.int64)

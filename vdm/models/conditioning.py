"""What a video is conditioned on, as one value that batches, drops and moves between devices."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The conditions of a batch of B rows of F frames; every field is optional.

    Args:
        labels: (B,) or per frame (B, F), int64; index num_classes is the null class.
        text_embedding: (B, D) or per frame (B, F, D), a pooled text embedding.
        text_tokens: (B, L, D), token embeddings for cross-attention.
        text_mask: (B, L) bool, True where a token is real; None = all are.
        fps: (B,), frames per second, > 0.
        frame_positions: (B, F) integers, the frames' real indices; None = 0..F-1.
        low_res: (B, C, F', H', W') in [-1, 1], F' a divisor of F (of the video frames; images have one each).
        low_res_logsnr: (B,), the log signal-to-noise ratio of the noise in low_res.
        known_frames: (B, C, F, H, W); what is not under the mask is ignored.
        known_mask: (B, F) or (B, 1, F, H, W), 1 where known.
        drop: (B,) bool, rows whose class and text are replaced by the learned null (classifier-free
            guidance).
        num_image_frames: the last K entries of the F axis are independent images.
    """

    labels: Tensor | None = None
    text_embedding: Tensor | None = None
    text_tokens: Tensor | None = None
    text_mask: Tensor | None = None
    fps: Tensor | None = None
    frame_positions: Tensor | None = None
    low_res: Tensor | None = None
    low_res_logsnr: Tensor | None = None
    known_frames: Tensor | None = None
    known_mask: Tensor | None = None
    drop: Tensor | None = None
    num_image_frames: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are given, by field name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def null(self) -> Conditioning:
        """The same conditions with class and text dropped in every row: the other half of guidance."""
        given = self.tensors()
        if not given:
            return self
        first = next(iter(given.values()))
        return replace(self, drop=torch.ones(first.shape[0], dtype=torch.bool, device=first.device))

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditions on another device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self.tensors().items()}
        return replace(self, **moved)

    @staticmethod
    def cat(a: Conditioning, b: Conditioning) -> Conditioning:
        """The rows of a followed by the rows of b.

        Raises:
            ValueError: a field is given in one only (`drop` and `text_mask` have a default, others do not),
                or shapes other than the batch differ.
        """
        if a.num_image_frames != b.num_image_frames:
            raise ValueError(
                f"Conditioning.cat: num_image_frames must be equal, got {a.num_image_frames} and "
                f"{b.num_image_frames}"
            )
        left, right = a.tensors(), b.tensors()
        for one, other in ((left, right), (right, left)):
            if "drop" in one and "drop" not in other and other:
                first = next(iter(other.values()))
                other["drop"] = torch.zeros(first.shape[0], dtype=torch.bool, device=first.device)
            if "text_mask" in one and "text_mask" not in other and "text_tokens" in other:
                tokens = other["text_tokens"]
                other["text_mask"] = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if left.keys() != right.keys():
            names = ", ".join(sorted(left.keys() ^ right.keys()))
            raise ValueError(
                f"Conditioning.cat: a field must be given in both or in neither, got one of: {names}"
            )
        for name, value in left.items():
            if value.shape[1:] != right[name].shape[1:]:
                raise ValueError(
                    f"Conditioning.cat: {name} must have equal shapes after the batch, got "
                    f"{tuple(value.shape)} and {tuple(right[name].shape)}"
                )
        joined: dict[str, Any] = {name: torch.cat([value, right[name]]) for name, value in left.items()}
        return replace(a, **joined)

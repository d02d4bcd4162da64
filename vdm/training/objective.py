"""The training objective of one micro-batch: noise the videos, predict, and weigh the error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn

from vdm.data import Batch
from vdm.diffusion import Schedule, diffusion_loss
from vdm.models import Conditioning
from vdm.training.config import Config
from vdm.training.randomness import conditioning_drop, global_times, noise_seeds
from vdm_kernels import q_sample

# Boundaries in λ of the ranges whose loss is logged, about quartiles of t under the cosine schedule; and the names of
# the ranges in the log, from low to high.
LOGSNR_EDGES = (-2.0, 0.0, 2.0)
LOGSNR_LOSSES = (
    f"loss_logsnr_under_{LOGSNR_EDGES[0]:g}",
    *(f"loss_logsnr_{low:g}_to_{high:g}" for low, high in pairwise(LOGSNR_EDGES)),
    f"loss_logsnr_over_{LOGSNR_EDGES[-1]:g}",
)


@dataclass(frozen=True)
class TextEmbedding:
    """What a frozen text encoder says about N texts.

    Attributes:
        pooled: (N, D), one vector per text; None where the model takes none.
        tokens: (N, L, D'), one vector per token; None where the model takes none.
        mask: (N, L) bool, True where a token is real; None = all are.
    """

    pooled: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None


TextEncoder: TypeAlias = Callable[[list[str]], TextEmbedding]


@dataclass(frozen=True)
class Objective:
    """What turns (network, batch, step) into losses.

        L = w(λ_t) mean((x̂ - x)²) per row,   z_t = α_t x + σ_t ε

    t is stratified over the global batch; t, ε and the conditioning dropout are functions of (run seed, step, row).
    """

    config: Config
    schedule: Schedule
    text_encoder: TextEncoder | None = None

    def __call__(
        self, model: nn.Module, batch: Batch, *, step: int, rows: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Losses of some rows of step's global batch.

        Args:
            model: the network.
            batch: the rows' videos, on the network's device.
            step: step number, from 0.
            rows: the rows' numbers within the global batch.

        Returns:
            (loss, logsnr), each (len(rows),) float32.
        """
        training, diffusion = self.config.training, self.config.diffusion
        x, device = batch.video, batch.video.device
        t = global_times(training.seed, step, training.batch_size)[rows[0] : rows[-1] + 1]
        logsnr = self.schedule(t).to(device)
        seeds = noise_seeds(training.seed, step, rows).to(device)
        vp = self.schedule.variance_preserving
        z, eps = q_sample(x, logsnr, seeds, 0, variance_preserving=vp)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.precision == "bf16"):
            output = model(z, logsnr, self.conditioning(batch, step=step, rows=rows))
        loss = diffusion_loss(
            output.float(),
            x,
            eps,
            logsnr,
            parameterization=diffusion.parameterization,
            weight=diffusion.loss_weight,
            min_snr_gamma=diffusion.min_snr_gamma,
            variance_preserving=vp,
        )
        return loss, logsnr

    def conditioning(self, batch: Batch, *, step: int, rows: Sequence[int]) -> Conditioning:
        """What the network is told about the rows; class and text are dropped with some probability."""
        model, training, device = self.config.model, self.config.training, batch.video.device
        labels = batch.labels if model.num_classes is not None else None
        text = self._text(batch)
        drop = None
        droppable = any(value is not None for value in (labels, text.pooled, text.tokens))
        if droppable and training.conditioning_dropout > 0:
            drop = conditioning_drop(training.seed, step, rows, probability=training.conditioning_dropout)
            drop = drop.to(device)
        return Conditioning(
            labels=labels,
            text_embedding=text.pooled,
            text_tokens=text.tokens,
            text_mask=text.mask,
            fps=batch.fps if model.fps_conditioning else None,
            drop=drop,
            num_image_frames=batch.num_image_frames,
        )

    @torch.no_grad()
    def _text(self, batch: Batch) -> TextEmbedding:
        """The captions' embeddings on the network's device: (B, D), or (B, F + K, D) where images have their own."""
        if self.text_encoder is None or batch.captions is None:
            return TextEmbedding()
        video, device = batch.video, batch.video.device
        text = self.text_encoder(batch.captions)
        pooled = None if text.pooled is None else text.pooled.to(device)
        if pooled is not None and batch.image_captions is not None:
            captions = [caption for row in batch.image_captions for caption in row]
            images = self.text_encoder(captions).pooled
            assert images is not None
            frames = video.shape[2] - batch.num_image_frames
            own = images.to(device).unflatten(0, (len(batch), batch.num_image_frames))
            pooled = torch.cat([pooled[:, None].expand(-1, frames, -1), own], dim=1)
        return TextEmbedding(
            pooled,
            None if text.tokens is None else text.tokens.to(device),
            None if text.mask is None else text.mask.to(device),
        )


def loss_by_logsnr(loss: Tensor, logsnr: Tensor) -> dict[str, list[float]]:
    """Losses grouped by range of λ, by the name they are logged under; empty ranges are left out."""
    groups: dict[str, list[float]] = {}
    for value, level in zip(loss.tolist(), logsnr.tolist()):
        number = sum(level >= edge for edge in LOGSNR_EDGES)
        groups.setdefault(LOGSNR_LOSSES[number], []).append(value)
    return groups

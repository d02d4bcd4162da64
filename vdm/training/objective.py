"""The training objective of one micro-batch: noise the videos, predict, and weigh the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vdm.data import Batch
from vdm.diffusion import Schedule, diffusion_loss
from vdm.models import Conditioning
from vdm.training.config import Config
from vdm.training.randomness import conditioning_drop, global_times, noise_seeds
from vdm_kernels import q_sample

# Boundaries in λ of the ranges whose loss is logged; about quartiles of t under the cosine schedule.
LOGSNR_EDGES = (-2.0, 0.0, 2.0)


@dataclass(frozen=True)
class Objective:
    """What turns (network, batch, step) into losses.

    L = w(λ_t) mean((x̂ - x)²) per row, z_t = α_t x + σ_t ε, with t stratified over the global batch and t, ε and the
    conditioning dropout functions of (run seed, step, row).
    """

    config: Config
    schedule: Schedule

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
        """What the network is told about the rows: class (dropped with some probability), rate, images."""
        model, training = self.config.model, self.config.training
        labels = batch.labels if model.num_classes is not None else None
        drop = None
        if labels is not None and training.conditioning_dropout > 0:
            drop = conditioning_drop(training.seed, step, rows, probability=training.conditioning_dropout)
            drop = drop.to(batch.video.device)
        return Conditioning(
            labels=labels,
            fps=batch.fps if model.fps_conditioning else None,
            drop=drop,
            num_image_frames=batch.num_image_frames,
        )


def loss_by_logsnr(loss: Tensor, logsnr: Tensor) -> dict[str, list[float]]:
    """Losses grouped by range of λ, by the name they are logged under; empty ranges are left out."""
    bounds = [float("-inf"), *LOGSNR_EDGES, float("inf")]
    names = [f"loss_logsnr_under_{LOGSNR_EDGES[0]:g}"]
    names += [f"loss_logsnr_{low:g}_to_{high:g}" for low, high in zip(LOGSNR_EDGES, LOGSNR_EDGES[1:])]
    names += [f"loss_logsnr_over_{LOGSNR_EDGES[-1]:g}"]
    groups: dict[str, list[float]] = {}
    for value, level in zip(loss.tolist(), logsnr.tolist()):
        index = sum(level >= bound for bound in bounds[1:-1])
        groups.setdefault(names[index], []).append(value)
    return groups

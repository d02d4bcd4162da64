"""The conditioning embedding: noise level, class, text, fps, augmentation level as one vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vdm.models.conditioning import Conditioning
from vdm.models.config import VideoUNetConfig

NUM_FREQUENCIES = 64


def fourier_features(values: Tensor) -> Tensor:
    """`[sin(w_k v), cos(w_k v)]` over frequencies w_k spaced geometrically from 1/32 to 8.

    The slowest resolves the whole range of a log signal-to-noise ratio (a quarter period is about 50), the
    fastest differences of a tenth. Computed in float32 at least, whatever the model's dtype is.

    Args:
        values: (...), any floating dtype.

    Returns:
        (..., 2 * NUM_FREQUENCIES) float32, or float64 for float64 values.
    """
    values = values if values.dtype == torch.float64 else values.float()
    exponents = torch.linspace(
        -5 * math.log(2), 3 * math.log(2), NUM_FREQUENCIES, device=values.device, dtype=values.dtype
    )
    angles = values.unsqueeze(-1) * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConditioningEmbedding(nn.Module):
    """One linear map per condition, summed, then `embedding_layers - 1` times SiLU and linear, then SiLU.

    The last SiLU belongs to the residual blocks' projections of the embedding; doing it here does it once.
    """

    def __init__(self, config: VideoUNetConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        features = 2 * NUM_FREQUENCIES
        self.logsnr = nn.Linear(features, width)
        self.label = nn.Embedding(config.num_classes + 1, width) if config.num_classes is not None else None
        self.text = (
            nn.Linear(config.text_embedding_dim, width) if config.text_embedding_dim is not None else None
        )
        self.null_text = (
            nn.Parameter(0.02 * torch.randn(width)) if config.text_embedding_dim is not None else None
        )
        self.fps = nn.Linear(features, width) if config.fps_conditioning else None
        self.low_res_logsnr = nn.Linear(features, width) if config.low_res_channels else None
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(config.embedding_layers - 1))

    def forward(self, logsnr: Tensor, conditioning: Conditioning) -> Tensor:
        """The embedding of each row (B, E), or of each frame (B, F, E) where a condition is given per frame.

        Args:
            logsnr: (B,) noise level of the video.
            conditioning: checked against the configuration by the model.
        """
        dtype = self.logsnr.weight.dtype
        terms = [self.logsnr(fourier_features(logsnr).to(dtype))]
        if self.fps is not None and conditioning.fps is not None:
            terms.append(self.fps(fourier_features(conditioning.fps.to(logsnr.dtype).log()).to(dtype)))
        if self.low_res_logsnr is not None and conditioning.low_res_logsnr is not None:
            terms.append(self.low_res_logsnr(fourier_features(conditioning.low_res_logsnr).to(dtype)))
        if self.label is not None and conditioning.labels is not None:
            terms.append(self._label(self.label, conditioning.labels, conditioning.drop))
        if self.text is not None and self.null_text is not None and conditioning.text_embedding is not None:
            projected = self.text(conditioning.text_embedding.to(dtype))
            terms.append(_where_dropped(conditioning.drop, self.null_text.to(projected.dtype), projected))
        per_frame = any(term.ndim == 3 for term in terms)
        embedding = terms[0].unsqueeze(1) if per_frame else terms[0]
        for term in terms[1:]:
            embedding = embedding + (term.unsqueeze(1) if per_frame and term.ndim == 2 else term)
        for layer in self.layers:
            embedding = layer(functional.silu(embedding))
        return functional.silu(embedding)

    @staticmethod
    def _label(table: nn.Embedding, labels: Tensor, drop: Tensor | None) -> Tensor:
        null = torch.full_like(labels, table.num_embeddings - 1)
        embedded: Tensor = table(_where_dropped(drop, null, labels))
        return embedded


def _where_dropped(drop: Tensor | None, null: Tensor, value: Tensor) -> Tensor:
    """`null` in the dropped rows and `value` in the others."""
    if drop is None:
        return value
    return torch.where(drop.view(-1, *[1] * (value.ndim - 1)), null, value)

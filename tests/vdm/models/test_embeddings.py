from __future__ import annotations

import torch

from vdm.models import Conditioning, VideoUNetConfig
from vdm.models.embeddings import NUM_FREQUENCIES, ConditioningEmbedding, fourier_features


def test_fourier_features_are_sines_and_cosines_of_a_geometric_grid() -> None:
    values = torch.tensor([-20.0, 0.0, 3.7], dtype=torch.float64)
    features = fourier_features(values)
    ratio = (8 / (1 / 32)) ** (1 / (NUM_FREQUENCIES - 1))
    frequencies = torch.tensor([ratio**k / 32 for k in range(NUM_FREQUENCIES)], dtype=torch.float64)
    torch.testing.assert_close(features[:, :NUM_FREQUENCIES], (values[:, None] * frequencies).sin())
    torch.testing.assert_close(features[:, NUM_FREQUENCIES:], (values[:, None] * frequencies).cos())


def test_fourier_features_of_low_precision_values_are_float32() -> None:
    assert fourier_features(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32


def test_noise_levels_over_the_whole_range_are_told_apart() -> None:
    features = fourier_features(torch.linspace(-20, 20, 161))
    distance = torch.cdist(features, features) + 1e3 * torch.eye(161)
    assert distance.min() > 0.5


def test_the_embedding_is_per_frame_exactly_where_a_condition_is() -> None:
    config = VideoUNetConfig(num_classes=3, embedding_dim=8, fps_conditioning=True)
    embed = ConditioningEmbedding(config)
    logsnr, fps = torch.zeros(2), torch.ones(2)
    per_row = embed(logsnr, Conditioning(labels=torch.tensor([0, 1]), fps=fps))
    per_frame = embed(logsnr, Conditioning(labels=torch.tensor([[0, 1, 2, 3], [1, 1, 1, 1]]), fps=fps))
    assert per_row.shape == (2, 8)
    assert per_frame.shape == (2, 4, 8)
    torch.testing.assert_close(per_frame[0, 0], per_row[0])
    torch.testing.assert_close(per_frame[1], per_row[1].expand(4, 8))
    assert (per_frame[0, 1] - per_row[0]).abs().max() > 1e-3

"""A small model with no zero in it, so that every condition can reach the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from vdm.models import VideoUNet, VideoUNetConfig

SMALL = VideoUNetConfig(
    in_channels=2,
    base_channels=8,
    channel_multipliers=(1, 2),
    num_blocks=1,
    attention_levels=(1,),
    head_dim=8,
    embedding_dim=16,
    num_groups=4,
)


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter that starts at a constant a random value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def make_model() -> Callable[..., VideoUNet]:
    """`make_model(dtype=torch.float32, field=value, ...)`: a small model with these fields changed."""

    def make(*, dtype: torch.dtype = torch.float32, **changes: object) -> VideoUNet:
        torch.manual_seed(0)
        model = VideoUNet.from_config(replace(SMALL, **changes))  # type: ignore[arg-type]
        randomize(model)
        return model.to(dtype).eval()

    return make

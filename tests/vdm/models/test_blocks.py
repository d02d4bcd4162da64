"""The blocks against plain 3D PyTorch layers in float64, with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vdm.models import VideoUNet, VideoUNetConfig
from vdm.models.attention import AttentionContext
from vdm.models.blocks import Downsample, Features, ResidualBlock, UNetBlock, Upsample

CONFIG = VideoUNetConfig(
    base_channels=8, channel_multipliers=(1,), attention_levels=(), head_dim=8, num_groups=4
)


def video(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last_3d)


def conv3d(x: Tensor, conv: torch.nn.Conv2d, stride: int = 1) -> Tensor:
    pad = conv.weight.shape[-1] // 2
    return functional.conv3d(x, conv.weight.unsqueeze(2), conv.bias, (1, stride, stride), (0, pad, pad))


def group_norm(x: Tensor, norm: torch.nn.GroupNorm, scope: str) -> Tensor:
    if scope == "video":
        return norm(x)
    return torch.stack([norm(frame) for frame in x.unbind(2)], 2)


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("scope", ["frame", "video"])
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize(("channels", "skip_channels"), [(8, 0), (12, 0), (8, 4), (4, 4)])
def test_residual_block(scope: str, per_frame: bool, channels: int, skip_channels: int) -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, norm_scope=scope)  # type: ignore[arg-type]
    block = randomized(ResidualBlock(channels + skip_channels, 8, config))
    x = video(2, channels, 3, 5, 7)
    skip = video(2, skip_channels, 3, 5, 7) if skip_channels else None
    second = None if skip is None else Features(skip)
    embedding = torch.randn(2, 3, CONFIG.embedding_dim, dtype=torch.float64)
    embedding = embedding if per_frame else embedding[:, 0]

    joined = x if skip is None else torch.cat([x, skip], 1)
    film = block.embedding(embedding if per_frame else embedding.unsqueeze(1)).transpose(1, 2)[
        ..., None, None
    ]
    scale, shift = film[:, :8], film[:, 8:]
    hidden = conv3d(functional.silu(group_norm(joined, block.norm1, scope)), block.conv1)
    hidden = functional.silu(group_norm(hidden, block.norm2, scope) * (1 + scale) + shift)
    residual = joined if block.skip is None else conv3d(joined, block.skip)
    wanted = residual + conv3d(hidden, block.conv2)

    assert (block.skip is None) == (channels + skip_channels == 8)
    torch.testing.assert_close(block(Features(x), embedding, second).video, wanted)


def test_a_new_residual_block_is_its_skip() -> None:
    block = ResidualBlock(8, 8, CONFIG)
    x = video(1, 8, 2, 4, 4).float()
    torch.testing.assert_close(block(Features(x), torch.randn(1, CONFIG.embedding_dim)).video, x)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    block = randomized(ResidualBlock(8, 8, replace(CONFIG, dropout=0.5)))
    x, embedding = Features(video(1, 8, 2, 4, 4)), torch.randn(1, CONFIG.embedding_dim, dtype=torch.float64)
    still = block.eval()(x, embedding).video
    torch.testing.assert_close(block(x, embedding).video, still)
    block.train()
    torch.manual_seed(1)
    first = block(x, embedding).video
    torch.manual_seed(2)
    assert (block(x, embedding).video - first).abs().max() > 1e-3
    samples = torch.stack([block(x, embedding).video for _ in range(400)])
    # conv2 is linear, so that dropout keeps the mean; the bound is 5 standard errors.
    error = (samples.mean(0) - still).abs() / (samples.std(0) / 400**0.5)
    assert error.max() < 5


def test_downsample_and_upsample() -> None:
    torch.manual_seed(0)
    x = video(2, 4, 3, 6, 8)
    down, up = Downsample(4).double(), Upsample(4).double()
    smaller, larger = down(Features(x)).video, up(Features(x)).video
    torch.testing.assert_close(smaller, conv3d(x, down.conv, stride=2))
    torch.testing.assert_close(larger, conv3d(x.repeat_interleave(2, 3).repeat_interleave(2, 4), up.conv))
    assert smaller.shape == (2, 4, 3, 3, 4)
    assert larger.shape == (2, 4, 3, 12, 16)


def test_gradient_checkpointing_gives_the_same_gradients(make_model: Callable[..., VideoUNet]) -> None:
    x, logsnr = torch.randn(2, 2, 3, 4, 4), torch.randn(2)
    gradients = []
    for checkpointing in (False, True):
        model = make_model(gradient_checkpointing=checkpointing, dropout=0.3).train()
        torch.manual_seed(3)
        model(x, logsnr).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


def test_gradient_checkpointing_runs_each_block_again_in_the_backward_pass() -> None:
    block = UNetBlock(8, 8, replace(CONFIG, gradient_checkpointing=True), level=0, attention=False)
    calls = []
    block.residual.register_forward_pre_hook(lambda *_: calls.append(1))
    x, embedding = Features(torch.randn(1, 8, 2, 4, 4)), torch.randn(1, CONFIG.embedding_dim)
    context = AttentionContext(positions=torch.zeros(2, 2, dtype=torch.int64))
    out = block(x, embedding, context).video
    assert len(calls) == 1
    out.sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        block(x, embedding, context)
    assert len(calls) == 3

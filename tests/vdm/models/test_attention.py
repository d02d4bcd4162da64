"""The attention layers against attention written out, per pixel and per frame, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vdm.models import VideoUNetConfig
from vdm.models.attention import (
    AttentionBlock,
    AttentionContext,
    CrossAttention,
    SpatialAttention,
    TemporalAttention,
)
from vdm.models.relative_bias import encode_positions

CONFIG = VideoUNetConfig(
    base_channels=8,
    channel_multipliers=(1,),
    attention_levels=(0,),
    head_dim=4,
    num_groups=4,
    relative_bias="distance",
    relative_bias_max_distance=10,
)


def video(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last_3d)


def randomized(module: nn.Module) -> nn.Module:
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """One sequence: q (N, heads, d), k and v (M, heads, d), bias (heads, N, M) to (N, heads * d)."""
    out = []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head].T / q.shape[-1] ** 0.5 + bias[head]
        out.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ v[:, head])
    return torch.cat(out, -1)


def split(layer: nn.Linear, tokens: Tensor, parts: int) -> tuple[Tensor, ...]:
    return layer(tokens).view(*tokens.shape[:-1], parts, -1, 4).unbind(-3)


@pytest.mark.parametrize("bias_size", [None, 8])
def test_spatial_attention(bias_size: int | None) -> None:
    torch.manual_seed(0)
    layer = randomized(SpatialAttention(8, replace(CONFIG, spatial_bias_size=bias_size), level=1))
    x = video(2, 8, 3, 2, 3)
    out = layer(x)
    pixels = [(row, column) for row in range(2) for column in range(3)]
    bias = torch.zeros(2, 6, 6, dtype=torch.float64)
    if bias_size is not None:
        assert layer.bias_table.shape == (2, 7, 7)
        for i, (yi, xi) in enumerate(pixels):
            for j, (yj, xj) in enumerate(pixels):
                bias[:, i, j] = layer.bias_table[:, yi - yj + 3, xi - xj + 3]
    for b in range(2):
        for f in range(3):
            tokens = x[b, :, f].flatten(1).T
            q, k, v = split(layer.qkv, layer.norm(tokens), 3)
            wanted = tokens + layer.out(attend(q, k, v, bias))
            torch.testing.assert_close(out[b, :, f].flatten(1).T, wanted)


@pytest.mark.parametrize("per_sample", [False, True])
def test_temporal_attention(per_sample: bool) -> None:
    torch.manual_seed(0)
    layer = randomized(TemporalAttention(8, CONFIG))
    x = video(2, 8, 4, 1, 3)
    positions = torch.tensor([[0, 1, 2, 3], [4, 2, 9, 1]]) if per_sample else torch.arange(4)
    segments = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 2]])
    out = layer(x, AttentionContext(positions=encode_positions(positions, CONFIG), segment_ids=segments))
    for b in range(2):
        p = positions[b] if per_sample else positions
        bias = layer.relative_bias.table[10 + p[None, :] - p[:, None]].permute(2, 0, 1)
        bias = bias.masked_fill(segments[b][:, None] != segments[b][None, :], -torch.inf)
        for column in range(3):
            tokens = x[b, :, :, 0, column].T
            q, k, v = split(layer.qkv, layer.norm(tokens), 3)
            wanted = tokens + layer.out(attend(q, k, v, bias))
            torch.testing.assert_close(out[b, :, :, 0, column].T, wanted)


def test_cross_attention() -> None:
    torch.manual_seed(0)
    layer = randomized(CrossAttention(8, CONFIG, text_dim=5))
    x, text = video(2, 8, 2, 1, 3), torch.randn(2, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    out = layer(x, text, mask.view(2, 1, 1, 4))
    for b in range(2):
        tokens = x[b].flatten(1).T
        q = layer.q(layer.norm(tokens)).view(6, 2, 4)
        k, v = split(layer.kv, layer.text_norm(text[b][mask[b]]), 2)
        wanted = tokens + layer.out(attend(q, k, v, torch.zeros(2, 1, 1, dtype=torch.float64)))
        torch.testing.assert_close(out[b].flatten(1).T, wanted)


def test_a_new_attention_block_is_the_identity() -> None:
    config = replace(CONFIG, text_token_dim=5, spatial_bias_size=4)
    block = AttentionBlock(8, config, level=0)
    x = video(1, 8, 3, 2, 2).float()
    context = AttentionContext(
        positions=encode_positions(torch.arange(3), config),
        text=torch.randn(1, 2, 5),
        text_mask=torch.ones(1, 1, 1, 2, dtype=torch.bool),
    )
    assert torch.equal(block(x, context), x)

"""Pre-norm attention over a channels-last video: spatial, temporal and cross-attention to text.

Tokens are a view of the video: channels-last `(B, C, F, H, W)` has the bytes of `(B, F, H, W, C)`, one linear
layer gives the packed `(..., 3, heads, d)` that the attention operators read in place, so nothing is
rearranged. The normalization is per token (LayerNorm over channels), so attention to other frames is the only
thing that crosses frames. The output projection starts at zero: a new block is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vdm.models.config import VideoUNetConfig
from vdm.models.relative_bias import relative_bias
from vdm_kernels import group_norm_silu_conv, spatial_attention_block, temporal_attention_block


@dataclass(frozen=True)
class AttentionContext:
    """What every attention block of one forward pass shares.

    Args:
        positions: encoded relative frame positions, see `relative_bias.encode_positions`.
        segment_ids: (B, F) integers; frames attend within equal ids. None = all frames to all.
        text: (B, L, D) text tokens with the null token in front.
        text_mask: (B, 1, 1, L) bool, True where a token may be attended to.
    """

    positions: Tensor
    segment_ids: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer that starts at zero."""
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, F, H, W) channels-last as (B, F, H, W, C), the same bytes."""
    return x.permute(0, 2, 3, 4, 1)


def from_tokens(tokens: Tensor) -> Tensor:
    """(B, F, H, W, C) as (B, C, F, H, W) channels-last, the same bytes."""
    return tokens.permute(0, 4, 1, 2, 3)


def project(tokens: Tensor, linear: nn.Linear, residual: Tensor | None = None) -> Tensor:
    """`linear(tokens) + residual` as a 1x1 convolution, which a CPU runs faster than a matrix product.

    Args:
        tokens: (B, F, H, W, C).
        linear: C -> C'.
        residual: (B, C', F, H, W) channels-last, or None.

    Returns:
        (B, C', F, H, W) channels-last.
    """
    weight = linear.weight[:, :, None, None]
    return group_norm_silu_conv(from_tokens(tokens), weight, linear.bias, residual=residual)


class SpatialAttention(nn.Module):
    """Attention over the pixels of each frame, with an optional learned relative position bias."""

    def __init__(self, channels: int, config: VideoUNetConfig, *, level: int) -> None:
        super().__init__()
        self.heads = channels // config.head_dim
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = zero_linear(channels, channels)
        self.bias_table: nn.Parameter | None = None
        if config.spatial_bias_size is not None:
            size = 2 * -(-config.spatial_bias_size // 2**level) - 1
            self.bias_table = nn.Parameter(torch.empty(self.heads, size, size))
            nn.init.normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """`x + W_out attention(LayerNorm(x))`, (B, C, F, H, W) channels-last in and out."""
        return spatial_attention_block(
            x,
            self.norm.weight,
            self.norm.bias,
            self.qkv.weight,
            self.out.weight,
            self.out.bias,
            self.bias_table,
            heads=self.heads,
            eps=self.norm.eps,
        )


class TemporalAttention(nn.Module):
    """Attention over the frames at each pixel, with a learned relative position bias per head."""

    def __init__(self, channels: int, config: VideoUNetConfig) -> None:
        super().__init__()
        self.heads = channels // config.head_dim
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.relative_bias = relative_bias(self.heads, config)
        self.out = zero_linear(channels, channels)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """`x + W_out attention(LayerNorm(x))`, (B, C, F, H, W) channels-last in and out."""
        return temporal_attention_block(
            x,
            self.norm.weight,
            self.norm.bias,
            self.qkv.weight,
            self.out.weight,
            self.out.bias,
            self.relative_bias(context.positions),
            context.segment_ids,
            heads=self.heads,
            eps=self.norm.eps,
        )


class CrossAttention(nn.Module):
    """Attention from every pixel of every frame to the text tokens of its row."""

    def __init__(self, channels: int, config: VideoUNetConfig, *, text_dim: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.heads = channels // config.head_dim
        self.norm = nn.LayerNorm(channels)
        self.text_norm = nn.LayerNorm(text_dim)
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(text_dim, 2 * channels, bias=False)
        self.out = zero_linear(channels, channels)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """`x + W_out attention(LayerNorm(x), LayerNorm(text))`, (B, C, F, H, W) channels-last in and out."""
        tokens = to_tokens(x)
        b, f, h, w, c = tokens.shape
        q = to_tokens(project(self.norm(tokens), self.q)).view(b, f * h * w, self.heads, self.head_dim)
        kv = self.kv(self.text_norm(text)).view(b, text.shape[1], 2, self.heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=text_mask)
        return project(attended.transpose(1, 2).reshape(b, f, h, w, c), self.out, residual=x)


class AttentionBlock(nn.Module):
    """Spatial, then temporal, then (where configured) cross-attention."""

    def __init__(self, channels: int, config: VideoUNetConfig, *, level: int) -> None:
        super().__init__()
        self.spatial = SpatialAttention(channels, config, level=level)
        self.temporal = TemporalAttention(channels, config)
        self.cross: CrossAttention | None = None
        if config.text_token_dim is not None:
            self.cross = CrossAttention(channels, config, text_dim=config.text_token_dim)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """(B, C, F, H, W) channels-last in and out."""
        x = self.temporal(self.spatial(x), context)
        if self.cross is not None:
            assert context.text is not None
            assert context.text_mask is not None
            x = self.cross(x, context.text, context.text_mask)
        return x

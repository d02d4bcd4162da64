"""The convolutional parts of the U-Net. All of them are `vdm_kernels` operators with parameters.

`nn.GroupNorm` and `nn.Conv2d` hold parameters here and are not called: a 1x3x3 convolution of a channels-last
video is a 2D convolution of its B * F frames, and normalization, SiLU, FiLM and the skip connections are part
of the operator. What makes a video also gives its channel statistics, so that a norm costs no pass over memory.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vdm.models.attention import AttentionBlock, AttentionContext
from vdm.models.config import NormScope, VideoUNetConfig
from vdm_kernels import channel_statistics, group_norm_silu, group_norm_silu_conv, reads_statistics


def zero_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that starts at zero."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class Features(NamedTuple):
    """A video between two blocks and, where a norm will read them, its channel statistics.

    Args:
        video: (B, C, F, H, W) channels-last.
        statistics: (B, F, C, 2) of `vdm_kernels.channel_statistics`, or None.
    """

    video: Tensor
    statistics: Tensor | None = None


def with_statistics(video: Tensor) -> Features:
    """The features of a video that no convolution made; two norms may read them, on the way down and up."""
    return Features(video, channel_statistics(video) if reads_statistics(video) else None)


def convolution(
    x: Features,
    conv: nn.Conv2d,
    *,
    norm: nn.GroupNorm | None = None,
    norm_scope: NormScope = "frame",
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    x2: Features | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
) -> Features:
    """`vdm_kernels.group_norm_silu_conv` on the parameters of two modules; statistics are handed on."""
    statistics = None if norm is None else x.statistics
    if statistics is not None and x2 is not None:
        statistics = None if x2.statistics is None else torch.cat([statistics, x2.statistics], dim=2)
    y = group_norm_silu_conv(
        x.video,
        conv.weight,
        conv.bias,
        norm_weight=None if norm is None else norm.weight,
        norm_bias=None if norm is None else norm.bias,
        num_groups=None if norm is None else norm.num_groups,
        scale=scale,
        shift=shift,
        x2=None if x2 is None else x2.video,
        residual=residual,
        upsample=upsample,
        stride=conv.stride[0],
        norm_scope=norm_scope,
        statistics=statistics,
        return_statistics=reads_statistics(x.video),
    )
    return Features(*y) if isinstance(y, tuple) else Features(y)


class ResidualBlock(nn.Module):
    """`skip(x) + conv0(dropout(silu(norm(conv(silu(norm(x)))) (1 + scale) + shift)))`, 1x3x3 convolutions.

    (scale, shift) is a linear map of the conditioning embedding; conv0 starts at zero; skip is the identity,
    or a 1x1 convolution where the channels differ (Ho et al. 2022, appendix A). A second input, the U-Net's
    skip connection, is read where a concatenation would be.
    """

    def __init__(self, in_channels: int, out_channels: int, config: VideoUNetConfig) -> None:
        super().__init__()
        self.norm_scope = config.norm_scope
        self.dropout = config.dropout
        self.norm1 = nn.GroupNorm(config.num_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(config.embedding_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(config.num_groups, out_channels)
        self.conv2 = zero_conv(out_channels, out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Features, embedding: Tensor, skip: Features | None = None) -> Features:
        """One residual block.

        Args:
            x: (B, C, F, H, W).
            embedding: (B, E) or (B, F, E).
            skip: (B, C', F, H, W), concatenated to x in effect; in_channels = C + C'.

        Returns:
            (B, out_channels, F, H, W).
        """
        scale, shift = self.embedding(embedding).chunk(2, dim=-1)
        second = None if skip is None else skip.video
        if self.skip is not None:
            residual = group_norm_silu_conv(x.video, self.skip.weight, self.skip.bias, x2=second)
        else:  # no U-Net has a concatenation as wide as its block
            residual = x.video if second is None else torch.cat([x.video, second], dim=1)
        hidden = convolution(x, self.conv1, norm=self.norm1, norm_scope=self.norm_scope, x2=skip)
        if self.dropout > 0 and self.training:
            normed = group_norm_silu(
                hidden.video,
                self.norm2.weight,
                self.norm2.bias,
                num_groups=self.norm2.num_groups,
                scale=scale,
                shift=shift,
                norm_scope=self.norm_scope,
                statistics=hidden.statistics,
            )
            dropped = functional.dropout(normed, self.dropout)
            return convolution(Features(dropped), self.conv2, residual=residual)
        return convolution(
            hidden,
            self.conv2,
            norm=self.norm2,
            norm_scope=self.norm_scope,
            scale=scale,
            shift=shift,
            residual=residual,
        )


class Downsample(nn.Module):
    """A 1x3x3 convolution of stride 2 in space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Features) -> Features:
        """(B, C, F, H, W) to (B, C, F, H/2, W/2)."""
        return convolution(x, self.conv)


class Upsample(nn.Module):
    """Nearest doubling in space, then a 1x3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Features) -> Features:
        """(B, C, F, H, W) to (B, C, F, 2H, 2W)."""
        return convolution(x, self.conv, upsample=True)


class UNetBlock(nn.Module):
    """A residual block and, where the level has it, attention; the unit of gradient checkpointing."""

    def __init__(
        self, in_channels: int, out_channels: int, config: VideoUNetConfig, *, level: int, attention: bool
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = config.gradient_checkpointing
        self.residual = ResidualBlock(in_channels, out_channels, config)
        self.attention = AttentionBlock(out_channels, config, level=level) if attention else None

    def forward(
        self, x: Features, embedding: Tensor, context: AttentionContext, skip: Features | None = None
    ) -> Features:
        """One block; see `ResidualBlock.forward`."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return cast(Features, checkpoint(self._forward, x, embedding, context, skip, use_reentrant=False))
        return self._forward(x, embedding, context, skip)

    def _forward(
        self, x: Features, embedding: Tensor, context: AttentionContext, skip: Features | None
    ) -> Features:
        x = self.residual(x, embedding, skip)
        return x if self.attention is None else with_statistics(self.attention(x.video, context))


class DownLevel(nn.Module):
    """The blocks of one level on the way down, then (but for the last level) downsampling."""

    def __init__(self, in_channels: int, config: VideoUNetConfig, *, level: int) -> None:
        super().__init__()
        channels = config.level_channels[level]
        attention = level in config.attention_levels
        self.blocks = nn.ModuleList(
            UNetBlock(channels if i else in_channels, channels, config, level=level, attention=attention)
            for i in range(config.num_blocks)
        )
        self.downsample = Downsample(channels) if level < config.num_levels - 1 else None

    def forward(
        self, x: Features, embedding: Tensor, context: AttentionContext
    ) -> tuple[Features, list[Features]]:
        """The input of the next level, and this level's skip connections, its input first."""
        skips = [x]
        for block in self.blocks:
            x = block(x, embedding, context)
            skips.append(x)
        return (x if self.downsample is None else self.downsample(x)), skips


class UpLevel(nn.Module):
    """Upsampling (but for the last level), then one level's blocks on the way up, a skip connection each."""

    def __init__(
        self, in_channels: int, skip_channels: list[int], config: VideoUNetConfig, *, level: int
    ) -> None:
        super().__init__()
        channels = config.level_channels[level]
        attention = level in config.attention_levels
        self.upsample = Upsample(in_channels) if level < config.num_levels - 1 else None
        self.blocks = nn.ModuleList(
            UNetBlock(
                (channels if i else in_channels) + skip_channels[-1 - i],
                channels,
                config,
                level=level,
                attention=attention,
            )
            for i in range(config.up_blocks)
        )

    def forward(
        self, x: Features, skips: list[Features], embedding: Tensor, context: AttentionContext
    ) -> Features:
        """The output of the level, from the level below and the skips of `DownLevel`, the last one first."""
        if self.upsample is not None:
            x = self.upsample(x)
        for i, block in enumerate(self.blocks):
            x = block(x, embedding, context, skips[-1 - i])
        return x

"""The 3D U-Net of Video Diffusion Models (Ho et al. 2022, arXiv 2204.03458)."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from vdm.models.attention import AttentionContext
from vdm.models.blocks import DownLevel, Features, UNetBlock, UpLevel, convolution, zero_conv
from vdm.models.conditioning import Conditioning
from vdm.models.conditioning_inputs import (
    TextTokens,
    check_inputs,
    concatenate_inputs,
    frame_positions,
    segment_ids,
)
from vdm.models.config import NormScope, RelativeBiasKind, VideoUNetConfig
from vdm.models.embeddings import ConditioningEmbedding
from vdm.models.relative_bias import encode_positions

_DEFAULT = VideoUNetConfig()


class VideoUNet(nn.Module):
    """A factorized space-time U-Net: 1x3x3 convolutions, spatial attention, temporal attention.

    The arguments are the fields of `VideoUNetConfig`, which documents them. Batch, number of frames, height
    and width are free in every call. Inside, a video is channels-last, converted once.
    """

    def __init__(
        self,
        *,
        in_channels: int = _DEFAULT.in_channels,
        out_channels: int | None = _DEFAULT.out_channels,
        base_channels: int = _DEFAULT.base_channels,
        channel_multipliers: tuple[int, ...] = _DEFAULT.channel_multipliers,
        num_blocks: int = _DEFAULT.num_blocks,
        num_up_blocks: int | None = _DEFAULT.num_up_blocks,
        attention_levels: tuple[int, ...] = _DEFAULT.attention_levels,
        head_dim: int = _DEFAULT.head_dim,
        embedding_dim: int = _DEFAULT.embedding_dim,
        embedding_layers: int = _DEFAULT.embedding_layers,
        num_groups: int = _DEFAULT.num_groups,
        norm_scope: NormScope = _DEFAULT.norm_scope,
        dropout: float = _DEFAULT.dropout,
        num_classes: int | None = _DEFAULT.num_classes,
        text_embedding_dim: int | None = _DEFAULT.text_embedding_dim,
        text_token_dim: int | None = _DEFAULT.text_token_dim,
        fps_conditioning: bool = _DEFAULT.fps_conditioning,
        relative_bias: RelativeBiasKind = _DEFAULT.relative_bias,
        relative_bias_buckets: int = _DEFAULT.relative_bias_buckets,
        relative_bias_max_distance: int = _DEFAULT.relative_bias_max_distance,
        relative_bias_width: int = _DEFAULT.relative_bias_width,
        spatial_bias_size: int | None = _DEFAULT.spatial_bias_size,
        low_res_channels: int = _DEFAULT.low_res_channels,
        known_frames: bool = _DEFAULT.known_frames,
        gradient_checkpointing: bool = _DEFAULT.gradient_checkpointing,
    ) -> None:
        super().__init__()
        self.config = VideoUNetConfig(
            in_channels=in_channels,
            out_channels=out_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_blocks=num_blocks,
            num_up_blocks=num_up_blocks,
            attention_levels=attention_levels,
            head_dim=head_dim,
            embedding_dim=embedding_dim,
            embedding_layers=embedding_layers,
            num_groups=num_groups,
            norm_scope=norm_scope,
            dropout=dropout,
            num_classes=num_classes,
            text_embedding_dim=text_embedding_dim,
            text_token_dim=text_token_dim,
            fps_conditioning=fps_conditioning,
            relative_bias=relative_bias,
            relative_bias_buckets=relative_bias_buckets,
            relative_bias_max_distance=relative_bias_max_distance,
            relative_bias_width=relative_bias_width,
            spatial_bias_size=spatial_bias_size,
            low_res_channels=low_res_channels,
            known_frames=known_frames,
            gradient_checkpointing=gradient_checkpointing,
        )
        self._build(self.config)

    @classmethod
    def from_config(cls, config: VideoUNetConfig) -> VideoUNet:
        """The model of a configuration."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(config)})

    def _build(self, config: VideoUNetConfig) -> None:
        channels = config.base_channels
        self.embedding = ConditioningEmbedding(config)
        self.text = TextTokens(config.text_token_dim) if config.text_token_dim is not None else None
        self.input_conv = nn.Conv2d(config.input_conv_channels, channels, 3, padding=1)
        down, skip_channels = [], []
        for level, level_channels in enumerate(config.level_channels):
            down.append(DownLevel(channels, config, level=level))
            skip_channels.append([channels] + [level_channels] * config.num_blocks)
            channels = level_channels
        last = config.num_levels - 1
        self.down = nn.ModuleList(down)
        self.middle1 = UNetBlock(channels, channels, config, level=last, attention=True)
        self.middle2 = UNetBlock(channels, channels, config, level=last, attention=False)
        up = []
        for level in reversed(range(config.num_levels)):
            up.append(UpLevel(channels, skip_channels[level], config, level=level))
            channels = config.level_channels[level]
        self.up = nn.ModuleList(up)
        self.output_norm = nn.GroupNorm(config.num_groups, channels)
        self.output_conv = zero_conv(channels, config.prediction_channels)

    def forward(self, x: Tensor, logsnr: Tensor, conditioning: Conditioning | None = None) -> Tensor:
        """The prediction for a noised video.

        Args:
            x: (B, in_channels, F, H, W), any layout; H and W multiples of 2 ** (levels - 1).
            logsnr: (B,), the log signal-to-noise ratio of each row.
            conditioning: what the model is configured for.

        Returns:
            (B, out_channels, F, H, W), contiguous, in x's dtype.

        Raises:
            ValueError: a shape does not fit; a condition is missing, or is given and the model was not built
                for it.
        """
        config = self.config
        given = Conditioning() if conditioning is None else conditioning
        check_inputs(x, logsnr, given, config)
        embedding = self.embedding(logsnr, given)
        text, text_mask = (None, None) if self.text is None else self.text(given)
        context = AttentionContext(
            positions=encode_positions(frame_positions(x, given), config),
            segment_ids=segment_ids(x, given),
            text=text,
            text_mask=text_mask,
        )
        dtype = self.input_conv.weight.dtype
        h = concatenate_inputs(x.to(dtype), given, known_frames=config.known_frames)
        features = convolution(Features(h), self.input_conv)
        skips = []
        for level in self.down:
            features, level_skips = level(features, embedding, context)
            skips.append(level_skips)
        features = self.middle2(self.middle1(features, embedding, context), embedding, context)
        for level in self.up:
            features = level(features, skips.pop(), embedding, context)
        prediction = convolution(
            features, self.output_conv, norm=self.output_norm, norm_scope=config.norm_scope
        ).video
        return prediction.to(x.dtype).contiguous(memory_format=torch.contiguous_format)

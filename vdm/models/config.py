"""The configuration of the 3D U-Net: every choice that decides its parameters and its forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RelativeBiasKind = Literal["t5", "distance", "network"]
NormScope = Literal["frame", "video"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"VideoUNetConfig: {message}")


@dataclass(frozen=True)
class VideoUNetConfig:
    """What a `VideoUNet` is built from (Ho et al. 2022, arXiv 2204.03458, appendix A).

    Level i works at 1/2**i of the input's height and width with `base_channels * channel_multipliers[i]`
    channels.

    Args:
        in_channels: channels of the video.
        out_channels: channels of the prediction; None = in_channels.
        base_channels: channels of the input convolution.
        channel_multipliers: one entry per level.
        num_blocks: residual blocks per level on the way down.
        num_up_blocks: residual blocks per level on the way up: num_blocks + 1 (one for each skip, as in DDPM;
            None) or num_blocks (the skip of a level's input is not used).
        attention_levels: the levels with spatial and temporal attention; the middle block always has both.
        head_dim: channels of an attention head.
        embedding_dim: width of the conditioning embedding.
        embedding_layers: linear layers between the condition features and the embedding.
        num_groups: groups of every group normalization.
        norm_scope: statistics per frame (nothing crosses frames) or per video.
        dropout: probability, in the residual blocks, in training mode.
        num_classes: classes; None = not class conditional. Index num_classes is the learned null class.
        text_embedding_dim: width of the pooled text embedding; None = none.
        text_token_dim: width of the text tokens for cross-attention; None = none.
        fps_conditioning: condition on frames per second.
        relative_bias: what the temporal bias is a function of: T5 buckets of the signed frame distance, one
            table entry per signed distance, or a small network over the distance of real frame indices (FDM).
        relative_bias_buckets: buckets of "t5", both signs together.
        relative_bias_max_distance: "t5": where the last bucket begins; "distance": the largest distance in
            the table.
        relative_bias_width: hidden width of "network".
        spatial_bias_size: largest height and width, in pixels of the input, of the learned relative position
            bias of spatial attention; None = no bias.
        low_res_channels: channels of a low-resolution video to condition on; 0 = none.
        known_frames: condition on known frames and their mask (in_channels + 1 more input channels).
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        ValueError: a field is out of range or does not divide what it has to.
    """

    in_channels: int = 3
    out_channels: int | None = None
    base_channels: int = 64
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 8)
    num_blocks: int = 2
    num_up_blocks: int | None = None
    attention_levels: tuple[int, ...] = (1, 2, 3)
    head_dim: int = 64
    embedding_dim: int = 256
    embedding_layers: int = 2
    num_groups: int = 8
    norm_scope: NormScope = "frame"
    dropout: float = 0.0
    num_classes: int | None = None
    text_embedding_dim: int | None = None
    text_token_dim: int | None = None
    fps_conditioning: bool = False
    relative_bias: RelativeBiasKind = "t5"
    relative_bias_buckets: int = 32
    relative_bias_max_distance: int = 64
    relative_bias_width: int = 64
    spatial_bias_size: int | None = None
    low_res_channels: int = 0
    known_frames: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        # Lists come from JSON and TOML.
        object.__setattr__(self, "channel_multipliers", tuple(self.channel_multipliers))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        self._check_sizes()
        self._check_divisors()
        self._check_conditions()

    def _check_sizes(self) -> None:
        for name in ("in_channels", "base_channels", "num_blocks", "head_dim", "embedding_dim", "num_groups"):
            value = getattr(self, name)
            _require(value >= 1, f"{name} must be at least 1, got {value}")
        _require(
            self.out_channels is None or self.out_channels >= 1,
            f"out_channels must be at least 1 or None, got {self.out_channels}",
        )
        _require(
            self.embedding_layers >= 1, f"embedding_layers must be at least 1, got {self.embedding_layers}"
        )
        _require(len(self.channel_multipliers) >= 1, "channel_multipliers needs at least one level, got none")
        _require(
            min(self.channel_multipliers) >= 1,
            f"channel_multipliers must be at least 1, got {self.channel_multipliers}",
        )
        allowed = (self.num_blocks, self.num_blocks + 1)
        _require(
            self.num_up_blocks is None or self.num_up_blocks in allowed,
            f"num_up_blocks must be one of {allowed} or None, got {self.num_up_blocks}",
        )
        _require(0.0 <= self.dropout < 1.0, f"dropout must be in [0, 1), got {self.dropout}")
        _require(
            self.norm_scope in ("frame", "video"),
            f'norm_scope must be "frame" or "video", got {self.norm_scope!r}',
        )

    def _check_divisors(self) -> None:
        levels = len(self.channel_multipliers)
        for level in self.attention_levels:
            _require(
                0 <= level < levels,
                f"attention_levels must be in 0..{levels - 1} for {levels} levels, got {level}",
            )
        repeated = len(set(self.attention_levels)) != len(self.attention_levels)
        _require(not repeated, f"attention_levels must not repeat, got {self.attention_levels}")
        for channels in (self.base_channels, *self.level_channels):
            _require(
                channels % self.num_groups == 0, f"num_groups must divide C={channels}, got {self.num_groups}"
            )
        for level in {*self.attention_levels, levels - 1}:
            channels = self.level_channels[level]
            _require(
                channels % self.head_dim == 0,
                f"head_dim must divide C={channels} of attention level {level}, got {self.head_dim}",
            )

    def _check_conditions(self) -> None:
        for name in ("num_classes", "text_embedding_dim", "text_token_dim", "spatial_bias_size"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1 or None, got {value}")
        _require(
            self.low_res_channels >= 0, f"low_res_channels must not be negative, got {self.low_res_channels}"
        )
        kinds = ("t5", "distance", "network")
        _require(
            self.relative_bias in kinds, f"relative_bias must be one of {kinds}, got {self.relative_bias!r}"
        )
        _require(
            self.relative_bias_width >= 1,
            f"relative_bias_width must be at least 1, got {self.relative_bias_width}",
        )
        distance = self.relative_bias_max_distance
        if self.relative_bias == "t5":
            buckets = self.relative_bias_buckets
            _require(
                buckets >= 4 and buckets % 4 == 0,
                f"relative_bias_buckets must be a positive multiple of 4, got {buckets}",
            )
            _require(
                distance > buckets // 4,
                f"relative_bias_max_distance must be over buckets/4={buckets // 4}, got {distance}",
            )
        _require(distance >= 1, f"relative_bias_max_distance must be at least 1, got {distance}")

    @property
    def num_levels(self) -> int:
        """The number of resolutions."""
        return len(self.channel_multipliers)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.base_channels * m for m in self.channel_multipliers)

    @property
    def size_divisor(self) -> int:
        """What height and width must be multiples of."""
        return 2 ** (self.num_levels - 1)

    @property
    def prediction_channels(self) -> int:
        """Channels of the output."""
        return self.in_channels if self.out_channels is None else self.out_channels

    @property
    def input_conv_channels(self) -> int:
        """Channels of the input convolution's input: the video and what is concatenated to it."""
        known = self.in_channels + 1 if self.known_frames else 0
        return self.in_channels + self.low_res_channels + known

    @property
    def up_blocks(self) -> int:
        """Residual blocks per level on the way up."""
        return self.num_blocks + 1 if self.num_up_blocks is None else self.num_up_blocks

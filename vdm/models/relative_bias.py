"""The relative position bias of temporal attention: from frame distances to one number per head.

Each kind is a module with two parts. `encode` turns signed distances into what its table or network reads; it
depends on no parameter, so a model does it once and shares it between its layers. `forward` turns that into
the bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vdm.models.config import VideoUNetConfig


def frame_distances(positions: Tensor) -> Tensor:
    """Signed distances `d[..., i, j] = positions[..., j] - positions[..., i]` from query i to key j.

    Args:
        positions: (F,) or (B, F), integers.

    Returns:
        (F, F) or (B, F, F).
    """
    return positions.unsqueeze(-2) - positions.unsqueeze(-1)


def t5_thresholds(num_buckets: int, max_distance: int) -> list[int]:
    """The first distance of every T5 bucket but the first, for one sign.

    Of n = num_buckets / 2 buckets, the first n/2 hold one distance each; the others are spaced
    logarithmically, bucket n/2 + k beginning at `(n/2) (max_distance / (n/2))^(k / (n/2))` (Raffel et al.
    2020, arXiv 1910.10683). The last one holds all that is further.
    """
    half = num_buckets // 2
    exact = half // 2
    ratio = max_distance / exact
    # The guard keeps a threshold that is an integer in exact arithmetic from being rounded up.
    logarithmic = [math.ceil(exact * ratio ** (k / (half - exact)) - 1e-9) for k in range(half - exact)]
    return [*range(1, exact), *logarithmic]


class T5RelativeBias(nn.Module):
    """A learned table per head over T5 buckets of the signed frame distance (Raffel et al. 2020)."""

    def __init__(self, heads: int, *, num_buckets: int, max_distance: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_buckets, heads))
        nn.init.normal_(self.table, std=0.02)

    @staticmethod
    def encode(distance: Tensor, *, num_buckets: int, max_distance: int) -> Tensor:
        """The bucket of each distance, in 0..num_buckets-1; positive distances take the upper half."""
        bucket = (distance > 0) * (num_buckets // 2)
        # One comparison a threshold: a table of them would be copied from the host, which a CUDA graph refuses.
        for threshold in t5_thresholds(num_buckets, max_distance):
            bucket = bucket + (distance.abs() >= threshold)
        return bucket

    def forward(self, code: Tensor) -> Tensor:
        """The bias, (heads, F, F) or (B, heads, F, F), from buckets (F, F) or (B, F, F)."""
        return functional.embedding(code, self.table).movedim(-1, -3)


class DistanceRelativeBias(nn.Module):
    """A learned table per head with one entry for each signed frame distance up to a maximum."""

    def __init__(self, heads: int, *, max_distance: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2 * max_distance + 1, heads))
        nn.init.normal_(self.table, std=0.02)

    @staticmethod
    def encode(distance: Tensor, *, max_distance: int) -> Tensor:
        """The table row of each distance.

        Raises:
            ValueError: a distance is over max_distance (on the CPU; elsewhere, and while compiling, the lookup checks).
        """
        # On other devices the lookup checks; reading the values there would wait for the device.
        if distance.device.type == "cpu" and not torch.compiler.is_compiling() and distance.numel() > 0:
            largest = int(distance.abs().max())
            if largest > max_distance:
                raise ValueError(
                    f"VideoUNet: frame distances must be at most relative_bias_max_distance={max_distance}, "
                    f"got {largest}"
                )
        return distance + max_distance

    def forward(self, code: Tensor) -> Tensor:
        """The bias, (heads, F, F) or (B, heads, F, F), from table rows (F, F) or (B, F, F)."""
        return functional.embedding(code, self.table).movedim(-1, -3)


class NetworkRelativeBias(nn.Module):
    """A small network over the signed distance of real frame indices (Harvey et al. 2022, arXiv 2205.11495).

    `bias = W2 silu(W1 [log(1 + d+), log(1 + d-), [d = 0]])`, d+ = max(d, 0), d- = max(-d, 0).
    """

    def __init__(self, heads: int, *, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, width)
        self.out = nn.Linear(width, heads)

    @staticmethod
    def encode(distance: Tensor) -> Tensor:
        """The three features of each distance, (..., F, F, 3) float32."""
        d = distance.float()
        return torch.stack(
            [torch.log1p(d.clamp(min=0)), torch.log1p((-d).clamp(min=0)), (distance == 0).float()], -1
        )

    def forward(self, code: Tensor) -> Tensor:
        """The bias, (heads, F, F) or (B, heads, F, F), from features (F, F, 3) or (B, F, F, 3)."""
        hidden = functional.silu(self.hidden(code.to(self.hidden.weight.dtype)))
        out: Tensor = self.out(hidden)
        return out.movedim(-1, -3)


def encode_positions(positions: Tensor, config: VideoUNetConfig) -> Tensor:
    """What every temporal layer's relative bias reads, from frame positions (F,) or (B, F)."""
    distance = frame_distances(positions)
    if config.relative_bias == "t5":
        return T5RelativeBias.encode(
            distance, num_buckets=config.relative_bias_buckets, max_distance=config.relative_bias_max_distance
        )
    if config.relative_bias == "distance":
        return DistanceRelativeBias.encode(distance, max_distance=config.relative_bias_max_distance)
    return NetworkRelativeBias.encode(distance)


def relative_bias(heads: int, config: VideoUNetConfig) -> nn.Module:
    """The relative bias of one temporal attention layer, as the configuration asks."""
    distance = config.relative_bias_max_distance
    if config.relative_bias == "t5":
        return T5RelativeBias(heads, num_buckets=config.relative_bias_buckets, max_distance=distance)
    if config.relative_bias == "distance":
        return DistanceRelativeBias(heads, max_distance=distance)
    return NetworkRelativeBias(heads, width=config.relative_bias_width)

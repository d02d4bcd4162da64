"""Calls of `spatial_attention_block` that tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels.testing import Sample, tensors


def samples(dtype: torch.dtype, device: torch.device | str) -> list[Sample]:
    """One call for each thing that can go wrong."""
    normal = tensors(dtype, device)

    def video(batch: int, channels: int, frames: int, height: int, width: int) -> Tensor:
        tokens = normal(batch, frames, height, width, channels)
        return tokens.permute(0, 4, 1, 2, 3)

    def sample(name: str, x: Tensor, heads: int, **changes: object) -> Sample:
        channels = x.shape[1]
        arguments = {
            "x": x,
            "norm_weight": 1.0 + 0.3 * normal(channels),
            "norm_bias": 0.3 * normal(channels),
            "qkv_weight": normal(3 * channels, channels) * channels**-0.5,
            "out_weight": normal(channels, channels) * channels**-0.5,
            "out_bias": normal(channels),
            "heads": heads,
        }
        return Sample(name, {**arguments, **changes})

    return [
        sample("plain", video(1, 32, 2, 8, 8), 1, out_bias=None),
        sample("bias", video(2, 32, 3, 4, 6), 2, bias_table=normal(2, 7, 11)),
        sample("bias_of_larger_images", video(2, 16, 2, 4, 6), 2, bias_table=normal(2, 15, 13)),
        sample("float32_bias", video(2, 16, 2, 4, 6), 2, bias_table=normal(2, 7, 11).float()),
        # More than a block of tokens, of queries and of keys, all ragged.
        sample("blocks", video(1, 16, 2, 17, 19), 2, bias_table=normal(2, 33, 37)),
        # More small images than a block of tokens has.
        sample("many_images", video(2, 16, 75, 2, 2), 2, bias_table=normal(2, 3, 3)),
        sample("one_column", video(2, 16, 2, 6, 1), 2, bias_table=normal(2, 13, 1)),
        sample("one_pixel", video(2, 16, 3, 1, 1), 2, bias_table=normal(2, 1, 1)),
        sample("one_channel", video(2, 1, 3, 3, 2), 1, eps=0.1),
        sample("odd", video(1, 60, 3, 3, 5), 3, bias_table=normal(3, 5, 9)),
        sample("wide", video(1, 256, 2, 4, 4), 2, bias_table=normal(2, 7, 7)),
        sample("empty_batch", video(0, 16, 4, 1, 3), 2),
        sample("contiguous", video(2, 16, 2, 3, 3).contiguous(), 2, bias_table=normal(2, 5, 5)),
        sample("sliced", video(2, 32, 4, 3, 3)[:, ::2, ::2], 2),
        # Rows of whole vectors: the bias is read where it is.
        sample("whole_vectors", video(1, 16, 2, 9, 16), 2, bias_table=normal(2, 17, 31)),
    ]


def bad_samples(device: torch.device | str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    arguments: dict[str, object] = {
        "x": torch.zeros(2, 8, 3, 4, 6, device=device),
        "norm_weight": torch.zeros(8, device=device),
        "norm_bias": torch.zeros(8, device=device),
        "qkv_weight": torch.zeros(24, 8, device=device),
        "out_weight": torch.zeros(8, 8, device=device),
        "out_bias": torch.zeros(8, device=device),
        "bias_table": torch.zeros(2, 7, 11, device=device),
        "heads": 2,
        "eps": 1e-5,
    }

    def bad(name: str, value: object) -> Sample:
        return Sample(name, {**arguments, name: value})

    return [
        bad("x", torch.zeros(2, 8, 4, 6, device=device)),
        bad("x", None),
        bad("norm_weight", torch.zeros(7, device=device)),
        bad("norm_bias", torch.zeros(8, device=device, dtype=torch.float64)),
        bad("qkv_weight", torch.zeros(8, 24, device=device)),
        bad("qkv_weight", torch.zeros(24, 8, device=device, dtype=torch.bfloat16)),
        bad("out_weight", 1.0),
        bad("out_bias", torch.zeros(1, device=device)),
        bad("bias_table", torch.zeros(1, 7, 11, device=device)),
        bad("bias_table", torch.zeros(2, 5, 11, device=device)),
        bad("bias_table", torch.zeros(2, 8, 11, device=device)),
        bad("bias_table", 0.0),
        bad("heads", 3),
        bad("heads", True),
        bad("eps", -1.0),
    ]

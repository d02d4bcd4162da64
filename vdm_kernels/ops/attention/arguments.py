"""The arguments that the blocks of attention over pixels and over frames have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_kernels import checks

_NAMES = ("norm_weight", "norm_bias", "qkv_weight", "out_weight", "out_bias")


def block_arguments(
    op: str,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    heads: int,
    eps: float,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]]:
    """x (B, C, F, H, W), channels-last, and the weights in the order of the arguments; autocast where that is on.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype, device or range.
    """
    checks.floating(op, "x", x, 5, "(B, C, F, H, W)")
    channels = x.shape[1]
    shapes = {
        "norm_weight": (norm_weight, (channels,), "(C,)"),
        "norm_bias": (norm_bias, (channels,), "(C,)"),
        "qkv_weight": (qkv_weight, (3 * channels, channels), "(3 C, C)"),
        "out_weight": (out_weight, (channels, channels), "(C, C)"),
    }
    if out_bias is not None:
        shapes["out_bias"] = (out_bias, (channels,), "(C,)")
    for name, (value, shape, layout) in shapes.items():
        checks.shape(op, name, value, shape, layout)
        checks.device(op, name, value, x.device)
    checks.divides(op, "heads", heads, "C", channels)
    checks.non_negative(op, "eps", eps)
    x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias = checks.autocast(
        x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias
    )
    weights = (norm_weight, norm_bias, qkv_weight, out_weight, out_bias)
    for name, weight in zip(_NAMES, weights):
        if weight is not None:
            checks.dtype(op, name, weight, x.dtype)
    return x.contiguous(memory_format=torch.channels_last_3d), weights

"""`group_norm_silu`: GroupNorm, scale and shift, and SiLU over channels-last video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.group_norm_silu import reference
from vdm_kernels.ops.group_norm_silu.arguments import joint_statistics, norm_arguments, statistics_argument

NormScope = Literal["frame", "video"]


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> Tensor:
    return torch.empty_like(x)


def _fake_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
    needs: Sequence[bool],
) -> list[Tensor]:
    return fake_gradients(x, weight, bias, scale, shift, needs=needs)


def _prepare(x: Tensor, *args: Any) -> tuple[Any, ...]:
    *affine, statistics = args[:5]
    return (x, *affine, joint_statistics(x) if statistics is None else statistics, *args[5:])


GROUP_NORM_SILU_BWD = Op(reference.group_norm_silu_bwd, fake=_fake_bwd, package=__name__)
GROUP_NORM_SILU = Op(
    reference.group_norm_silu,
    fake=_fake,
    package=__name__,
    backward=GROUP_NORM_SILU_BWD,
    differentiable=("x", "weight", "bias", "scale", "shift"),
    memory_format=torch.channels_last_3d,
    prepare=_prepare,
)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    norm_scope: NormScope = "frame",
    eps: float = 1e-5,
    statistics: Tensor | None = None,
) -> Tensor:
    """SiLU of a GroupNorm (Wu and He 2018) modulated by an embedding.

        x_hat = (x - mean) / sqrt(var + eps);  y = silu((x_hat weight + bias) (1 + scale) + shift)

    with mean and var over a group's channels and the pixels of one frame (norm_scope "frame") or of all
    frames ("video"). Statistics are computed in float32 (float64 for a float64 x), accurately also for
    mean >> std. Gradients of every tensor.

    Args:
        x: (B, C, F, H, W), channels-last in memory (`torch.channels_last_3d`); another layout is converted.
        weight, bias: (C,).
        num_groups: divides C.
        scale, shift: (B, C), or (B, F, C) for each frame its own.
        norm_scope: "frame" or "video". With "frame", nothing passes between frames.
        eps: is added to the variance.
        statistics: (B, F, C, 2), `channel_statistics(x)` where the caller has them; they are then not computed again.

    Returns:
        (B, C, F, H, W), channels-last, in x's dtype; under autocast in the autocast dtype.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype, device or range.
    """
    checks.floating("group_norm_silu", "x", x, 5, "(B, C, F, H, W)")
    scale, shift = norm_arguments(
        "group_norm_silu", x, x.shape[1], "", weight, bias, scale, shift, num_groups, norm_scope, eps
    )
    statistics = statistics_argument("group_norm_silu", statistics, x, x.shape[1])
    (x,) = checks.autocast(x)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    y: Tensor = GROUP_NORM_SILU(x, weight, bias, scale, shift, statistics, num_groups, norm_scope, float(eps))
    return y

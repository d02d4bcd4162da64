"""`group_norm_silu_conv`: the convolution of a residual block with everything around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.group_norm_silu import NormScope
from vdm_kernels.ops.group_norm_silu.arguments import joint_statistics, norm_arguments, statistics_argument
from vdm_kernels.ops.group_norm_silu_conv import reference
from vdm_kernels.setting import Held, Setting

Precision = Literal["fast", "strict"]

_PRECISION: Setting[Precision] = Setting("vdm_kernels_conv_precision", "fast")


def _output_shape(x: Tensor, weight: Tensor, upsample: bool, stride: int) -> tuple[int, ...]:
    batch, _, frames, height, width = x.shape
    if upsample:
        height, width = 2 * height, 2 * width
    return batch, weight.shape[0], frames, (height - 1) // stride + 1, (width - 1) // stride + 1


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x2: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    upsample: bool,
    stride: int,
    norm_scope: str,
    eps: float,
    precision: str,
    return_statistics: bool,
) -> tuple[Tensor, Tensor]:
    shape = _output_shape(x, weight, upsample, stride)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    rows = (shape[0], shape[2], shape[1], 2) if return_statistics else (0,)
    return y, x.new_empty(rows, dtype=torch.float64)


def _fake_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x2: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    upsample: bool,
    stride: int,
    norm_scope: str,
    eps: float,
    precision: str,
    return_statistics: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    return fake_gradients(x, weight, bias, norm_weight, norm_bias, scale, shift, x2, needs=needs)


def _prepare(*args: Any) -> tuple[Any, ...]:
    x, x2, statistics, num_groups = args[0], args[7], args[9], args[10]
    if num_groups and statistics is None:
        statistics = joint_statistics(x, x2)
    return (*args[:9], statistics, *args[10:])


GROUP_NORM_SILU_CONV_BWD = Op(reference.group_norm_silu_conv_bwd, fake=_fake_bwd, package=__name__)
GROUP_NORM_SILU_CONV = Op(
    reference.group_norm_silu_conv,
    fake=_fake,
    package=__name__,
    backward=GROUP_NORM_SILU_CONV_BWD,
    differentiable=("x", "weight", "bias", "norm_weight", "norm_bias", "scale", "shift", "x2"),
    addends=("residual",),
    memory_format=torch.channels_last_3d,
    prepare=_prepare,
)


@overload
def group_norm_silu_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    num_groups: int | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    x2: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
    stride: int = 1,
    norm_scope: NormScope = "frame",
    eps: float = 1e-5,
    statistics: Tensor | None = None,
    return_statistics: Literal[False] = False,
) -> Tensor: ...


@overload
def group_norm_silu_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    num_groups: int | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    x2: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
    stride: int = 1,
    norm_scope: NormScope = "frame",
    eps: float = 1e-5,
    statistics: Tensor | None = None,
    return_statistics: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def group_norm_silu_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    num_groups: int | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    x2: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
    stride: int = 1,
    norm_scope: NormScope = "frame",
    eps: float = 1e-5,
    statistics: Tensor | None = None,
    return_statistics: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def group_norm_silu_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    num_groups: int | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    x2: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
    stride: int = 1,
    norm_scope: NormScope = "frame",
    eps: float = 1e-5,
    statistics: Tensor | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """A convolution over every frame, with the GroupNorm and SiLU before it and the residual sum after it.

        y = conv(up(silu(group_norm(cat[x, x2]) (1 + scale) + shift))) + bias + residual

    the 1x3x3 convolution of a residual block (Ho et al. 2022, Video Diffusion Models, section 3). Without
    norm_weight there is neither norm nor SiLU. Zero padding k // 2 comes after SiLU. Statistics in
    float32 (float64 for a float64 x). Gradients of every tensor.

    Args:
        x: (B, C1, F, H, W), channels-last in memory (`torch.channels_last_3d`); another layout is converted.
        weight: (Cout, C, k, k), k = 1 or 3, with C = C1 + C2, in x's dtype.
        bias: (Cout,), or None.
        norm_weight, norm_bias: (C,), both or neither.
        num_groups: divides C; given exactly where norm_weight is.
        scale, shift: (B, C), or (B, F, C) for each frame its own; only with a norm.
        x2: (B, C2, F, H, W): channels that follow those of x, instead of a concatenation.
        residual: is added, (B, Cout, F, H', W').
        upsample: nearest-neighbour upsampling by 2 in height and width, before the convolution.
        stride: 1, or 2 for downsampling: H' = ceil(H / 2).
        norm_scope: "frame" (nothing passes between frames) or "video".
        eps: is added to the variance.
        statistics: (B, F, C, 2), `channel_statistics` of x and of x2 after it, where the caller has them; they are
            then not computed again.
        return_statistics: also return `channel_statistics(y)`, which costs next to nothing here.

    Returns:
        y (B, Cout, F, H', W'), channels-last, in x's dtype; under autocast in the autocast dtype. With
        return_statistics (y, statistics), the latter (B, F, Cout, 2) and constant.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype, device or range.
    """
    op = "group_norm_silu_conv"
    checks.floating(op, "x", x, 5, "(B, C, F, H, W)")
    if x2 is not None:
        checks.floating(op, "x2", x2, 5, "(B, C2, F, H, W)")
        checks.shape(op, "x2", x2, (x.shape[0], x2.shape[1], *x.shape[2:]), "(B, C2, F, H, W)")
        checks.device(op, "x2", x2, x.device)
    channels = x.shape[1] + (0 if x2 is None else x2.shape[1])
    _check_convolution(x, weight, bias, channels, upsample, stride)
    if norm_weight is None or norm_bias is None or num_groups is None:
        checks.one_of(op, "norm_scope", norm_scope, ("frame", "video"))
        checks.non_negative(op, "eps", eps)
        needed = (("norm_weight", norm_weight), ("norm_bias", norm_bias), ("num_groups", num_groups))
        for name, value in (*needed, ("scale", scale), ("shift", shift)):
            if value is not None:
                missing = next(other for other, its_value in needed if its_value is None)
                raise ValueError(
                    f"{op}: {name} must come with norm_weight, norm_bias and num_groups, got {missing}=None"
                )
    else:
        scale, shift = norm_arguments(
            op, x, channels, "norm_", norm_weight, norm_bias, scale, shift, num_groups, norm_scope, eps
        )
    statistics = statistics_argument(op, statistics, x, channels)
    checks.flag(op, "return_statistics", return_statistics)
    if residual is not None:
        shape = _output_shape(x, weight, upsample, stride)
        checks.shape(op, "residual", residual, shape, "(B, Cout, F, H', W')")
        checks.device(op, "residual", residual, x.device)
    x, weight, bias, x2, residual = checks.autocast(x, weight, bias, x2, residual)
    for name, other in (("weight", weight), ("bias", bias), ("x2", x2), ("residual", residual)):
        if other is not None:
            checks.dtype(op, name, other, x.dtype)
    y, y_statistics = GROUP_NORM_SILU_CONV(
        x.contiguous(memory_format=torch.channels_last_3d),
        weight,
        bias,
        norm_weight,
        norm_bias,
        scale,
        shift,
        None if x2 is None else x2.contiguous(memory_format=torch.channels_last_3d),
        None if residual is None else residual.contiguous(memory_format=torch.channels_last_3d),
        statistics,
        num_groups or 0,
        upsample,
        stride,
        norm_scope,
        float(eps),
        _PRECISION.get(),
        return_statistics,
    )
    return (y, y_statistics) if return_statistics else y


def conv_precision(name: Precision) -> Held[Precision]:
    """How exactly float32 convolutions inside are computed on a CPU: "fast" (the default) or "strict".

    Both multiply in float32 and differ in the rounding errors that Winograd's transforms add (Lavin and Gray 2016,
    arXiv 1509.09308): "fast" may use F(4x4, 3x3), whose error is within twice that of PyTorch's own convolution;
    "strict" uses F(2x2, 3x3), whose error is no larger than PyTorch's, at about two thirds of the speed. Elsewhere,
    and in upsampling, whose products are exact enough, the two are the same. Compiled functions are compiled again
    for another precision.

    Raises:
        ValueError: `name` is neither.
    """
    checks.one_of("conv_precision", "name", name, ("fast", "strict"))
    return _PRECISION.set(name)


def _check_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, channels: int, upsample: bool, stride: int
) -> None:
    op = "group_norm_silu_conv"
    checks.floating(op, "weight", weight, 4, "(Cout, C, k, k)")
    checks.device(op, "weight", weight, x.device)
    kernel = weight.shape[2]
    if weight.shape[1] != channels or kernel != weight.shape[3] or kernel not in (1, 3):
        raise ValueError(
            f"{op}: weight must be (Cout, C={channels}, k, k) with k 1 or 3, got {tuple(weight.shape)}"
        )
    if bias is not None:
        checks.shape(op, "bias", bias, (weight.shape[0],), "(Cout,)")
        checks.device(op, "bias", bias, x.device)
    checks.flag(op, "upsample", upsample)
    checks.one_of(op, "stride", stride, (1, 2))
    if upsample and stride != 1:
        raise ValueError(f"{op}: stride must be 1 where upsample is True, got {stride}")

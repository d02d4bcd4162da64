"""`group_norm_silu_conv`: the convolution of a residual block with everything around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.group_norm_silu import NormScope
from vdm_kernels.ops.group_norm_silu.arguments import norm_arguments
from vdm_kernels.ops.group_norm_silu_conv import reference


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
    num_groups: int,
    upsample: bool,
    stride: int,
    norm_scope: str,
    eps: float,
) -> Tensor:
    shape = _output_shape(x, weight, upsample, stride)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


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
    num_groups: int,
    upsample: bool,
    stride: int,
    norm_scope: str,
    eps: float,
    needs: Sequence[bool],
) -> list[Tensor]:
    tensors = (x, weight, bias, norm_weight, norm_bias, scale, shift, x2, residual)
    return fake_gradients(*tensors, needs=needs)


GROUP_NORM_SILU_CONV_BWD = Op(reference.group_norm_silu_conv_bwd, fake=_fake_bwd, package=__name__)
GROUP_NORM_SILU_CONV = Op(
    reference.group_norm_silu_conv,
    fake=_fake,
    package=__name__,
    backward=GROUP_NORM_SILU_CONV_BWD,
    differentiable=(
        "x",
        "weight",
        "bias",
        "norm_weight",
        "norm_bias",
        "scale",
        "shift",
        "x2",
        "residual",
    ),
    memory_format=torch.channels_last_3d,
)


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
) -> Tensor:
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

    Returns:
        (B, Cout, F, H', W'), channels-last, in x's dtype; under autocast in the autocast dtype.

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
        norm = {"norm_weight": norm_weight, "norm_bias": norm_bias, "num_groups": num_groups}
        missing = next(name for name, value in norm.items() if value is None)
        for name, value in {**norm, "scale": scale, "shift": shift}.items():
            if value is not None:
                raise ValueError(
                    f"{op}: {name} must come with norm_weight, norm_bias and num_groups, got {missing}=None"
                )
    else:
        scale, shift = norm_arguments(
            op, x, channels, "norm_", norm_weight, norm_bias, scale, shift, num_groups, norm_scope, eps
        )
    if residual is not None:
        shape = _output_shape(x, weight, upsample, stride)
        checks.shape(op, "residual", residual, shape, "(B, Cout, F, H', W')")
        checks.device(op, "residual", residual, x.device)
    x, weight, bias, x2, residual = checks.autocast(x, weight, bias, x2, residual)
    for name, other in (("weight", weight), ("bias", bias), ("x2", x2), ("residual", residual)):
        if other is not None:
            checks.dtype(op, name, other, x.dtype)
    y: Tensor = GROUP_NORM_SILU_CONV(
        x.contiguous(memory_format=torch.channels_last_3d),
        weight,
        bias,
        norm_weight,
        norm_bias,
        scale,
        shift,
        None if x2 is None else x2.contiguous(memory_format=torch.channels_last_3d),
        None if residual is None else residual.contiguous(memory_format=torch.channels_last_3d),
        num_groups or 0,
        upsample,
        stride,
        norm_scope,
        float(eps),
    )
    return y


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
        checks.shape(op, "bias", bias, weight.shape[:1], "(Cout,)")
        checks.device(op, "bias", bias, x.device)
    checks.flag(op, "upsample", upsample)
    checks.one_of(op, "stride", stride, (1, 2))
    if upsample and stride != 1:
        raise ValueError(f"{op}: stride must be 1 where upsample is True, got {stride}")

"""`group_norm_silu_conv` in C++, on a GPU by cuda.py. Kernel arguments come in the tuples of csrc/bindings.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, C, launch, pointer
from vdm_kernels.ops.channel_statistics.native import joint_statistics
from vdm_kernels.ops.group_norm_silu.native import (
    NormTensors,
    float32,
    input_gradients,
    kernel_norm,
    unsupported_norm,
)
from vdm_kernels.ops.group_norm_silu_conv import cuda, weights
from vdm_kernels.ops.group_norm_silu_conv.winograd import (
    FEWEST_CHANNELS,
    TapsKernel,
    WinogradKernel,
    transformed_weights,
    winograd_kernel,
    winograd_weight,
)

# GroupNormArgs, and the tensors that they point to.
_Norm: TypeAlias = tuple[tuple[float, ...], NormTensors | None]
_NO_NORM: _Norm = ((0,) * 10 + (False, 0.0), None)


def supports_group_norm_silu_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    *args: Any,
) -> str | None:
    """None, or why the extension cannot run this call."""
    return unsupported_norm(x, norm_weight, norm_bias, scale, shift)


def supports_group_norm_silu_conv_bwd(dout: Tensor, *args: Any) -> str | None:
    """None, or why the extension cannot run this call."""
    return supports_group_norm_silu_conv(*args)


def group_norm_silu_conv(
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
) -> tuple[Tensor, Tensor | None]:
    """See `vdm_kernels.group_norm_silu_conv`; videos are channels-last, scale and shift (B, C) or (B, F, C)."""
    affine = (norm_weight, norm_bias, scale, shift)
    if x.is_cuda:
        norm = cuda.norm_of(*affine, statistics, num_groups, norm_scope, eps)
        convolution = (weight, bias, residual, upsample, stride, return_statistics)
        return cuda.group_norm_silu_conv(x, x2, norm, *convolution)
    batch, _, frames, height, width = x.shape
    if upsample:
        height, width = 2 * height, 2 * width
    elif stride != 1:
        height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
    kernel = _kernel(weight, stride, upsample)
    winograd = winograd_kernel(kernel, height, width, precision)
    if num_groups and statistics is None:
        assert C is not None
        makes_them = norm_scope == "frame" and winograd is not None
        if not (makes_them and C.winograd_makes_statistics(winograd, batch * frames)):
            statistics = joint_statistics(x, x2)
    y = _empty_video(x, weight.shape[0], height, width)
    y_statistics = None
    if return_statistics:
        rows = (batch, frames, weight.shape[0], 2)
        y_statistics = torch.empty(rows, dtype=torch.float64, device=x.device)
    _convolve(
        _video(x, x2),
        _norm(x, *affine, statistics, num_groups, norm_scope, eps),
        weight,
        kernel,
        winograd,
        y,
        bias,
        residual,
        y_statistics,
    )
    return y, y_statistics


def group_norm_silu_conv_bwd(
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
) -> list[Tensor | None]:
    """Gradients of (x, weight, bias, norm_weight, norm_bias, scale, shift, x2), None where not needed."""
    if num_groups and statistics is None:
        statistics = joint_statistics(x, x2)
    norm = (norm_weight, norm_bias, scale, shift, statistics, num_groups, norm_scope, eps)
    if x.is_cuda:
        return cuda.group_norm_silu_conv_bwd(
            dout, x, x2, cuda.norm_of(*norm), weight, bias, upsample, stride, needs
        )
    need_x, need_weight, need_bias, *need_affine, need_x2 = needs
    kernel = _kernel(weight, stride, upsample)
    dweight: Tensor | None = None
    dbias: Tensor | None = None
    if need_weight or need_bias:
        dweight, dbias = _weight_gradients(_video(x, x2), _norm(x, *norm), weight, kernel, precision, dout)
    dx: Tensor | None = None
    dx2: Tensor | None = None
    daffine: list[Tensor | None] = [None] * 4
    if norm_weight is not None and norm_bias is not None and statistics is not None:
        if need_x or need_x2 or any(need_affine):
            winograd = winograd_kernel(_kernel(weight, stride, upsample, True), *dout.shape[3:], precision)
            convolution: tuple[Any, ...] = ()
            if winograd is None:
                da = _empty_video(x, weight.shape[1], *x.shape[3:])
                _convolve_transposed(dout, weight, stride, upsample, precision, da)
            else:
                da, transformed = dout, transformed_weights(weight, winograd)
                convolution = (winograd_weight(weight, winograd), _video(dout), pointer(transformed))
            affine = (norm_weight, norm_bias, scale, shift)
            settings = (statistics, num_groups, norm_scope, eps)
            needs_norm = (need_x, *need_affine, need_x2)
            dx, *daffine, dx2 = input_gradients(da, x, x2, *affine, *settings, needs_norm, convolution)
    else:
        if need_x:
            dx = _empty_video(x, x.shape[1], *x.shape[3:])
            part = weight if x2 is None else weight[:, : x.shape[1]]
            _convolve_transposed(dout, part, stride, upsample, precision, dx)
        if need_x2:
            assert x2 is not None
            dx2 = _empty_video(x2, x2.shape[1], *x2.shape[3:])
            _convolve_transposed(dout, weight[:, x.shape[1] :], stride, upsample, precision, dx2)
    return [gradient if need else None for gradient, need in zip((dx, dweight, dbias, *daffine, dx2), needs)]


def _kernel(weight: Tensor, stride: int, upsample: bool, transposed: bool = False) -> TapsKernel:
    out_channels, in_channels, size, _ = weight.shape
    return out_channels, in_channels, size, stride, upsample, transposed


def _norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> _Norm:
    """`kernel_norm` where there is one."""
    return _NO_NORM if weight is None or bias is None else kernel_norm(x, weight, bias, *rest)


def _video(x: Tensor, x2: Tensor | None = None) -> tuple[int, ...]:
    """ConvInputArgs."""
    batch, channels, frames, height, width = x.shape
    both = channels if x2 is None else channels + x2.shape[1]
    return x.data_ptr(), pointer(x2), DTYPE_CODES[x.dtype], batch * frames, height, width, channels, both


def _empty_video(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    batch, _, frames, _, _ = like.shape
    # The strides of torch.channels_last_3d; given its name, torch.empty is slower where caches are cold.
    strides = (frames * height * width * channels, 1, height * width * channels, width * channels, channels)
    shape = (batch, channels, frames, height, width)
    return torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)


def _convolve(
    video: tuple[int, ...],
    norm: _Norm,
    weight: Tensor,
    kernel: TapsKernel,
    winograd: WinogradKernel | None,
    y: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    statistics: Tensor | None = None,
) -> None:
    """Fills y, and its statistics unless they are absent."""
    batch, channels, frames, height, width = y.shape
    bias = None if bias is None else float32(bias)
    pointers = (y.data_ptr(), pointer(residual), pointer(bias), DTYPE_CODES[y.dtype])
    output, rows = (*pointers, batch * frames, height, width, channels), pointer(statistics)
    if winograd is None:
        packed = _packed(weight, kernel)
        launch("taps_conv", y.device, kernel, video, norm[0], output, packed.data_ptr(), rows)
        return
    arguments = (winograd_weight(weight, winograd), video, norm[0], output)
    guess = weights.guess(weight, winograd)
    if guess is not None:
        guessed, fingerprint = guess
        if launch("winograd_conv", y.device, *arguments, guessed.data_ptr(), rows, True) == fingerprint:
            return
    transformed = transformed_weights(weight, winograd)
    launch("winograd_conv", y.device, *arguments, pointer(transformed), rows, False)


def _convolve_transposed(
    dout: Tensor, weight: Tensor, stride: int, upsample: bool, precision: str, dx: Tensor
) -> None:
    """Fills dx, the gradient of what a convolution reads."""
    kernel = _kernel(weight, stride, upsample, transposed=True)
    winograd = winograd_kernel(kernel, *dout.shape[3:], precision)
    _convolve(_video(dout), _NO_NORM, weight, kernel, winograd, dx)


def packed_linear(weight: Tensor) -> Tensor:
    """The weight (Cout, C) of a linear layer in panels of 32 output channels: that of a 1x1 convolution."""
    return _packed(weight, (*weight.shape, 1, 1, False, False))


def _packed(weight: Tensor, kernel: tuple[Any, ...]) -> Tensor:
    """The weight (Cout, C, k, k), or (Cout, C), as the sum over taps reads it; kept while it stays what it is."""
    assert C is not None

    def pack(packed: Tensor) -> None:
        floats = weight.float()
        strides = (*floats.stride(), 1, 1)[:4]
        launch("taps_pack", weight.device, kernel, floats.data_ptr(), strides, packed.data_ptr())

    form, size = ("taps", *kernel), C.taps_packed_size(kernel)
    return weights.prepared(weight, form, size, pack, weights.Worth.MUCH)


def _weight_gradients(
    video: tuple[int, ...], norm: _Norm, weight: Tensor, kernel: TapsKernel, precision: str, dout: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the weight, laid out like it, and of the bias, in the dtype of the weight."""
    winograd = winograd_kernel(kernel, *dout.shape[3:], precision)
    videos = (video, norm[0], _video(dout))
    dbias = weight.new_empty(weight.shape[0], dtype=torch.float32)
    if winograd is not None and winograd.out_channels >= FEWEST_CHANNELS:
        dweight = torch.empty_like(weight)
        result = (dweight.data_ptr(), DTYPE_CODES[weight.dtype], weight.stride(), dbias.data_ptr())
        launch("winograd_weight_gradient", dout.device, winograd, *videos, *result)
    else:
        dweight = torch.empty_like(weight, dtype=torch.float32)
        taps = (kernel, *videos, dweight.data_ptr(), dweight.stride(), dbias.data_ptr())
        launch("taps_weight_gradient", dout.device, *taps)
    return dweight.to(weight.dtype), dbias.to(weight.dtype)

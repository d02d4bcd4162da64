"""`group_norm_silu_conv` in C++, on a GPU by cuda.py. Kernel arguments come in the tuples of csrc/bindings.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, C, launch, pointer, unsupported
from vdm_kernels.ops.channel_statistics.native import joint_statistics
from vdm_kernels.ops.group_norm_silu.native import NormTensors, input_gradients, norm_tensors
from vdm_kernels.ops.group_norm_silu_conv import cuda, weights
from vdm_kernels.ops.group_norm_silu_conv.winograd import (
    FEWEST_CHANNELS,
    WinogradKernel,
    guessed_weights,
    transformed_weights,
    winograd_kernel,
    winograd_weight,
)


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
    affine = [tensor.dtype for tensor in (norm_weight, norm_bias, scale, shift) if tensor is not None]
    if torch.float64 in affine:
        return "the native kernels compute in float32, and a parameter is float64"
    return unsupported(x.device, x.dtype, *affine)


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
) -> tuple[Tensor, Tensor]:
    """See `vdm_kernels.group_norm_silu_conv`; videos are channels-last, scale and shift (B, C) or (B, F, C)."""
    norm = (norm_weight, norm_bias, scale, shift, statistics, num_groups, norm_scope, eps)
    if x.is_cuda:
        convolution = (weight, bias, residual, upsample, stride, return_statistics)
        return cuda.group_norm_silu_conv(x, x2, cuda.norm_of(*norm), *convolution)
    batch, _, frames, height, width = x.shape
    size = (2 * height, 2 * width) if upsample else ((height - 1) // stride + 1, (width - 1) // stride + 1)
    kernel = _Kernel(weight, stride, upsample, precision)
    winograd = kernel.winograd(*size)
    if num_groups and statistics is None:
        made = norm_scope == "frame" and _makes_statistics(winograd, batch * frames)
        norm = (*norm[:4], None if made else joint_statistics(x, x2), *norm[5:])
    y = _empty_video(x, weight.shape[0], *size)
    rows = (batch, frames, weight.shape[0], 2) if return_statistics else (0,)
    y_statistics = torch.empty(rows, dtype=torch.float64, device=x.device)
    _convolve(_source(x, x2, *norm), kernel, winograd, y, bias, residual, y_statistics)
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
) -> list[Tensor]:
    """Gradients of (x, weight, bias, norm_weight, norm_bias, scale, shift, x2), empty where not needed."""
    if num_groups and statistics is None:
        statistics = joint_statistics(x, x2)
    norm = (norm_weight, norm_bias, scale, shift, statistics, num_groups, norm_scope, eps)
    if x.is_cuda:
        return cuda.group_norm_silu_conv_bwd(
            dout, x, x2, cuda.norm_of(*norm), weight, bias, upsample, stride, needs
        )
    need_x, need_weight, need_bias, *need_affine, need_x2 = needs
    empty = dout.new_empty(0)
    kernel = _Kernel(weight, stride, upsample, precision)
    dweight, dbias = empty, empty
    if need_weight or need_bias:
        dweight, dbias = _weight_gradients(_source(x, x2, *norm), kernel, dout)
    dx, daffine, dx2 = empty, [empty] * 4, empty
    dy, transposed = _source(dout), kernel._replace(transposed=True)
    if norm_weight is not None and norm_bias is not None and statistics is not None:
        if need_x or need_x2 or any(need_affine):
            winograd = transposed.winograd(*dout.shape[3:])
            convolution: tuple[Any, ...] = ()
            if winograd is None:
                da = _empty_video(x, weight.shape[1], *x.shape[3:])
                _convolve(dy, transposed, None, da)
            else:
                da, transformed = dout, transformed_weights(weight, winograd)
                convolution = (winograd_weight(weight, winograd), dy.video, pointer(transformed))
            affine = (norm_weight, norm_bias, scale, shift)
            settings = (statistics, num_groups, norm_scope, eps)
            needs_norm = (need_x, *need_affine, need_x2)
            dx, *daffine, dx2 = input_gradients(da, x, x2, *affine, *settings, needs_norm, convolution)
    else:
        if need_x:
            dx = _empty_video(x, x.shape[1], *x.shape[3:])
            part = transposed if x2 is None else transposed._replace(weight=weight[:, : x.shape[1]])
            _convolve(dy, part, part.winograd(*dout.shape[3:]), dx)
        if need_x2:
            assert x2 is not None
            dx2 = _empty_video(x2, x2.shape[1], *x2.shape[3:])
            part = transposed._replace(weight=weight[:, x.shape[1] :])
            _convolve(dy, part, part.winograd(*dout.shape[3:]), dx2)
    return [gradient if need else empty for gradient, need in zip((dx, dweight, dbias, *daffine, dx2), needs)]


class _Source(NamedTuple):
    """What a convolution reads, ConvInputArgs and GroupNormArgs, and the tensors of the norm that it points to."""

    video: tuple[int, ...]
    norm: tuple[float, ...]
    tensors: NormTensors | None


def _source(
    x: Tensor,
    x2: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    statistics: Tensor | None = None,
    num_groups: int = 0,
    norm_scope: str = "frame",
    eps: float = 0.0,
) -> _Source:
    batch, channels, frames, height, width = x.shape
    sizes = (batch * frames, height, width, channels, channels + (0 if x2 is None else x2.shape[1]))
    video = (x.data_ptr(), pointer(x2), DTYPE_CODES[x.dtype], *sizes)
    if norm_weight is None or norm_bias is None:
        return _Source(video, (0,) * 10 + (False, 0.0), None)
    norm = norm_tensors(statistics, norm_weight, norm_bias, scale, shift)
    return _Source(video, norm.arguments(x, num_groups, norm_scope, eps), norm)


class _Kernel(NamedTuple):
    weight: Tensor
    stride: int
    upsample: bool
    precision: str
    transposed: bool = False  # from the gradient of the output to that of the input

    def arguments(self) -> tuple[int, ...]:
        """TapsKernelArgs."""
        return (*self.weight.shape[:3], self.stride, self.upsample, self.transposed)

    def winograd(self, height: int, width: int) -> WinogradKernel | None:
        """The faster algorithm for a convolution whose result has this size; None where that is the sum of taps.

        The result is that of the forward pass: also a transposed one's tiles are of it.
        """
        size = (height, width)
        return winograd_kernel(self.weight, self.stride, self.upsample, self.transposed, size, self.precision)


def _makes_statistics(winograd: WinogradKernel | None, images: int) -> bool:
    """Whether the convolution makes the statistics for a norm of frames itself."""
    assert C is not None
    return winograd is not None and C.winograd_makes_statistics(winograd, images)


def _empty_video(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    shape = (like.shape[0], channels, like.shape[2], height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


def _convolve(
    source: _Source,
    kernel: _Kernel,
    winograd: WinogradKernel | None,
    y: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    statistics: Tensor | None = None,
) -> None:
    """Fills y, and its statistics unless they are absent or empty."""
    batch, channels, frames, height, width = y.shape
    bias = None if bias is None else bias.float().contiguous()
    sizes = (batch * frames, height, width, channels)
    output = (y.data_ptr(), pointer(residual), pointer(bias), DTYPE_CODES[y.dtype], *sizes)
    rows = 0 if statistics is None or statistics.numel() == 0 else statistics.data_ptr()
    if winograd is not None:
        arguments = (winograd_weight(kernel.weight, winograd), source.video, source.norm, output)
        guess = guessed_weights(kernel.weight, winograd)
        if guess is not None:
            guessed, fingerprint = guess
            if launch("winograd_conv", y.device, *arguments, guessed.data_ptr(), rows, True) == fingerprint:
                return
        transformed = transformed_weights(kernel.weight, winograd)
        launch("winograd_conv", y.device, *arguments, pointer(transformed), rows, False)
        return
    taps = kernel.arguments()
    packed = _packed(kernel.weight, taps)
    launch("taps_conv", y.device, taps, source.video, source.norm, output, packed.data_ptr(), rows)


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


def _weight_gradients(source: _Source, kernel: _Kernel, dout: Tensor) -> tuple[Tensor, Tensor]:
    """Of the weight, laid out like it, and of the bias, in the dtype of the weight."""
    weight = kernel.weight
    winograd = kernel.winograd(*dout.shape[3:])
    if winograd is not None and winograd.out_channels >= FEWEST_CHANNELS:
        dweight = torch.empty_like(weight)
        dbias = weight.new_empty(weight.shape[0], dtype=torch.float32)
        videos = (source.video, source.norm, _source(dout).video)
        result = (dweight.data_ptr(), DTYPE_CODES[weight.dtype], weight.stride(), dbias.data_ptr())
        launch("winograd_weight_gradient", dout.device, winograd, *videos, *result)
        return dweight, dbias.to(weight.dtype)
    dweight = torch.empty_like(weight, dtype=torch.float32)
    dbias = weight.new_empty(weight.shape[0], dtype=torch.float32)
    launch(
        "taps_weight_gradient",
        dout.device,
        kernel.arguments(),
        source.video,
        source.norm,
        _source(dout).video,
        dweight.data_ptr(),
        dweight.stride(),
        dbias.data_ptr(),
    )
    return dweight.to(weight.dtype), dbias.to(weight.dtype)

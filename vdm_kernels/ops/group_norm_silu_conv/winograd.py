"""Which convolutions Winograd's minimal filtering computes, and its weights. The kernels are csrc/.../winograd.h."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, C, launch
from vdm_kernels.ops.group_norm_silu_conv import weights
from vdm_kernels.ops.group_norm_silu_conv.weights import Worth

# TapsKernelArgs of csrc/bindings.cpp: out_channels, in_channels, size, stride, upsample, and transposed, which is from
# the gradient of the output to that of the input.
TapsKernel: TypeAlias = tuple[int, int, int, int, bool, bool]


class WinogradKernel(NamedTuple):
    """WinogradKernelArgs of csrc/bindings.cpp."""

    out_channels: int
    in_channels: int
    tile: int
    upsample: bool
    transposed: bool


@functools.cache
def winograd_kernel(kernel: TapsKernel, height: int, width: int, precision: str) -> WinogradKernel | None:
    """How Winograd computes a convolution whose result has this size; None where a sum over taps is faster.

    The result is that of the forward pass: also a transposed one's tiles are of it.

    Multiplications per pixel and pair of channels, where tiles fit the image: F(4x4, 3x3) 2.25, F(2x2, 3x3) 4, taps
    9; of an upsampled image 1.56 in any precision, and taps at the low resolution 4. The transforms' share is the
    greater the fewer channels there are.
    """
    out_channels, in_channels, kernel_size, stride, upsample, transposed = kernel
    reads = out_channels if transposed else in_channels
    if kernel_size != 3 or stride != 1 or reads < FEWEST_CHANNELS:
        return None
    tile = 4 if upsample or precision == "fast" else 2
    points, tiles = 5 if upsample else tile + 2, -(-height // tile) * -(-width // tile)
    taps = 4 if upsample else 9
    if points**2 * tiles > _WORTH_TRANSFORMING * taps * height * width:
        return None
    return WinogradKernel(out_channels, in_channels, tile, upsample, transposed)


FEWEST_CHANNELS = 16  # read by a convolution; on both sides of a gradient of the weight
_WORTH_TRANSFORMING = 0.7


def winograd_weight(weight: Tensor, kernel: WinogradKernel) -> tuple[Any, ...]:
    """WinogradWeightArgs of csrc/bindings.cpp."""
    return kernel, weight.data_ptr(), DTYPE_CODES[weight.dtype], weight.stride()


def transformed_weights(weight: Tensor, kernel: WinogradKernel) -> Tensor | None:
    """G g G^T, as the kernel reads it; None where that is not kept and the kernel makes it as it goes."""
    size, worth = _size_and_worth(kernel)

    def transform(transformed: Tensor) -> None:
        launch("winograd_weights", weight.device, winograd_weight(weight, kernel), transformed.data_ptr())

    keep = weights.kept if worth == Worth.LITTLE else weights.prepared
    return keep(weight, kernel, size, transform, worth)


@functools.cache
def _size_and_worth(kernel: WinogradKernel) -> tuple[int, Worth]:
    assert C is not None
    return C.winograd_weights_size(kernel), Worth.LITTLE if C.winograd_makes_weights(kernel) else Worth.SOME

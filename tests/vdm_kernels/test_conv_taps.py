"""The convolution over taps on the CPU, on every instruction set, against float64, whatever the op would choose."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vdm_kernels
from vdm_kernels import native
from vdm_kernels.native import DTYPE_CODES, launch, pointer
from vdm_kernels.ops.channel_statistics.reference import channel_statistics
from vdm_kernels.ops.group_norm_silu.native import kernel_norm
from vdm_kernels.ops.group_norm_silu_conv.reference import group_norm_silu_conv
from vdm_kernels.testing import assert_close, tensors

pytestmark = pytest.mark.skipif(native.C is None, reason=f"no native extension: {native.WHY_NOT}")

CPU = torch.device("cpu")
NO_NORM = (0,) * 10 + (False, 0.0)


class Kind(NamedTuple):
    """A kind of convolution."""

    size: int
    stride: int
    upsample: bool


KINDS = {
    "conv3x3": Kind(3, 1, False),
    "conv3x3_stride2": Kind(3, 2, False),
    "conv1x1": Kind(1, 1, False),
    "conv1x1_stride2": Kind(1, 2, False),
    "conv3x3_upsample": Kind(3, 1, True),
    "conv1x1_upsample": Kind(1, 1, True),
}

# Frames, height, width, channels, output channels.
SHAPES = {
    "odd": (3, 7, 5, 5, 7),
    "input_layer": (2, 9, 33, 3, 64),
    "output_layer": (2, 12, 10, 40, 3),
    "panels": (2, 8, 8, 64, 80),
    "one_pixel": (4, 1, 1, 16, 33),
    "one_row": (1, 1, 21, 8, 32),
    "one_column": (1, 22, 1, 8, 17),
    "segments": (1, 51, 49, 48, 16),
    "many_small_images": (33, 3, 2, 15, 18),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def channels_last(video: Tensor) -> Tensor:
    return video.contiguous(memory_format=torch.channels_last_3d)


class Problem:
    """One convolution with everything around it, as the kernels take it; outputs start as NaN."""

    def __init__(
        self,
        kind: Kind,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        *,
        channels2: int = 0,
        num_groups: int = 0,
        norm_scope: str = "frame",
        modulation_frames: int = 0,
        residual: bool = False,
        offset: float = 0.0,
        weight_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        normal = tensors(dtype, CPU)
        frames, height, width, channels, self.out_channels = shape
        batch = 1 if frames % 2 else 2
        self.kind, self.batch, self.frames = kind, batch, frames // batch
        both = channels + channels2
        self.x = channels_last(normal(batch, channels, self.frames, height, width) + offset)
        x2 = normal(batch, channels2, self.frames, height, width)
        self.x2 = channels_last(x2) if channels2 else None
        weight = normal(self.out_channels, both, kind.size, kind.size) / (kind.size * both**0.5)
        self.weight = weight.contiguous(memory_format=weight_format)
        self.bias = normal(self.out_channels)
        self.norm_weight = 1.0 + 0.3 * normal(both) if num_groups else None
        self.norm_bias = 0.3 * normal(both) if num_groups else None
        modulation = (batch, modulation_frames and self.frames, both)
        self.scale = 0.3 * normal(*modulation) if modulation_frames else None
        self.shift = 0.3 * normal(*modulation) if modulation_frames else None
        self.num_groups, self.norm_scope = num_groups, norm_scope
        up = 2 if kind.upsample else 1
        size = ((up * height - 1) // kind.stride + 1, (up * width - 1) // kind.stride + 1)
        self.y_shape = (batch, self.out_channels, self.frames, *size)
        self.residual = channels_last(normal(*self.y_shape)) if residual else None
        self.dy = channels_last(normal(*self.y_shape))

    def reference(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What is expected, computed by the reference in `dtype`."""

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        weight, bias = self.weight.to(dtype).requires_grad_(), self.bias.to(dtype).requires_grad_()
        affine = [cast(tensor) for tensor in (self.norm_weight, self.norm_bias, self.scale, self.shift)]
        kind, norm = self.kind, (self.num_groups, self.kind.upsample, self.kind.stride, self.norm_scope, 1e-5)
        with torch.enable_grad():
            y, _ = group_norm_silu_conv(
                self.x.to(dtype),
                weight,
                bias,
                *affine,
                cast(self.x2),
                cast(self.residual),
                None,
                *norm,
                "fast",
                False,
            )
        dweight, dbias = torch.autograd.grad(y, (weight, bias), self.dy.to(dtype), materialize_grads=True)
        # The gradient with respect to the activation: that of a convolution of anything.
        both = self.x.shape[1] + (0 if self.x2 is None else self.x2.shape[1])
        a = torch.zeros(self.batch * self.frames, both, *self.x.shape[3:], dtype=dtype, requires_grad=True)
        images = F.interpolate(a, scale_factor=2.0) if kind.upsample else a
        dy = self.dy.to(dtype).transpose(1, 2).flatten(0, 1)
        out = F.conv2d(images, weight, stride=kind.stride, padding=kind.size // 2)
        (da,) = torch.autograd.grad(out, a, dy, materialize_grads=True)
        da = da.unflatten(0, (self.batch, self.frames)).transpose(1, 2)
        return {
            "y": y.detach(),
            "dweight": dweight,
            "dbias": dbias,
            "da": da,
        }

    def run(self) -> dict[str, Tensor]:
        """What the kernels compute."""
        nan, dtype = float("nan"), self.x.dtype
        y = channels_last(torch.full(self.y_shape, nan, dtype=dtype))
        statistics = torch.full((self.batch, self.frames, self.out_channels, 2), nan, dtype=torch.float64)
        norm: Any = NO_NORM
        if self.norm_weight is not None and self.norm_bias is not None:
            given = [channel_statistics(video) for video in (self.x, self.x2) if video is not None]
            affine = (self.norm_weight, self.norm_bias, self.scale, self.shift)
            settings = (torch.cat(given, dim=2).double(), self.num_groups, self.norm_scope, 1e-5)
            norm, _held = kernel_norm(self.x, *affine, *settings)
        bias = self.bias.float()
        source, target = self._video(self.x, self.x2), self._video(y)
        output = (y.data_ptr(), pointer(self.residual), bias.data_ptr(), *target[2:6], self.out_channels)
        kernel, packed = self._packed(transposed=False)
        launch("taps_conv", CPU, kernel, source, norm, output, packed.data_ptr(), statistics.data_ptr())

        both = source[-1]
        da = channels_last(torch.full((self.batch, both, self.frames, *self.x.shape[3:]), nan, dtype=dtype))
        kernel, packed = self._packed(transposed=True)
        output = (da.data_ptr(), 0, 0, *self._video(da)[2:6], both)
        launch("taps_conv", CPU, kernel, self._video(self.dy), NO_NORM, output, packed.data_ptr(), 0)

        dweight = torch.full_like(self.weight, nan, dtype=torch.float32)
        dbias = torch.full((self.out_channels,), nan)
        kernel, _ = self._packed(transposed=False)
        rows = (dweight.data_ptr(), dweight.stride(), dbias.data_ptr())
        launch("taps_weight_gradient", CPU, kernel, source, norm, self._video(self.dy), *rows)
        return {
            "y": y,
            "statistics": statistics,
            "dweight": dweight.to(dtype),
            "dbias": dbias.to(dtype),
            "da": da,
        }

    def check(self) -> None:
        """Compares what was computed with float64, and with the reference's error in the same dtype."""
        expected, low = self.reference(torch.float64), self.reference(self.x.dtype)
        results = self.run()
        # Of the output as it is, so that its own error does not count.
        statistics = channel_statistics(results["y"].double())
        assert_close(results.pop("statistics"), statistics, statistics, "statistics")
        for name, actual in results.items():
            assert_close(actual, expected[name], low[name].to(actual.dtype), name)

    def _packed(self, transposed: bool) -> tuple[tuple[int, ...], Tensor]:
        assert native.C is not None
        kernel = (*self.weight.shape[:2], *self.kind, transposed)
        packed = torch.full((native.C.taps_packed_size(kernel),), float("nan"))
        weight = self.weight.float()
        launch("taps_pack", CPU, kernel, weight.data_ptr(), weight.stride(), packed.data_ptr())
        return kernel, packed

    def _video(self, x: Tensor, x2: Tensor | None = None) -> tuple[int, ...]:
        batch, channels, frames, height, width = x.shape
        both = channels + (0 if x2 is None else x2.shape[1])
        return (
            x.data_ptr(),
            pointer(x2),
            DTYPE_CODES[x.dtype],
            batch * frames,
            height,
            width,
            channels,
            both,
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_plain(isa: str, kind: Kind, shape: str) -> None:
    Problem(kind, SHAPES[shape]).check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_types(isa: str, kind: Kind, dtype: torch.dtype) -> None:
    Problem(kind, SHAPES["odd"], dtype, residual=True).check()
    Problem(kind, SHAPES["panels"], dtype, num_groups=8, channels2=8, residual=True).check()


@pytest.mark.parametrize("norm_scope", ["frame", "video"])
@pytest.mark.parametrize("modulation_frames", [0, 1])
def test_norm(isa: str, kind: Kind, norm_scope: str, modulation_frames: int) -> None:
    for shape, groups in ((6, 9, 11, 24, 20), 8), ((3, 5, 4, 15, 40), 3):
        Problem(
            kind,
            shape,
            num_groups=groups,
            norm_scope=norm_scope,
            modulation_frames=modulation_frames,
            residual=True,
        ).check()


def test_second_input(isa: str, kind: Kind) -> None:
    Problem(kind, (2, 6, 7, 5, 9), channels2=4).check()
    Problem(kind, (2, 6, 7, 32, 40), channels2=16, num_groups=6, residual=True).check()
    Problem(kind, (1, 30, 31, 40, 9), channels2=24, residual=True).check()
    Problem(kind, (1, 30, 31, 40, 72), channels2=24, residual=True).check()


def test_output_larger_than_the_cache(isa: str) -> None:
    normal = tensors(torch.float32, CPU)
    x, residual = normal(1, 8, 9, 128, 128), normal(1, 64, 9, 128, 128)
    weight, bias = normal(64, 8, 1, 1), normal(64)
    with vdm_kernels.use_backend("native"):
        y = vdm_kernels.group_norm_silu_conv(channels_last(x), weight, bias, residual=channels_last(residual))
    expected = F.conv3d(x, weight[:, :, None], bias) + residual
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_mean_over_std(isa: str, kind: Kind) -> None:
    Problem(kind, (2, 6, 6, 8, 16), num_groups=2, offset=1000.0).check()


def test_channels_last_weight(isa: str, kind: Kind) -> None:
    Problem(kind, (2, 6, 7, 20, 34), weight_format=torch.channels_last).check()


@pytest.mark.parametrize("shape", [(0, 5, 4, 8, 6), (2, 0, 4, 8, 6), (2, 4, 0, 8, 6)])
def test_empty(kind: Kind, shape: tuple[int, ...]) -> None:
    results = Problem(kind, shape).run()
    assert results["y"].numel() == results["da"].numel() == 0
    assert not results["dweight"].any()
    assert not results["dbias"].any()


@pytest.mark.parametrize("shape", [(1, 4, 4, 64, 200), (1, 51, 49, 48, 40), (5, 8, 8, 32, 64)])
def test_results_do_not_depend_on_the_number_of_threads(kind: Kind, shape: tuple[int, ...]) -> None:
    problems = [Problem(kind, shape, num_groups=groups, residual=True) for groups in (0, 8)]
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([problem.run() for problem in problems])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for expected, actual in zip(results[0], other):
            for name, result in expected.items():
                assert torch.equal(result, actual[name]), name

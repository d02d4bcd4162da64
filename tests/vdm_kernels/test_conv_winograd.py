"""Winograd's convolutions on the CPU: every option on every instruction set, against float64; on any number of threads.

What the operator's contract asks is tested there; here are sizes and layouts that its samples leave out, and that
Winograd is what runs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vdm_kernels
from vdm_kernels.op import OPS
from vdm_kernels.ops.group_norm_silu.arguments import joint_statistics
from vdm_kernels.ops.group_norm_silu_conv import native, weights
from vdm_kernels.ops.group_norm_silu_conv.winograd import WinogradKernel

CONV = OPS["group_norm_silu_conv"]
pytestmark = pytest.mark.skipif(CONV.why_not("native") is not None, reason=str(CONV.why_not("native")))
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}

# Tiles that stick out of the image, channels that are not whole vectors or panels, more than one strip, block, part
# of the sum over channels and group of tiles, and one image per tile.
CASES: dict[str, dict[str, Any]] = {
    "whole": {"x": (2, 64, 16, 16), "out": 64},
    "odd": {"x": (3, 17, 7, 6), "out": 25},
    "skip": {"x": (2, 33, 9, 13), "x2": 20, "out": 70},
    "strips": {"x": (1, 16, 12, 140), "x2": 16, "out": 32},
    "parts": {"x": (1, 300, 8, 8), "out": 48},
    "large": {"x": (3, 384, 8, 8), "out": 352},
    "groups": {"x": (3, 96, 40, 44), "out": 80},
    "upsample": {"x": (2, 24, 5, 7), "x2": 16, "out": 40, "upsample": True},
    "one_tile": {"x": (5, 32, 4, 4), "out": 16},
    "few": {"x": (2, 64, 16, 16), "out": 3},
}


def arguments(case: str, dtype: torch.dtype, norm: bool = True, offset: float = 0.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def video(images: int, channels: int, height: int, width: int) -> Tensor:
        x = normal(1, images, height, width, channels) + offset
        return x.to(dtype).permute(0, 4, 1, 2, 3)

    settings = CASES[case]
    images, channels, height, width = settings["x"]
    second, out, upsample = settings.get("x2", 0), settings["out"], settings.get("upsample", False)
    total, scale = channels + second, 2 if upsample else 1
    result: dict[str, Any] = {
        "x": video(images, channels, height, width),
        "weight": (normal(out, total, 3, 3) / (9 * total) ** 0.5).to(dtype),
        "bias": normal(out).to(dtype),
        "x2": video(images, second, height, width) if second else None,
        "residual": video(images, out, scale * height, scale * width),
        "upsample": upsample,
    }
    if norm:
        result |= {"norm_weight": 1 + 0.3 * normal(total), "norm_bias": 0.3 * normal(total), "num_groups": 1}
        result |= {"scale": 0.3 * normal(1, images, total), "shift": 0.3 * normal(1, images, total)}
    return result


def double(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.double() if isinstance(value, Tensor) else value for name, value in values.items()}


def run(backend: str, values: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Gradients of every tensor, the result, and its statistics."""
    values = {
        name: value.detach().requires_grad_() if isinstance(value, Tensor) else value
        for name, value in values.items()
    }
    with vdm_kernels.use_backend(backend):  # type: ignore[arg-type]
        y, statistics = vdm_kernels.group_norm_silu_conv(**values, return_statistics=True)
        generator = torch.Generator().manual_seed(1)
        y.backward(torch.randn(y.shape, generator=generator).to(y.dtype))
    gradients = {name: value.grad for name, value in values.items() if isinstance(value, Tensor)}
    return gradients, y.detach(), statistics


def error(actual: Tensor, truth: Tensor) -> float:
    """The largest error, as a share of the largest value."""
    return ((actual.double() - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("precision", ["fast", "strict"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_float64(isa: str, precision: Any, case: str) -> None:
    values = arguments(case, torch.float32)
    truth_gradients, truth, _ = run("reference", double(values))
    with vdm_kernels.conv_precision(precision):
        gradients, y, statistics = run("native", values)
    assert error(y, truth) <= TOLERANCE[torch.float32]
    for name, gradient in gradients.items():
        assert error(gradient, truth_gradients[name]) <= 2 * TOLERANCE[torch.float32], name
    # Of the values as they were rounded.
    pixels = y.double().flatten(3)
    expected = torch.stack([pixels.mean(3), pixels.var(3, correction=0)], dim=-1).transpose(1, 2)
    assert error(statistics[..., 0], expected[..., 0]) <= 1e-6
    assert error(statistics[..., 1], expected[..., 1]) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["skip", "upsample"])
def test_narrow_types(isa: str, dtype: torch.dtype, case: str) -> None:
    values = arguments(case, dtype)
    truth_gradients, truth, _ = run("reference", double(values))
    gradients, y, _ = run("native", values)
    assert error(y, truth) <= TOLERANCE[dtype]
    for name, gradient in gradients.items():
        assert error(gradient, truth_gradients[name]) <= 2 * TOLERANCE[dtype], name


def test_statistics_of_a_mean_far_above_the_deviation(isa: str) -> None:
    values = arguments("whole", torch.float32)
    values["residual"] = values["residual"] + 1000.0
    _, y, statistics = run("native", values)
    pixels = y.double().flatten(3)
    assert error(statistics[..., 0], pixels.mean(3).transpose(1, 2)) <= 1e-9
    assert error(statistics[..., 1], pixels.var(3, correction=0).transpose(1, 2)) <= 1e-6


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (9, 65)])
def test_statistics_of_an_image_that_begins_unlike_the_rest(
    isa: str, size: tuple[int, int], kernel_size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(1, 16, 2, *size, generator=generator)
    residual[..., :4, :4] += 30.0
    zero = torch.zeros(16, 16, kernel_size, kernel_size)
    with vdm_kernels.use_backend("native"):
        y, statistics = vdm_kernels.group_norm_silu_conv(
            torch.zeros_like(residual), zero, residual=residual, return_statistics=True
        )
    pixels = y.double().flatten(3)
    assert error(statistics[..., 0], pixels.mean(3).transpose(1, 2)) <= 1e-6
    assert error(statistics[..., 1], pixels.var(3, correction=0).transpose(1, 2)) <= 1e-6


@pytest.mark.parametrize("case", ["whole", "large", "groups"])
def test_the_number_of_threads_changes_nothing(case: str, threads: None) -> None:
    values = arguments(case, torch.float32)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        gradients, y, statistics = run("native", values)
        results.append([y, statistics, *gradients.values()])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


@pytest.mark.parametrize(("size", "out"), [(64, 64), (24, 160)])
def test_threads_that_are_done_take_over_from_others(size: int, out: int, threads: None) -> None:
    """With more threads than cores, some have not begun when others end; the second's shares begin within blocks."""
    values = arguments("whole", torch.float32)
    generator = torch.Generator().manual_seed(0)
    values["x"] = torch.randn(1, 64, 27, size, size, generator=generator)
    values["weight"] = 0.04 * torch.randn(out, 64, 3, 3, generator=generator)
    values |= {"bias": None, "residual": None, "scale": None, "shift": None}

    def results() -> list[Tensor]:
        gradients, *outputs = run("native", values)
        with torch.no_grad(), vdm_kernels.use_backend("native"):
            return [vdm_kernels.group_norm_silu_conv(**values), *outputs, *gradients.values()]

    torch.set_num_threads(1)
    expected = results()
    torch.set_num_threads(9)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(results(), expected))


@pytest.mark.parametrize("precision", ["fast", "strict"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("videos", "upsample"),
    [((2, 17, 24, 12, 10), False), ((1, 17, 80, 40, 44), False), ((2, 8, 24, 9, 30), True)],
)
def test_makes_the_statistics_of_its_input(
    isa: str,
    threads: None,
    monkeypatch: pytest.MonkeyPatch,
    videos: tuple[int, ...],
    upsample: bool,
    dtype: torch.dtype,
    precision: Any,
) -> None:
    """Of images of one block of pixels and of more; blocks of tiles and the threads' shares begin within images."""
    batch, frames, channels, height, width = videos
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    total = channels + 16
    x, x2 = (normal(batch, c, frames, height, width).to(dtype) for c in (channels, 16))
    values: dict[str, Any] = {"x2": x2, "norm_weight": 1 + normal(total), "norm_bias": normal(total)}
    values |= {"weight": normal(40, total, 3, 3).to(dtype), "num_groups": 4, "upsample": upsample}
    modulation = (batch, frames, total) if dtype == torch.float32 else (batch, total)
    values |= {"scale": normal(*modulation), "shift": normal(batch, total), "return_statistics": True}
    statistics = joint_statistics(x, x2)
    monkeypatch.delattr(native, "joint_statistics")
    for count in (1, 2):
        torch.set_num_threads(count)
        with vdm_kernels.use_backend("native"), vdm_kernels.conv_precision(precision):
            made = vdm_kernels.group_norm_silu_conv(x, **values)
            given = vdm_kernels.group_norm_silu_conv(x, **values, statistics=statistics)
        assert all(torch.equal(a, b) for a, b in zip(made, given))


@pytest.mark.parametrize("norm_scope", ["frame", "video"])
@pytest.mark.parametrize(
    ("channels", "dtype", "height", "upsample"),
    [
        ((24, 16), torch.float32, 128, False),
        ((16, 24), torch.float32, 128, False),
        ((16, 24), torch.bfloat16, 160, True),
    ],
)
def test_input_gradients_of_more_images_than_are_taken_at_once(
    isa: str,
    threads: None,
    norm_scope: str,
    channels: tuple[int, int],
    dtype: torch.dtype,
    height: int,
    upsample: bool,
) -> None:
    """Two videos of two frames, an image at a time, by each of two threads or by all three; or one video, if that has
    statistics."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, x2 = (normal(2, 2, height, 112, count).to(dtype).permute(0, 4, 1, 2, 3) for count in channels)
    values: dict[str, Any] = {"x": x, "x2": x2, "weight": (normal(16, 40, 3, 3) / 19).to(dtype)}
    values |= {"norm_scope": norm_scope, "upsample": upsample}
    values |= {"norm_weight": 1 + 0.3 * normal(40), "norm_bias": 0.3 * normal(40), "num_groups": 4}
    values |= {"scale": 0.3 * normal(2, 2, 40), "shift": 0.3 * normal(2, 2, 40)}
    truth, _, _ = run("reference", double(values))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run("native", values)[0])
    for name, gradient in results[0].items():
        assert all(torch.equal(gradient, result[name]) for result in results[1:]), name
        assert error(gradient, truth[name]) <= 2 * TOLERANCE[dtype], name


def test_input_gradients_where_a_block_of_tiles_is_of_several_images(isa: str, threads: None) -> None:
    """Eight images of 4 tiles, in blocks of 16; and each gradient alone is what it is among the others."""
    generator = torch.Generator().manual_seed(0)
    channels, values = 128, {}
    for name, shape in (("x", (1, 8, 8, 8, channels)), ("dy", (1, 8, 8, 8, channels))):
        values[name] = torch.randn(shape, generator=generator).permute(0, 4, 1, 2, 3)
    weight = torch.randn(channels, channels, 3, 3, generator=generator) / 34
    names = ("norm_weight", "norm_bias", "scale", "shift")
    affine = dict(zip(names, torch.randn(4, 1, channels, generator=generator)))
    affine |= {name: affine[name][0] for name in names[:2]}

    def gradients(wanted: tuple[str, ...]) -> list[Tensor]:
        leaves = {name: value.detach().clone() for name, value in (("x", values["x"]), *affine.items())}
        for name in wanted:
            leaves[name].requires_grad_()
        with vdm_kernels.use_backend("native"):
            y = vdm_kernels.group_norm_silu_conv(weight=weight, num_groups=8, **leaves)
        return list(torch.autograd.grad(y, [leaves[name] for name in wanted], values["dy"]))

    expected = gradients(("x", *names))
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert all(torch.equal(a, b) for a, b in zip(expected, gradients(("x", *names))))
    for name, gradient in zip(("x", *names), expected):
        assert torch.equal(gradients((name,))[0], gradient), name


def test_the_layout_of_the_weight_changes_nothing(isa: str) -> None:
    values = arguments("skip", torch.float32)
    gradients, y, _ = run("native", values)
    weight = values["weight"]
    for layout in (weight.contiguous(memory_format=torch.channels_last), weight.mT.contiguous().mT):
        other_gradients, other, _ = run("native", values | {"weight": layout})
        assert torch.equal(other, y)
        assert torch.equal(other_gradients["weight"], gradients["weight"])
        assert other_gradients["weight"].stride() == layout.stride()


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_larger_than_the_cache(isa: str, transposed: bool) -> None:
    # 38 MB, transformed. Contiguous, and with its taps apart.
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(512, 520, 3, 3, generator=generator) / 68
    x = torch.randn(1, 2, 4, 4, 520, generator=generator).permute(0, 4, 1, 2, 3)
    y = torch.nn.functional.conv2d(x[:, :, 0].double(), weight.double(), padding=1)
    dy = torch.randn(y.shape, generator=generator)
    dx = torch.nn.grad.conv2d_input((1, 520, 4, 4), weight.double(), dy.double(), padding=1)
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x[:, :, :1].detach().requires_grad_()
        with vdm_kernels.use_backend("native"):
            out = vdm_kernels.group_norm_silu_conv(leaf, weight.contiguous(memory_format=layout))
        if transposed:
            (out,) = torch.autograd.grad(out, leaf, dy.unsqueeze(2))
        expected = dx if transposed else y
        error = (out[:, :, 0].double() - expected).abs().max() / expected.abs().max()
        assert error < TOLERANCE[torch.float32]


def test_weights_made_by_the_kernel_are_those_that_are_kept(isa: str) -> None:
    values = arguments("large", torch.float32)
    with vdm_kernels.use_backend("native"), torch.no_grad():
        made, first_kept, kept = (vdm_kernels.group_norm_silu_conv(**values) for _ in range(3))
    out_channels, in_channels = values["weight"].shape[:2]
    form = WinogradKernel(out_channels, in_channels, 4, False, False)
    found = weights.kept(values["weight"], form, 0, pytest.fail, weights.Worth.LITTLE)
    assert found is not None
    assert torch.equal(made, first_kept)
    assert torch.equal(made, kept)

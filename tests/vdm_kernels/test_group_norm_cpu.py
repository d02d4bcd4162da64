"""The CPU kernels of channel statistics and GroupNorm-SiLU, where the samples of the ops do not reach."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_kernels import channel_statistics, group_norm_silu, native, use_backend
from vdm_kernels.ops.group_norm_silu.native import input_gradients
from vdm_kernels.testing import tensors

pytestmark = pytest.mark.skipif(native.C is None, reason=f"no native extension: {native.WHY_NOT}")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def isa(isa: str) -> Iterator[str]:
    """The native backend besides."""
    with use_backend("native"):
        yield isa


def video(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    normal = tensors(dtype, "cpu", seed)
    return normal(*shape).contiguous(memory_format=torch.channels_last_3d)


def expected_statistics(x: Tensor) -> Tensor:
    pixels = x.double().permute(0, 2, 1, 3, 4).flatten(3)
    return torch.stack([pixels.mean(3), pixels.var(3, correction=0)], dim=-1)


def silu_of(u: Tensor) -> Tensor:
    """SiLU alone: the norm of given statistics, mean 0 and variance 1, is the identity."""
    x = u.reshape(1, 1, 1, 1, -1)
    one = torch.ones(1)
    statistics = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2).to(channel_statistics(x).dtype)
    y = group_norm_silu(x, one, 0.0 * one, num_groups=1, eps=0.0, statistics=statistics)
    return y.reshape(u.shape)


def test_silu_over_the_range_of_float32(isa: str) -> None:
    magnitude = torch.arange(0, 0x7F800000, 4099, dtype=torch.int32).view(torch.float32)
    u = torch.cat([magnitude, -magnitude])
    actual, expected = silu_of(u).double(), F.silu(u.double())
    # Where SiLU is far below anything that float32 could add it to, it need not be exact.
    kept = u > -85.0
    error = (actual - expected)[kept].abs() / expected[kept].abs().clamp_min(1e-35)
    assert error.max() < 3.5 * torch.finfo(torch.float32).eps
    assert actual[~kept].abs().max() < 1e-34


@pytest.mark.parametrize("value", [math.inf, -100.0, -math.inf, math.nan, 0.0, -3e38, 3e38])
def test_silu_of_special_values(isa: str, value: float) -> None:
    y = silu_of(torch.full((37,), value))
    if math.isnan(value):
        assert y.isnan().all()
    else:
        assert torch.all(y == value if value >= 0.0 else y.abs() < 1e-35)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 2, 1, 1), (1, 17, 1, 7, 5), (1, 33, 1, 19, 27)])
def test_statistics_of_odd_shapes(isa: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = video(*shape, dtype=dtype)
    actual, expected = channel_statistics(x).double(), expected_statistics(x)
    torch.testing.assert_close(actual, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("offset", [100.0, 1000.0, 1e4, -1e4])
def test_statistics_where_mean_exceeds_std(isa: str, offset: float) -> None:
    x = video(1, 20, 2, 33, 31) + offset
    actual, expected = channel_statistics(x).double(), expected_statistics(x)
    torch.testing.assert_close(actual[..., 0], expected[..., 0], rtol=1e-7, atol=0.0)
    torch.testing.assert_close(actual[..., 1], expected[..., 1], rtol=2e-6, atol=0.0)


def test_statistics_of_an_outlier_and_of_a_constant(isa: str) -> None:
    x = video(1, 16, 1, 32, 32)
    x[0, :, 0, 0, 0] = 1e5  # the first pixel, about which others are summed
    x[0, 3] = 0.1
    actual, expected = channel_statistics(x).double(), expected_statistics(x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-12)
    assert actual[0, 0, 3, 1] < 1e-15


def test_nan_stays_in_its_channel_and_group(isa: str) -> None:
    x = video(1, 16, 2, 9, 7)
    x[0, 5, 1, 3, 3] = math.nan
    statistics = channel_statistics(x)
    assert statistics.isnan().nonzero().tolist() == [[0, 1, 5, 0], [0, 1, 5, 1]]
    y = group_norm_silu(x, torch.ones(16), torch.zeros(16), num_groups=4)
    assert y[0, 4:8, 1].isnan().all()
    y[0, 4:8, 1] = 0.0
    assert y.isfinite().all()


@pytest.mark.parametrize("scope", ["frame", "video"])
@pytest.mark.parametrize(("channels", "num_groups"), [(512, 512), (512, 1), (96, 32), (3, 3)])
def test_group_counts(isa: str, channels: int, num_groups: int, scope: str) -> None:
    x = video(2, channels, 2, 5, 3)
    weight, bias = torch.linspace(-1.0, 2.0, channels), torch.linspace(1.0, -1.0, channels)
    images = x.double().transpose(1, 2).flatten(0, 1) if scope == "frame" else x.double()
    expected = F.silu(F.group_norm(images, num_groups, weight.double(), bias.double()))
    if scope == "frame":
        expected = expected.unflatten(0, (2, 2)).transpose(1, 2)
    y = group_norm_silu(x, weight, bias, num_groups=num_groups, norm_scope=scope)  # type: ignore[arg-type]
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


def test_one_pixel_has_no_variance(isa: str) -> None:
    x = video(2, 8, 3, 1, 1).requires_grad_()
    bias = torch.linspace(-1.0, 1.0, 8)
    y = group_norm_silu(x, torch.ones(8), bias, num_groups=8)
    torch.testing.assert_close(y, F.silu(bias)[None, :, None, None, None].expand_as(y))
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.all(dx.abs() < 1e-4)  # zero, but for the rounding of terms of 1 / sqrt(eps)


def all_results(x: Tensor, x2: Tensor, da: Tensor) -> list[Tensor]:
    channels = da.shape[1]
    statistics = torch.cat([channel_statistics(x), channel_statistics(x2)], dim=2)
    weight, bias = torch.linspace(0.5, 1.5, channels), torch.linspace(-1.0, 1.0, channels)
    modulation = [video(x.shape[0], 1, channels, 1, 1, seed=seed).reshape(-1, 1, channels) for seed in (7, 8)]
    y = group_norm_silu(x, weight[: x.shape[1]], bias[: x.shape[1]], num_groups=1)
    args = (da, x, x2, weight, bias, *modulation, statistics, 2, "video", 1e-5, (True,) * 6)
    return [statistics, y, *input_gradients(*args)]


@pytest.mark.parametrize(("batch", "channels"), [(1, (24, 8)), (2, (17, 5))])
def test_results_do_not_depend_on_the_number_of_threads(
    isa: str, batch: int, channels: tuple[int, int]
) -> None:
    x, x2 = (video(batch, c, 1, 61, 67, seed=c) for c in channels)
    da = video(batch, sum(channels), 1, 61, 67, seed=3)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(all_results(x, x2, da))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("scope", ["frame", "video"])
@pytest.mark.parametrize(
    ("da_dtype", "dtype"), [(torch.float32,) * 2, (torch.float32, torch.bfloat16), (torch.float16,) * 2]
)
@pytest.mark.parametrize("channels", [(5, 4), (16, 32), (33, 15)])  # groups that span both
def test_gradients_of_two_inputs(
    isa: str, channels: tuple[int, int], da_dtype: torch.dtype, dtype: torch.dtype, scope: str
) -> None:
    total, groups = sum(channels), 3
    x, x2 = (video(2, c, 3, 7, 5, dtype=dtype, seed=c) for c in channels)
    da = video(2, total, 3, 7, 5, dtype=da_dtype, seed=3)
    normal = tensors(torch.float32, "cpu", 4)
    weight, bias, scale, shift = normal(total), normal(total), normal(2, total), normal(2, 3, total)
    statistics = torch.cat([channel_statistics(x), channel_statistics(x2)], dim=2)
    needs = (True,) * 6
    actual = input_gradients(da, x, x2, weight, bias, scale, shift, statistics, groups, scope, 1e-5, needs)

    leaves = [t.double().requires_grad_() for t in (x, weight, bias, scale, shift, x2)]
    joined = torch.cat([leaves[0], leaves[5]], dim=1)
    images = joined.transpose(1, 2).flatten(0, 1) if scope == "frame" else joined
    normed = F.group_norm(images, groups, leaves[1], leaves[2], 1e-5)
    normed = normed.unflatten(0, (2, 3)).transpose(1, 2) if scope == "frame" else normed
    modulation = [t.mT[..., None, None] for t in (leaves[3].unsqueeze(1), leaves[4])]
    a = F.silu(normed * (1.0 + modulation[0]) + modulation[1])
    expected = torch.autograd.grad(a, leaves, da.double())
    for gradient, reference, leaf in zip(actual, expected, (x, weight, bias, scale, shift, x2)):
        assert gradient is not None
        assert (gradient.shape, gradient.stride(), gradient.dtype) == (leaf.shape, leaf.stride(), leaf.dtype)
        tolerance = 2e-5 + torch.finfo(leaf.dtype).eps
        torch.testing.assert_close(
            gradient.double(), reference, rtol=tolerance, atol=tolerance * reference.abs().max().item()
        )

    alone = input_gradients(
        da, x, x2, weight, bias, scale, shift, statistics, groups, scope, 1e-5, (False,) * 5 + (True,)
    )
    assert alone[5] is not None
    assert actual[5] is not None
    assert torch.equal(alone[5], actual[5])
    assert alone[:5] == [None] * 5

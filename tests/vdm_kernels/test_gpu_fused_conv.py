"""The fused CUDA convolution, on sizes of its own: the contract's samples are mostly too small for it to be chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from vdm_kernels import channel_statistics, group_norm_silu_conv, use_backend
from vdm_kernels.op import OPS
from vdm_kernels.ops.group_norm_silu_conv import cuda
from vdm_kernels.testing import assert_close, poisoned_empty

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"

# (images, C1, C2, out channels, height, width, groups): whole tiles, edges of every kind, chunks of 64 channels that
# are full, cut off and shared by both inputs.
SIZES = [
    (2, 64, 0, 64, 32, 32, 8),
    (3, 64, 64, 64, 33, 17, 8),
    (1, 128, 0, 128, 16, 48, 32),
    (1, 128, 64, 72, 20, 20, 8),
    (1, 24, 16, 8, 5, 70, 5),
    (2, 72, 56, 136, 7, 3, 1),
    (1, 8, 0, 8, 1, 1, 2),
]


@pytest.fixture(autouse=True)
def native() -> Iterator[None]:
    """The native backend, in force."""
    reason = OPS["group_norm_silu_conv"].why_not("native") or OPS["channel_statistics"].unsupported(
        "native", (torch.ones(1, 16, 1, 8, 8, device=DEVICE),)
    )
    if reason is not None:
        pytest.skip(reason)
    with use_backend("native"):
        yield


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Makes the fused kernel the choice wherever it can be; fills with the shapes of its inputs."""
    calls: list[tuple[int, ...]] = []
    fused = cuda.fused

    def recorded(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        calls.append(tuple(x.shape))
        return fused(x, *args)

    monkeypatch.setattr(cuda, "prefers_fused", lambda *args: cuda.why_not_fused(*args) is None)
    monkeypatch.setattr(cuda, "fused", recorded)
    return calls


def _normal(dtype: torch.dtype, *shape: int) -> Tensor:
    x = torch.randn(shape, device=DEVICE).to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d) if len(shape) == 5 else x


def _arguments(dtype: torch.dtype, sizes: tuple[int, ...], *, modulated: bool = True) -> dict[str, Any]:
    images, first, second, out, height, width, groups = sizes
    channels = first + second
    arguments: dict[str, Any] = {
        "x": _normal(dtype, images, first, 2, height, width),
        "x2": _normal(dtype, images, second, 2, height, width) if second else None,
        "weight": _normal(dtype, out, channels, 3, 3) / (3 * channels**0.5),
        "bias": _normal(dtype, out),
        "norm_weight": 1.0 + 0.3 * _normal(dtype, channels),
        "norm_bias": 0.3 * _normal(dtype, channels),
        "num_groups": groups,
    }
    if modulated:
        arguments["scale"] = _normal(dtype, images, 2, channels)
        arguments["shift"] = _normal(dtype, images, channels)
        arguments["residual"] = _normal(dtype, images, out, 2, height, width)
    return arguments


def _double(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: a.double() if isinstance(a, Tensor) else a for name, a in arguments.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("modulated", [True, False])
def test_agrees_with_the_float64_reference(
    sizes: tuple[int, ...], dtype: torch.dtype, modulated: bool, fused_calls: list[tuple[int, ...]]
) -> None:
    arguments = _arguments(dtype, sizes, modulated=modulated)
    with use_backend("reference"):
        expected = group_norm_silu_conv(**_double(arguments))
        low = group_norm_silu_conv(**arguments)
    with poisoned_empty():
        y, statistics = group_norm_silu_conv(**arguments, return_statistics=True)
    assert len(fused_calls) == 1
    assert_close(y, expected, low, f"{sizes}")
    with use_backend("reference"):
        of_y = channel_statistics(y.double())
    torch.testing.assert_close(statistics, of_y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", range(16, 193, 16))
@pytest.mark.parametrize("out", [64, 128])
def test_agrees_with_cudnn(
    channels: int, out: int, fused_calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = _arguments(torch.bfloat16, (2, channels, 0, out, 40, 24, 8))
    fused, fused_statistics = group_norm_silu_conv(**arguments, return_statistics=True)
    assert len(fused_calls) == 1
    monkeypatch.setattr(cuda, "prefers_fused", lambda *args: False)
    cudnn, cudnn_statistics = group_norm_silu_conv(**arguments, return_statistics=True)
    assert len(fused_calls) == 1
    torch.testing.assert_close(fused, cudnn, rtol=2.0**-6, atol=2.0**-6)
    torch.testing.assert_close(fused_statistics, cudnn_statistics, rtol=1e-2, atol=1e-2)


def test_the_same_bits_every_time(fused_calls: list[tuple[int, ...]]) -> None:
    arguments = _arguments(torch.bfloat16, (4, 64, 64, 128, 50, 50, 8))
    first = group_norm_silu_conv(**arguments, return_statistics=True)
    for _ in range(3):
        again = group_norm_silu_conv(**arguments, return_statistics=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert len(fused_calls) == 4


def test_beyond_two_to_the_31_elements(fused_calls: list[tuple[int, ...]]) -> None:
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of free GPU memory")
    frames = 33
    x = torch.randn(1, 1024, 1024, 64, device=DEVICE, dtype=torch.bfloat16)
    x = x.expand(frames, -1, -1, -1).contiguous().permute(3, 0, 1, 2)[None]  # 2^31 + 2^26 elements
    small = _arguments(torch.bfloat16, (1, 64, 0, 64, 4, 4, 8), modulated=False)
    y = group_norm_silu_conv(**{**small, "x": x}, residual=x)
    assert fused_calls == [(1, 64, frames, 1024, 1024)]
    # All frames are the same, and so must the results be.
    for frame in (1, frames - 1):
        assert torch.equal(y[:, :, frame], y[:, :, 0])
    with use_backend("reference"):
        expected = group_norm_silu_conv(**{**small, "x": x[:, :, :1]}, residual=x[:, :, :1])
    torch.testing.assert_close(y[:, :, :1], expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_one_large_image_and_many_small_ones(dtype: torch.dtype) -> None:
    for shape in ((1, 64, 1, 512, 512), (1, 8, 1, 1, 1), (300, 48, 3, 2, 2), (1, 2304, 1, 33, 31)):
        x = _normal(dtype, *shape) + 100.0
        with use_backend("reference"):
            expected = channel_statistics(x.double())
        torch.testing.assert_close(channel_statistics(x), expected, rtol=1e-5, atol=1e-5)

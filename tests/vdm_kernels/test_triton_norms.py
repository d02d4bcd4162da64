"""The Triton norms where a program walks many tiles, and the statistics of data that is hard to sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vdm_kernels import channel_statistics, group_norm_silu, group_norm_silu_conv, use_backend
from vdm_kernels.op import OPS
from vdm_kernels.ops.channel_statistics.launch import image_launch
from vdm_kernels.ops.step.launch import sm_count
from vdm_kernels.testing import Sample, assert_results_close, poisoned_empty, run, tensors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REASON = OPS["group_norm_silu"].why_not("triton")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def _video(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return tensors(dtype, DEVICE, seed)(*shape).contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("norm_scope", ["frame", "video"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_many_tiles_in_ragged_chunks(norm_scope: str, dtype: torch.dtype) -> None:
    normal = tensors(dtype, DEVICE, seed=2)
    x = _video(2, 66, 3, 43, 29, dtype=dtype)
    images = image_launch(6, 43 * 29, 66, sm_count(torch.device("cpu")))
    assert images.chunks > 1
    assert images.block_pixels < images.chunk_pixels
    assert images.chunks * images.chunk_pixels > 43 * 29
    arguments: dict[str, Any] = {
        "x": x,
        "weight": 1.0 + 0.3 * normal(66),
        "bias": 0.3 * normal(66),
        "num_groups": 6,
        "norm_scope": norm_scope,
        "scale": normal(2, 66),
        "shift": normal(2, 3, 66),
    }
    _assert_agrees("group_norm_silu", group_norm_silu, Sample(norm_scope, arguments))


def test_groups_that_straddle_both_inputs() -> None:
    normal = tensors(torch.float32, DEVICE, seed=3)
    arguments: dict[str, Any] = {
        "x": _video(2, 34, 2, 19, 17),
        "x2": _video(2, 17, 2, 19, 17, seed=1) + 3.0,
        "weight": 0.1 * normal(5, 51, 1, 1),
        "norm_weight": 1.0 + 0.3 * normal(51),
        "norm_bias": 0.3 * normal(51),
        "num_groups": 3,
        "scale": normal(2, 51),
        "upsample": True,
        "norm_scope": "video",
    }
    _assert_agrees("group_norm_silu_conv", group_norm_silu_conv, Sample("straddling", arguments))


def _assert_agrees(name: str, function: Any, sample: Sample) -> None:
    op = OPS[name]
    expected = run(op, function, sample.to_float64(op), backend="reference")
    low = run(op, function, sample, backend="reference")
    with poisoned_empty():
        actual = run(op, function, sample, backend="triton")
    assert_results_close(actual, expected, low, name)


@pytest.mark.parametrize("head", [1, 64])
def test_variance_when_a_chunk_begins_with_an_outlier(head: int) -> None:
    """A shift by such a first pixel alone would lose five digits."""
    x = 1e-2 * _video(1, 4, 1, 64, 128)
    x[..., 0, :head] = 1000.0
    with use_backend("triton"):
        actual = channel_statistics(x).double()
    pixels = x.double().permute(0, 2, 1, 3, 4).flatten(3)
    torch.testing.assert_close(actual[..., 0], pixels.mean(-1), rtol=3e-6, atol=0)
    torch.testing.assert_close(actual[..., 1], pixels.var(-1, correction=0), rtol=1e-5, atol=0)

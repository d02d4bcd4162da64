"""The Triton attention kernels where the shared samples do not reach: many tiles, long sequences, segments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vdm_kernels import spatial_attention, temporal_attention
from vdm_kernels.op import OPS
from vdm_kernels.testing import Sample, assert_results_close, poisoned_empty, run, tensors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REASON = OPS["temporal_attention"].why_not("triton")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
INTERPRETED = DEVICE == "cpu"


def _assert_agrees(name: str, function: Any, arguments: dict[str, Any]) -> None:
    op, sample = OPS[name], Sample(name, arguments)
    expected = run(op, function, sample.to_float64(op), backend="reference")
    low = run(op, function, sample, backend="reference")
    with poisoned_empty():
        actual = run(op, function, sample, backend="triton")
    assert_results_close(actual, expected, low, name, truncates=INTERPRETED)


# (B, F, S, heads, d), each for one way of tiling: four pixels in several turns of a program, of 5 frames too; one pixel
# of 20 frames; of 48; in blocks of keys; rows of odd widths; heads as wide as there are.
SEQUENCES = [
    (2, 16, 33, 2, 32),
    (3, 5, 23, 2, 24),
    (2, 20, 9, 2, 40),
    (1, 48, 3, 1, 32),
    (2, 70, 3, 1, 16),
    (1, 130, 2, 2, 33),
    (1, 16, 9, 1, 128),
    (1, 65, 2, 1, 128),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SEQUENCES, ids=str)
def test_temporal_tilings(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, frames, pixels, heads, width = shape
    normal = tensors(dtype, DEVICE, seed=4)
    arguments = {
        "qkv": normal(batch, frames, pixels, 3, heads, width),
        "bias": normal(heads, frames, frames),
    }
    _assert_agrees("temporal_attention", temporal_attention, arguments)


@pytest.mark.parametrize("frames", [16, 70])
@pytest.mark.parametrize("per_sample", [False, True])
def test_segments_that_leave_whole_blocks_of_keys_out(frames: int, per_sample: bool) -> None:
    normal = tensors(torch.float32, DEVICE, seed=5)
    ids = torch.zeros(2, frames, dtype=torch.int64, device=DEVICE)
    ids[0, frames - 4 :] = torch.arange(1, 5)  # the first blocks have no key of these frames
    ids[1, ::2] = 7
    arguments = {
        "qkv": normal(2, frames, 3, 3, 2, 16),
        "bias": normal(2, 2, frames, frames) if per_sample else normal(2, frames, frames),
        "segment_ids": ids,
    }
    _assert_agrees("temporal_attention", temporal_attention, arguments)


def test_a_long_sequence_without_a_bias() -> None:
    qkv = tensors(torch.float32, DEVICE, seed=6)(2, 70, 2, 3, 1, 16)
    _assert_agrees("temporal_attention", temporal_attention, {"qkv": qkv})


@pytest.mark.parametrize("shape", [(2, 3, 70, 1, 16), (2, 9, 17, 1, 40), (1, 12, 12, 1, 128)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_spatial_tilings(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images, height, width, heads, channels = shape
    normal = tensors(dtype, DEVICE, seed=7)
    arguments = {
        "qkv": normal(images, height, width, 3, heads, channels),
        "bias_table": normal(heads, 2 * height + 1, 2 * width + 3),
    }
    _assert_agrees("spatial_attention", spatial_attention, arguments)


def test_the_same_bits_every_time() -> None:
    normal = tensors(torch.float32, DEVICE, seed=8)
    leaves: list[Tensor] = [normal(2, 16, 65, 3, 2, 16), normal(2, 16, 16)]
    op = OPS["temporal_attention_bwd"]
    first, again = (
        op.overload(normal_out, *leaves, None, [True, True], "triton")
        for normal_out in [tensors(torch.float32, DEVICE, seed=9)(2, 16, 65, 2, 16)] * 2
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again))

"""The C++ kernels of `temporal_attention`: any frames and widths, segments, determinism."""

from __future__ import annotations

import math

import pytest
import torch

from vdm_kernels import native, temporal_attention, use_backend
from vdm_kernels.op import OPS
from vdm_kernels.testing import (
    Result,
    Sample,
    assert_results_close,
    poisoned_empty,
    run,
    tensors,
)

pytestmark = pytest.mark.skipif(native.C is None, reason=str(native.WHY_NOT))

OP = OPS["temporal_attention"]


def call(
    batch: int,
    frames: int,
    pixels: int,
    heads: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    **changes: object,
) -> Sample:
    """A call with a bias for all samples."""
    normal = tensors(dtype, "cpu")
    qkv = scale * normal(batch, frames, pixels, 3, heads, width)
    arguments = {"qkv": qkv, "bias": scale * normal(heads, frames, frames), **changes}
    return Sample(f"{batch}x{frames}x{pixels}x{heads}x{width}", arguments)


def check(sample: Sample) -> Result:
    """The native result, which is close to that of the reference in float64."""
    expected = run(OP, temporal_attention, sample.to_float64(OP), backend="reference")
    low = run(OP, temporal_attention, sample, backend="reference")
    with poisoned_empty():
        actual = run(OP, temporal_attention, sample, backend="native")
    assert_results_close(actual, expected, low, sample.name)
    return actual


def assert_same(a: Result, b: Result) -> None:
    assert torch.equal(a.outputs[0], b.outputs[0])
    assert all(torch.equal(a.gradients[name], b.gradients[name]) for name in a.gradients)


@pytest.mark.parametrize("frames", [1, 2, 3, 12, 16, 17, 40, 64, 256])
@pytest.mark.parametrize("width", [1, 16, 20, 32, 40, 48, 128])
def test_any_frames_and_width(isa: str, frames: int, width: int) -> None:
    check(call(1, frames, 2, 2, width))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [20, 32])
def test_low_precision(isa: str, dtype: torch.dtype, width: int) -> None:
    check(call(1, 16, 3, 2, width, dtype=dtype))
    check(call(1, 19, 3, 2, width, dtype=dtype))


def test_more_sequences_than_a_grid_has_blocks() -> None:
    for sample in (call(1, 2, 33000, 2, 4), call(70000, 2, 1, 1, 4)):
        check(sample)


@pytest.mark.parametrize(
    "size", [(1, 16, 40, 4, 32), (2, 33, 300, 2, 16), (3, 5, 17, 3, 20), (1, 40, 1, 5, 16)], ids=str
)
def test_result_does_not_depend_on_threads(threads: None, size: tuple[int, ...]) -> None:
    sample = call(*size, segment_ids=torch.arange(size[1]).expand(size[0], -1) // 10)
    torch.set_num_threads(1)
    alone = check(sample)
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        assert_same(run(OP, temporal_attention, sample, backend="native"), alone)


def test_streamed_outputs_are_the_same(threads: None) -> None:
    # More than any last-level cache: written around the caches. The first pixels alone are not.
    sample = call(1, 16, 16384, 1, 64)
    part = Sample("part", {**sample.arguments, "qkv": sample.arguments["qkv"][:, :, :64]})
    whole = run(OP, temporal_attention, sample, backend="native", gradients=["qkv"])
    few = run(OP, temporal_attention, part, backend="native", gradients=["qkv"])
    assert torch.equal(whole.outputs[0][:, :, :64], few.outputs[0])


@pytest.mark.parametrize("frames", [16, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_segments_in_any_order(isa: str, frames: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack(
        [
            torch.randint(3, (frames,), generator=generator) * 2**40 - 7,
            torch.arange(frames) // 5,
            torch.zeros(frames, dtype=torch.int64),
            torch.arange(frames).clamp(min=frames - 4),
        ]
    )
    check(call(4, frames, 3, 2, 16, dtype=dtype, segment_ids=ids))
    check(call(4, frames, 3, 2, 16, segment_ids=ids, bias=tensors(dtype, "cpu")(4, 2, frames, frames)))


def test_a_segment_is_a_call_of_its_own() -> None:
    sample = call(1, 12, 5, 2, 32, segment_ids=torch.tensor([[0] * 7 + [1] * 5]))
    both = run(OP, temporal_attention, sample, backend="native").outputs[0]
    qkv, bias = sample.arguments["qkv"], sample.arguments["bias"]
    with use_backend("native"):
        assert torch.equal(both[:, :7], temporal_attention(qkv[:, :7], bias[:, :7, :7]))
        assert torch.equal(both[:, 7:], temporal_attention(qkv[:, 7:], bias[:, 7:, 7:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [20, 32])
def test_a_frame_alone_is_its_value(isa: str, dtype: torch.dtype, width: int) -> None:
    sample = call(2, 6, 5, 2, width, dtype=dtype, segment_ids=torch.arange(6).expand(2, 6))
    qkv = sample.arguments["qkv"]
    qkv[:, :, :, :2] = math.nan  # not so much as read
    result = run(OP, temporal_attention, sample, backend="native")
    assert torch.equal(result.outputs[0], qkv[:, :, :, 2])
    dout = tensors(torch.bfloat16, "cpu", seed=1)(*result.outputs[0].shape).to(dtype)
    dqkv = result.gradients["qkv"]
    assert torch.equal(dqkv[:, :, :, 2], dout)
    assert not dqkv[:, :, :, :2].any()
    assert not result.gradients["bias"].any()


@pytest.mark.parametrize("per_sample", [False, True])
def test_each_gradient_alone_is_the_same(isa: str, per_sample: bool) -> None:
    bias = tensors(torch.float32, "cpu")(*((2, 3, 18, 18) if per_sample else (3, 18, 18)))
    sample = call(2, 18, 33, 3, 16, bias=bias)
    every = check(sample)
    for name in ("qkv", "bias"):
        alone = run(OP, temporal_attention, sample, backend="native", gradients=[name])
        assert torch.equal(alone.gradients[name], every.gradients[name])


def test_masks_as_bias(isa: str) -> None:
    causal = torch.full((2, 17, 17), -math.inf).triu(1)
    causal[1] += 1e4 * torch.arange(17)
    sample = call(1, 17, 4, 2, 32, bias=causal)
    result = check(sample)
    assert torch.equal(result.outputs[0][:, 0], sample.arguments["qkv"][:, 0, :, 2])
    assert not result.gradients["bias"][causal == -math.inf].any()


def test_large_scores(isa: str) -> None:
    check(call(1, 16, 3, 2, 32, scale=30.0))


def test_nan_stays_in_its_sequence(isa: str) -> None:
    sample = call(1, 16, 6, 2, 32)
    clean = run(OP, temporal_attention, sample, backend="native").outputs[0]
    sample.arguments["qkv"][0, 3, 2, 1, 1, 5] = math.nan
    dirty = run(OP, temporal_attention, sample, backend="native").outputs[0]
    assert dirty[:, :, 2, 1].isnan().all()
    dirty[:, :, 2, 1] = clean[:, :, 2, 1]
    assert torch.equal(dirty, clean)


def test_no_pixels_give_no_gradient_of_the_bias() -> None:
    result = run(OP, temporal_attention, call(2, 5, 0, 2, 16), backend="native")
    assert result.outputs[0].shape == (2, 5, 0, 2, 16)
    assert not result.gradients["bias"].any()

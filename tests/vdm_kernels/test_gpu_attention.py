"""What only a GPU can show of attention: CUDA graphs, tensors beyond 2^31 elements, more than 65,535 sequences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from vdm_kernels import (
    spatial_attention,
    spatial_attention_block,
    temporal_attention,
    temporal_attention_block,
    use_backend,
)
from vdm_kernels.op import OPS
from vdm_kernels.testing import Result, Sample, assert_results_close, run, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
# Those that take a projection; the block takes a video.
FUNCTIONS: dict[str, Any] = {
    "temporal_attention": temporal_attention,
    "spatial_attention": spatial_attention,
}


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """A GPU backend."""
    name: str = request.param
    return name


@pytest.fixture(params=sorted(FUNCTIONS))
def op(request: pytest.FixtureRequest, backend: str) -> Iterator[str]:
    """The name of an op that the backend has; the backend is in force."""
    name: str = request.param
    qkv = torch.ones(1, 16, 4, 3, 1, 32, device=DEVICE)
    bias = qkv.new_zeros(1, 16, 16) if name == "temporal_attention" else qkv.new_zeros(1, 31, 7)
    absent = (None,) if name == "temporal_attention" else ()
    reason = OPS[name].unsupported(backend, (qkv, bias, *absent))
    if reason is not None:
        pytest.skip(reason)
    with use_backend(backend):
        yield name


def _normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=dtype)


def _cotangent(out: Tensor) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(out.shape, device=out.device, dtype=out.dtype)


def _gradients(name: str, *arguments: Tensor) -> tuple[Tensor, ...]:
    leaves = [argument.detach().requires_grad_() for argument in arguments]
    out = FUNCTIONS[name](*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, _cotangent(out))


def _assert_agrees(name: str, backend: str, arguments: dict[str, Any]) -> None:
    op, sample = OPS[name], Sample(name, arguments)
    expected = run(op, FUNCTIONS[name], sample.to_float64(op), backend="reference")
    low = run(op, FUNCTIONS[name], sample, backend="reference")
    actual = run(op, FUNCTIONS[name], sample, backend=backend)
    assert_results_close(actual, expected, low, name)


# Every kernel and launch: of CUDA, tiles of 16 frames and chunks of 32 numbers, full and not; of Triton, packed four
# pixels and one, in one pass and in two, and block by block; (F, d).
SIZES = [
    (16, 32),
    (16, 64),
    (16, 128),
    (5, 40),
    (3, 24),
    (11, 104),
    (20, 32),
    (20, 40),
    (32, 128),
    (50, 96),
    (64, 32),
    (64, 64),
    (64, 128),
    (70, 64),
    (256, 32),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("frames", "width"), SIZES)
def test_temporal_sizes(backend: str, frames: int, width: int, dtype: torch.dtype) -> None:
    normal = tensors(dtype, DEVICE)
    arguments = {"qkv": normal(2, frames, 67, 3, 2, width), "bias": normal(2, frames, frames)}
    reason = OPS["temporal_attention"].unsupported(backend, (*arguments.values(), None))
    if reason is not None:
        pytest.skip(reason)
    _assert_agrees("temporal_attention", backend, arguments)


def test_a_projection_that_begins_between_accesses(op: str) -> None:
    if op != "temporal_attention":
        pytest.skip("of temporal attention")
    memory = _normal(1 + 2 * 16 * 9 * 3 * 2 * 32)
    qkv = memory[1:].view(2, 16, 9, 3, 2, 32)
    for actual, expected in zip(_gradients(op, qkv), _gradients(op, qkv.clone())):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(3, 16, 16, 2, 32), (2, 32, 32, 2, 64), (2, 9, 70, 1, 128)], ids=str)
def test_spatial_sizes(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images, height, width, heads, channels = shape
    normal = tensors(dtype, DEVICE)
    arguments = {
        "qkv": normal(images, height, width, 3, heads, channels),
        "bias_table": normal(heads, 2 * height + 1, 2 * width + 3),
    }
    reason = OPS["spatial_attention"].unsupported(backend, tuple(arguments.values()))
    if reason is not None:
        pytest.skip(reason)
    _assert_agrees("spatial_attention", backend, arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("frames", "channels", "heads"), [(16, 64, 2), (16, 128, 2), (11, 128, 4), (5, 96, 2), (20, 64, 2)]
)
def test_block_sizes(backend: str, frames: int, channels: int, heads: int, dtype: torch.dtype) -> None:
    op, normal = OPS["temporal_attention_block"], tensors(dtype, DEVICE)
    x = normal(2, frames, 9, 7, channels).permute(0, 4, 1, 2, 3)
    arguments = {
        "x": x,
        "norm_weight": 1.0 + 0.3 * normal(channels),
        "norm_bias": 0.3 * normal(channels),
        "qkv_weight": normal(3 * channels, channels) * channels**-0.5,
        "out_weight": normal(channels, channels) * channels**-0.5,
        "out_bias": normal(channels),
        "bias": normal(heads, frames, frames),
    }
    reason = op.unsupported(backend, (*arguments.values(), None, heads, 1e-5))
    if reason is not None:
        pytest.skip(reason)
    sample = Sample("block", {**arguments, "heads": heads})
    expected = run(op, temporal_attention_block, sample.to_float64(op), backend="reference")
    low = run(op, temporal_attention_block, sample, backend="reference")
    actual = run(op, temporal_attention_block, sample, backend=backend)
    assert_results_close(actual, expected, low, "temporal_attention_block")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_spatial_block_is_its_parts(bias: bool, dtype: torch.dtype) -> None:
    op, normal = OPS["spatial_attention_block"], tensors(dtype, DEVICE)
    arguments = {
        "x": normal(2, 3, 9, 16, 64).permute(0, 4, 1, 2, 3),
        "norm_weight": 1.0 + 0.3 * normal(64),
        "norm_bias": 0.3 * normal(64),
        "qkv_weight": normal(192, 64) * 0.125,
        "out_weight": normal(64, 64) * 0.125,
        "out_bias": normal(64),
        "bias_table": normal(2, 17, 31) if bias else None,
    }
    sample = Sample("block", {**arguments, "heads": 2})
    expected = run(op, spatial_attention_block, sample.to_float64(op), backend="reference")
    low = run(op, spatial_attention_block, sample, backend="reference")
    assert_results_close(
        run(op, spatial_attention_block, sample), expected, low, "spatial_attention_block with gradients"
    )
    alone = run(op, spatial_attention_block, sample, gradients=[])
    assert_results_close(alone, Result(expected.outputs), Result(low.outputs), "spatial_attention_block")


@pytest.mark.parametrize("frames", [4, 40, 70])
def test_temporal_attention_beyond_two_to_the_31_elements(op: str, frames: int) -> None:
    if op != "temporal_attention":
        pytest.skip("of temporal attention")
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of free GPU memory")
    pixels = 2**31 // (frames * 3 * 8 * 32) + 1000  # a single sample
    qkv = torch.empty(1, frames, pixels, 3, 8, 32, device=DEVICE, dtype=torch.bfloat16).normal_()
    bias = _normal(8, frames, frames)
    out, dqkv, _ = _gradients(op, qkv, bias)
    dout = _cotangent(out)
    last = slice(pixels - 5, pixels)
    part = qkv[:, :, last].detach().requires_grad_()
    with use_backend("reference"):
        expected = temporal_attention(part, bias)
    (dexpected,) = torch.autograd.grad(expected, part, dout[:, :, last])
    torch.testing.assert_close(out[:, :, last], expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(dqkv[:, :, last], dexpected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("batch", [1, 140_000])
def test_more_than_131072_sequences(op: str, batch: int) -> None:
    if op == "temporal_attention":
        arguments = (_normal(batch, 8, 140_000 // batch, 3, 2, 16), _normal(2, 8, 8))
    else:
        arguments = (_normal(140_000, 2, 4, 3, 2, 16), _normal(2, 3, 7))
    actual = _gradients(op, *arguments)
    with use_backend("reference"):
        chunks = [
            _chunk_gradients(op, start, *arguments) for start in range(0, arguments[0].shape[0], 20_000)
        ]
    expected = [torch.cat([chunk[0] for chunk in chunks]), torch.cat([chunk[1] for chunk in chunks])]
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=2e-2, atol=2e-2)
    dbias = torch.stack([chunk[2].double() for chunk in chunks]).sum(0)
    torch.testing.assert_close(actual[2].double(), dbias, rtol=2e-2, atol=2e-2 * dbias.abs().max().item())


def _chunk_gradients(name: str, start: int, qkv: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    dout = _cotangent(qkv[:, :, :, 0])[start : start + 20_000]
    leaves = [qkv[start : start + 20_000].detach().requires_grad_(), bias.float().requires_grad_()]
    out = FUNCTIONS[name](*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, dout)


def test_the_same_bits_every_time(op: str) -> None:
    if op == "temporal_attention":
        arguments = (_normal(2, 16, 999, 3, 4, 32), _normal(4, 16, 16))
    else:
        arguments = (_normal(8, 31, 33, 3, 4, 32), _normal(4, 61, 65))
    first = _gradients(op, *arguments)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, _gradients(op, *arguments)))


def test_captured_attention_replays_with_new_values(op: str) -> None:
    if op == "temporal_attention":
        arguments = (_normal(1, 16, 256, 3, 4, 32), _normal(4, 16, 16))
    else:
        arguments = (_normal(4, 16, 16, 3, 4, 32), _normal(4, 31, 31))
    dout = _normal(*arguments[0].shape[:3], 4, 32)
    backward = getattr(torch.ops.vdm_kernels, f"{op}_bwd")
    absent = (None,) if op == "temporal_attention" else ()

    def attention() -> tuple[Tensor, ...]:
        gradients = backward(dout, *arguments, *absent, [True, True], OPS[op].select((*arguments, *absent)))
        return FUNCTIONS[op](*arguments), *gradients

    attention()  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attention()
    for _ in range(2):
        arguments[0].copy_(_normal(*arguments[0].shape))
        arguments[1].copy_(_normal(*arguments[1].shape))
        graph.replay()
        for c, e in zip(captured, attention()):
            torch.testing.assert_close(c, e)

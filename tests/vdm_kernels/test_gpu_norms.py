"""What only a GPU can show of the norms: CUDA graphs, tensors beyond 2^31 elements, more than 65,535 images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vdm_kernels import channel_statistics, group_norm_silu, group_norm_silu_conv, use_backend
from vdm_kernels.op import OPS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """A GPU backend, in force."""
    name: str = request.param
    reason = OPS["channel_statistics"].unsupported(name, (torch.ones(1, 16, 1, 8, 8, device=DEVICE),))
    if reason is not None:
        pytest.skip(reason)
    with use_backend(name):
        yield name


def _video(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).contiguous(
        memory_format=torch.channels_last_3d
    )


def _gradients(x: Tensor, weight: Tensor, bias: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_(), bias.detach().requires_grad_()]
    y = group_norm_silu(*leaves, num_groups=8)
    return y.detach(), *torch.autograd.grad(y, leaves, dout)


def test_a_norm_beyond_two_to_the_31_elements(backend: str) -> None:
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of free GPU memory")
    x = _video(1, 64, 33, 1024, 1024)  # 2^31 + 2^26
    dout = torch.ones_like(x)
    weight, bias = torch.rand(64, device=DEVICE), torch.rand(64, device=DEVICE)
    y, dx, _, _ = _gradients(x, weight, bias, dout)
    last = slice(32, 33)
    with use_backend("reference"):
        expected = _gradients(x[:, :, last], weight, bias, dout[:, :, last])
    torch.testing.assert_close(y[:, :, last], expected[0], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(dx[:, :, last], expected[1], rtol=2e-2, atol=2e-2)


def test_more_than_65535_images(backend: str) -> None:
    x, dout = _video(70_001, 32, 1, 3, 3), _video(70_001, 32, 1, 3, 3)
    weight, bias = torch.rand(32, device=DEVICE), torch.rand(32, device=DEVICE)
    actual = _gradients(x, weight, bias, dout)
    with use_backend("reference"):
        expected = _gradients(x, weight, bias, dout)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=2e-2, atol=2e-2 * e.float().abs().max().item())


def test_the_same_bits_every_time(backend: str) -> None:
    x, dout = _video(2, 96, 3, 61, 67), _video(2, 96, 3, 61, 67)
    weight, bias = torch.rand(96, device=DEVICE), torch.rand(96, device=DEVICE)
    first = (channel_statistics(x), *_gradients(x, weight, bias, dout))
    for _ in range(3):
        again = (channel_statistics(x), *_gradients(x, weight, bias, dout))
        assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_a_captured_residual_block_replays_with_new_values(backend: str) -> None:
    x, x2 = _video(1, 64, 4, 32, 32), _video(1, 64, 4, 32, 32)
    weight = torch.randn(64, 128, 3, 3, device=DEVICE, dtype=torch.bfloat16) / 34.0
    norm_weight, norm_bias = torch.rand(128, device=DEVICE), torch.rand(128, device=DEVICE)

    def block() -> tuple[Tensor, Tensor]:
        return group_norm_silu_conv(
            x,
            weight,
            norm_weight=norm_weight,
            norm_bias=norm_bias,
            num_groups=8,
            x2=x2,
            residual=x,
            return_statistics=True,
        )

    block()  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = block()
    for _ in range(2):
        x.copy_(_video(*x.shape))
        x2.copy_(_video(*x2.shape))
        graph.replay()
        for c, e in zip(captured, block()):
            torch.testing.assert_close(c, e, rtol=1e-2, atol=1e-2)

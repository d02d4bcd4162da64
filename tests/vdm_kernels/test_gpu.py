"""What only a GPU can show: CUDA graphs, tensors beyond 2^31 elements, batches beyond 65,535."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vdm_kernels import (
    abs_quantile,
    ancestral_step,
    ddim_step,
    langevin_step,
    philox_normal,
    q_sample,
    use_backend,
)
from vdm_kernels.op import OPS
from vdm_kernels.ops.philox_normal.reference import philox4x32
from vdm_kernels.ops.step.coefficients import ancestral_coefficients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """A GPU backend, in force."""
    name: str = request.param
    seed = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    reason = OPS["philox_normal"].unsupported(name, ([1, 1], seed, seed, torch.float32))
    if reason is not None:
        pytest.skip(reason)
    with use_backend(name):
        yield name


def _needs_memory(gigabytes: float) -> None:
    if torch.cuda.mem_get_info()[0] < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes} GB of free GPU memory")


def _normals(seed: int, draw: int, first: int, count: int) -> Tensor:
    """Elements first .. first + count of one sample's noise, in float64; first is a multiple of 4."""
    group = first // 4 + torch.arange(-(-count // 4), dtype=torch.int64)
    words = philox4x32(
        (group & 0xFFFFFFFF, group >> 32, torch.tensor(draw), torch.tensor(0)),
        (torch.tensor(seed), torch.tensor(0)),
    )
    values = []
    for radius, angle in ((words[0], words[1]), (words[2], words[3])):
        u = (radius.float() * 2.0**-32 + 2.0**-33).double()
        turn = angle.double() * (2.0 * math.pi / 2.0**32)
        length = torch.sqrt(-2.0 * torch.log(u))
        values += [length * torch.cos(turn), length * torch.sin(turn)]
    return torch.stack(values, dim=1).flatten()[:count]


@pytest.mark.parametrize("step", [ancestral_step, ddim_step, langevin_step])
def test_a_captured_step_replays_with_new_values(backend: str, step: object) -> None:
    torch.manual_seed(0)
    shape = (2, 3, 4, 16, 16)
    z, prediction, uncond = (torch.randn(shape, device=DEVICE) for _ in range(3))
    logsnr_t, logsnr_s = torch.tensor([-3.0, -1.0], device=DEVICE), torch.tensor([-2.0, 0.5], device=DEVICE)
    seed, draw = torch.tensor([7, 8], device=DEVICE), torch.tensor(1, device=DEVICE)
    weight = torch.tensor([1.0, 3.0], device=DEVICE)

    def run() -> Tensor:
        threshold = abs_quantile(prediction, 0.9)
        noise = {ancestral_step: {"gamma": 0.3}, ddim_step: {"eta": 0.7}, langevin_step: {"delta": 0.1}}[step]
        result: Tensor = step(  # type: ignore[operator]
            z,
            prediction,
            *((logsnr_t,) if step is langevin_step else (logsnr_t, logsnr_s)),
            seed,
            draw,
            parameterization="v",
            uncond=uncond,
            guidance_weight=weight,
            threshold=threshold,
            **noise,
        )
        return result

    run()  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for trial in range(3):
        for tensor in (z, prediction, uncond):
            tensor.copy_(torch.randn(shape))
        seed += 1
        draw += 1
        logsnr_t -= 0.25
        logsnr_s += 0.25
        graph.replay()
        assert torch.equal(captured, run()), trial


def test_noise_beyond_two_to_the_32_elements(backend: str) -> None:
    _needs_memory(20)
    n = 2**32 + 4099
    seed, draw = torch.tensor([5], device=DEVICE), torch.tensor(6, device=DEVICE)
    noise = philox_normal((1, n), seed, draw, dtype=torch.bfloat16)[0]
    for first in (0, 2**31 - 8, 2**32 - 8, n - n % 4 - 64):
        count = min(64, n - first)
        expected = _normals(5, 6, first, count)
        torch.testing.assert_close(
            noise[first : first + count].cpu().double(), expected, rtol=2.0**-8, atol=1e-5
        )


def test_a_step_beyond_two_to_the_31_elements(backend: str) -> None:
    _needs_memory(30)
    n = 2**31 + 1028
    z = torch.zeros(1, n, device=DEVICE, dtype=torch.bfloat16)
    prediction = torch.ones_like(z)
    logsnr_t, logsnr_s = torch.tensor([-1.0], device=DEVICE), torch.tensor([1.0], device=DEVICE)
    seed, draw = torch.tensor([5], device=DEVICE), torch.tensor(6, device=DEVICE)
    z_s = ancestral_step(z, prediction, logsnr_t, logsnr_s, seed, draw, parameterization="x")[0]
    _, b, c = (value.item() for value in ancestral_coefficients(logsnr_t, logsnr_s, 0.0, True))
    for first in (0, 2**31 - 8, n - 64):
        expected = b + c * _normals(5, 6, first, 64)
        torch.testing.assert_close(z_s[first : first + 64].cpu().double(), expected, rtol=2.0**-8, atol=1e-2)


@pytest.mark.parametrize("q", [0.0, 0.5, 0.995, 1.0])
def test_a_quantile_beyond_two_to_the_31_elements(backend: str, q: float) -> None:
    _needs_memory(20)
    n, period = 2**31 + 7, 1021
    x = torch.arange(period, device=DEVICE, dtype=torch.float16).repeat(n // period + 1)[:n].view(1, n)
    often, longer = divmod(n, period)  # values below `longer` occur once more than the others

    def ordered(rank: int) -> float:
        if rank < longer * (often + 1):
            return float(rank // (often + 1))
        return float(longer + (rank - longer * (often + 1)) // often)

    position = q * (n - 1)
    low = ordered(math.floor(position))
    high = ordered(min(math.floor(position) + 1, n - 1))
    expected = low + (position - math.floor(position)) * (high - low)
    assert abs_quantile(x, q).item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_beyond_65535(backend: str) -> None:
    batch = 70_001
    seed, draw = torch.arange(batch, device=DEVICE), torch.tensor(3, device=DEVICE)
    x = torch.randn(batch, 5, device=DEVICE)
    logsnr = torch.linspace(-5.0, 5.0, batch, device=DEVICE)

    def run() -> tuple[Tensor, ...]:
        z, eps = q_sample(x, logsnr, seed, draw)
        z_s = ancestral_step(z, eps, logsnr, logsnr + 1, seed, draw, parameterization="eps")
        return z, eps, z_s, abs_quantile(x, 0.7)

    actual = run()
    with use_backend("reference"):
        expected = run()
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


def test_the_same_bits_every_time(backend: str) -> None:
    x = torch.randn(3, 1_000_003, device=DEVICE)
    seed, draw = torch.arange(3, device=DEVICE), torch.tensor(3, device=DEVICE)
    first = (abs_quantile(x, 0.995), philox_normal(x.shape, seed, draw))
    for _ in range(3):
        assert torch.equal(abs_quantile(x, 0.995), first[0])
        assert torch.equal(philox_normal(x.shape, seed, draw), first[1])

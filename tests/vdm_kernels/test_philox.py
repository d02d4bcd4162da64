"""The noise: its published bits, its distribution, and what it may and may not depend on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vdm_kernels import philox_normal, use_backend
from vdm_kernels.op import OPS, forced_backend
from vdm_kernels.ops.philox_normal.reference import philox4x32
from vdm_kernels.testing import cpu_isa, cpu_isas

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# |error| of a kernel against exact arithmetic.
TOLERANCE = 2e-6

# Random123's kat_vectors for philox4x32-10.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

IMPLEMENTATIONS = [
    pytest.param(("cpu", "reference", None), id="reference"),
    *(pytest.param(("cpu", "native", isa), id=f"native-{isa}") for isa in cpu_isas() or (None,)),
    pytest.param((DEVICE, "triton", None), id="triton"),
    pytest.param(("cuda", "native", None), id="cuda"),
]


@pytest.fixture(params=IMPLEMENTATIONS)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device, inside a context that forces one implementation there."""
    device, backend, isa = request.param
    reason = OPS["philox_normal"].why_not(backend)
    if device == "cuda" and not torch.cuda.is_available():
        reason = "no GPU"
    if reason is not None:
        pytest.skip(reason)
    with use_backend(backend), contextlib.nullcontext() if isa is None else cpu_isa(isa):
        yield device


def _exact(seed: int, draw: int, n: int) -> list[float]:
    """The definition in Python's integers and floats, with nothing of the reference."""

    def philox(counter: list[int], key: list[int]) -> list[int]:
        for _ in range(10):
            p0, p1 = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
            counter = [
                (p1 >> 32) ^ counter[1] ^ key[0],
                p1 & 0xFFFFFFFF,
                (p0 >> 32) ^ counter[3] ^ key[1],
                p0 & 0xFFFFFFFF,
            ]
            key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return counter

    seed, draw = seed % 2**64, draw % 2**64
    values: list[float] = []
    for group in range((n + 3) // 4):
        counter = [group % 2**32, group >> 32, draw % 2**32, draw >> 32]
        r = philox(counter, [seed % 2**32, seed >> 32])
        for radius_bits, angle_bits in ((r[0], r[1]), (r[2], r[3])):
            u = float(torch.tensor(radius_bits).float() * 2.0**-32 + 2.0**-33)
            radius, angle = math.sqrt(-2.0 * math.log(u)), 2.0 * math.pi * angle_bits / 2.0**32
            values += [radius * math.cos(angle), radius * math.sin(angle)]
    return values[:n]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_bits(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    words = philox4x32([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32, 2**40 + 3, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("draw", [0, 7, 2**32 + 1, -2])
def test_definition(device: str, seed: int, draw: int) -> None:
    n = 41
    values = philox_normal((1, n), torch.tensor([seed], device=device), draw)
    expected = torch.tensor([_exact(seed, draw, n)], dtype=torch.float64)
    torch.testing.assert_close(values.cpu().double(), expected, rtol=0.0, atol=TOLERANCE)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 63, 64, 65, 1023, 4099])
def test_any_count_is_a_prefix_of_the_stream(device: str, n: int) -> None:
    seed = torch.tensor([5, -6], device=device)
    whole = philox_normal((2, 4100), seed, 1)
    assert torch.equal(philox_normal((2, n), seed, 1), whole[:, :n])


def test_a_sample_does_not_depend_on_its_batch(device: str) -> None:
    seed = torch.tensor([3, -1, 2**33, 0, 3], device=device)
    together = philox_normal((5, 3, 2, 5, 7), seed, 4)
    for i in range(5):
        assert torch.equal(together[i : i + 1], philox_normal((1, 3, 2, 5, 7), seed[i : i + 1], 4))
    assert torch.equal(together[0], together[4])
    order = torch.tensor([4, 2, 0, 3, 1], device=device)
    assert torch.equal(philox_normal((5, 3, 2, 5, 7), seed[order], 4), together[order])


def test_the_shape_of_a_sample_does_not_matter(device: str) -> None:
    seed = torch.tensor([8], device=device)
    flat = philox_normal((1, 210), seed, 0)
    assert torch.equal(philox_normal((1, 3, 2, 5, 7), seed, 0).flatten(1), flat)


def test_threads_do_not_matter(device: str) -> None:
    if device != "cpu" or forced_backend() == "triton":
        pytest.skip("no threads to count")
    n = 200_001
    seed, threads = torch.tensor([8, 9]), torch.get_num_threads()
    values = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            values.append(philox_normal((2, n), seed, 0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


def test_other_seeds_and_draws_give_other_noise(device: str) -> None:
    def draw(seed: int, number: int) -> Tensor:
        return philox_normal((1, 4096), torch.tensor([seed], device=device), number).flatten()

    streams = torch.stack([draw(0, 0), draw(1, 0), draw(2**32, 0), draw(0, 1), draw(0, 2**32), draw(1, 1)])
    correlation = torch.corrcoef(streams) - torch.eye(6, device=device)
    assert correlation.abs().max() < 5.0 / math.sqrt(4096)


def test_draw_as_a_tensor_is_the_same(device: str) -> None:
    seed = torch.tensor([8], device=device)
    for draw in (0, 2**40, -5):
        expected = philox_normal((1, 9), seed, draw)
        assert torch.equal(philox_normal((1, 9), seed, torch.tensor(draw, device=device)), expected)
        assert torch.equal(philox_normal((1, 9), seed, torch.tensor([draw], device=device)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_the_rounded_noise(device: str, dtype: torch.dtype) -> None:
    seed = torch.tensor([8, 10], device=device)
    exact = philox_normal((2, 999), seed, 0).double()
    error = (philox_normal((2, 999), seed, 0, dtype=dtype).double() - exact).abs()
    # Half a unit in the last place; a whole one in Triton's interpreter, which truncates to bfloat16.
    assert bool((error <= torch.finfo(dtype).eps * exact.abs() + 2.0**-24).all())


class TestDistribution:
    """Of a million normals of the reference, which the others agree with to 2e-6 by the tests above."""

    N = 1 << 20

    @pytest.fixture(scope="class")
    def normals(self) -> Tensor:
        return philox_normal((4, self.N // 4), torch.arange(4) * 1000 + 17, 0).flatten().double()

    def test_moments(self, normals: Tensor) -> None:
        # Five standard errors; the variance of x^k is E x^2k - (E x^k)^2.
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            error = abs(normals.pow(power).mean().item() - mean)
            assert error < 5.0 * math.sqrt(variance / self.N), power

    def test_tails(self, normals: Tensor) -> None:
        for limit in (1.0, 2.0, 3.0, 4.0):
            for side in (normals > limit, normals < -limit):
                p = 0.5 * math.erfc(limit / math.sqrt(2.0))
                assert abs(side.sum().item() - self.N * p) < 5.0 * math.sqrt(self.N * p), limit
        assert 4.5 < normals.abs().max() < math.sqrt(2.0 * 33.0 * math.log(2.0)) + 1e-6

    def test_kolmogorov_smirnov(self, normals: Tensor) -> None:
        ordered = torch.special.ndtr(normals.sort().values)
        steps = torch.arange(self.N + 1, dtype=torch.float64) / self.N
        distance = torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max().item()
        assert distance < 1.95 / math.sqrt(self.N)  # p = 0.001

    @pytest.mark.parametrize("lag", [1, 2, 3, 4, 64])
    def test_neighbours_are_uncorrelated(self, normals: Tensor, lag: int) -> None:
        for f in (lambda x: x, lambda x: (x * x - 1.0) / math.sqrt(2.0)):
            a, b = f(normals[:-lag]), f(normals[lag:])
            assert abs((a * b).mean().item()) < 5.0 / math.sqrt(self.N)

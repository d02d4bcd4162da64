"""`abs_quantile` against torch.quantile, against sorting where that ends, and on values that are not numbers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vdm_kernels import abs_quantile, use_backend
from vdm_kernels.op import OPS
from vdm_kernels.testing import cpu_isa, cpu_isas

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
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
    reason = OPS["abs_quantile"].why_not(backend)
    if device == "cuda" and not torch.cuda.is_available():
        reason = "no GPU"
    if reason is not None:
        pytest.skip(reason)
    with use_backend(backend), contextlib.nullcontext() if isa is None else cpu_isa(isa):
        yield device


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 1001])
@pytest.mark.parametrize("q", [0.0, 0.1, 1 / 3, 0.5, 0.995, 1.0])
def test_agrees_with_torch_quantile(device: str, n: int, q: float) -> None:
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
    expected = torch.quantile(x.abs().double(), q, dim=1)
    torch.testing.assert_close(abs_quantile(x.to(device), q).cpu().double(), expected, rtol=2e-7, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_order_statistics_are_exact(device: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 513, generator=torch.Generator().manual_seed(0)).to(dtype)
    ordered = x.abs().float().sort(dim=1).values
    for k in (0, 1, 255, 256, 511, 512):
        assert torch.equal(abs_quantile(x.to(device), k / 512).cpu(), ordered[:, k])


def test_above_two_to_the_24_elements() -> None:
    # torch.quantile refuses this size; float32 cannot count it.
    n = 2**24 + 3
    x = torch.randn(1, n, generator=torch.Generator().manual_seed(0))
    ordered = x[0].abs().sort().values.double()
    for q, backend in (
        (0.995, "reference"),
        *((q, "native") for q in (0.0, 0.5, 0.995, 1.0 - 2.0**-24, 1.0)),
    ):
        if OPS["abs_quantile"].why_not(backend) is None:
            rank = q * (n - 1)
            low = math.floor(rank)
            expected = torch.lerp(ordered[low], ordered[min(low + 1, n - 1)], rank - low)
            with use_backend(backend):
                torch.testing.assert_close(abs_quantile(x, q)[0].double(), expected, rtol=2e-7, atol=0.0)


def test_ties(device: str) -> None:
    x = torch.tensor([[1.0, -1.0, 1.0, -2.0, 2.0, 2.0], [0.0, -0.0, 0.0, 0.0, 0.0, -3.0]], device=device)
    assert abs_quantile(x, 0.4).tolist() == [1.0, 0.0]
    assert abs_quantile(x, 0.5).tolist() == [1.5, 0.0]
    assert abs_quantile(x, 1.0).tolist() == [2.0, 3.0]


def test_nan_spoils_its_own_sample_only(device: str) -> None:
    x = torch.tensor([[1.0, math.nan, 3.0], [1.0, 2.0, 3.0], [-math.nan, 0.0, 0.0]], device=device)
    for q in (0.0, 0.5, 1.0):
        values = abs_quantile(x, q)
        assert values.isnan().tolist() == [True, False, True]
        assert values[1] == 1.0 + 2.0 * q


def test_infinity_is_the_largest_number(device: str) -> None:
    x = torch.tensor([[1.0, -math.inf, 2.0, 3.0], [math.inf, -math.inf, math.inf, math.inf]], device=device)
    assert abs_quantile(x, 1 / 3).tolist() == [2.0, math.inf]
    assert abs_quantile(x, 0.9).tolist() == [math.inf, math.inf]
    assert abs_quantile(x, 1.0).tolist() == [math.inf, math.inf]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=70),
    st.floats(0.0, 1.0),
)
def test_any_numbers(values: list[float], q: float) -> None:
    x = torch.tensor([values])
    ordered = x[0].abs().double().sort().values
    rank = q * (len(values) - 1)
    low = math.floor(rank)
    expected = torch.lerp(ordered[low], ordered[min(low + 1, len(values) - 1)], rank - low)
    # The interpolation in float32 loses at most a unit of the larger neighbour.
    tolerance = 2.0**-22 * ordered[min(low + 1, len(values) - 1)].item() + 2.0**-149
    assert abs(abs_quantile(x, q)[0].double() - expected) <= tolerance


def test_gradient_is_that_of_torch_quantile() -> None:
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.3, -2.0], dtype=torch.float64)
    (actual,) = torch.autograd.grad(abs_quantile(x, 0.77), x, weights)
    (expected,) = torch.autograd.grad(torch.quantile(x.abs().flatten(1), 0.77, dim=1), x, weights)
    torch.testing.assert_close(actual, expected)

"""Fixtures of the tests of kernels on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vdm_kernels.testing import cpu_isa, cpu_isas


@pytest.fixture(params=cpu_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this machine has, one after the other."""
    with cpu_isa(request.param):
        yield request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

"""The C++ kernel of `temporal_attention_block`: means far from zero, threads, non-temporal stores, changed weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vdm_kernels import native, temporal_attention_block, use_backend

pytestmark = pytest.mark.skipif(native.C is None, reason=str(native.WHY_NOT))


def call(
    batch: int, channels: int, frames: int, pixels: int, heads: int, mean: float = 0.0
) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "x": (mean + torch.randn(batch, frames, 1, pixels, channels)).permute(0, 4, 1, 2, 3),
        "norm_weight": torch.rand(channels) + 0.5,
        "norm_bias": torch.randn(channels),
        "qkv_weight": torch.randn(3 * channels, channels) * channels**-0.5,
        "out_weight": torch.randn(channels, channels) * channels**-0.5,
        "out_bias": torch.randn(channels),
        "bias": torch.randn(heads, frames, frames),
        "heads": heads,
    }


def expected(arguments: dict[str, Any]) -> Tensor:
    """The reference in float64."""
    double = {k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    with use_backend("reference"):
        return temporal_attention_block(**double)


@torch.no_grad()
@pytest.mark.parametrize("channels", [32, 45])
def test_a_mean_far_from_zero(isa: str, channels: int) -> None:
    arguments = call(2, channels, 5, 3, 1, mean=1000.0)
    with use_backend("native"):
        out = temporal_attention_block(**arguments)
    # x itself is 1000: what the block adds to it is compared to the rounding of that sum.
    torch.testing.assert_close(out.double(), expected(arguments), rtol=0.0, atol=2e-4)


@torch.no_grad()
def test_values_do_not_depend_on_threads(isa: str, threads: None) -> None:
    for batch, pixels in ((1, 37), (3, 5), (1, 1)):
        arguments = call(batch, 64, 16, pixels, 2)
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with use_backend("native"):
                results.append(temporal_attention_block(**arguments))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_output_that_is_written_around_the_caches(dtype: torch.dtype) -> None:
    arguments = call(1, 64, 16, 9000, 1)
    arguments = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in arguments.items()}
    with use_backend("native"):
        out = temporal_attention_block(**arguments)
        for pixel in (0, 4000, 8999):
            alone = temporal_attention_block(**{**arguments, "x": arguments["x"][..., pixel : pixel + 1]})
            assert torch.equal(out[..., pixel : pixel + 1], alone)


@torch.no_grad()
def test_a_weight_that_changes_is_seen() -> None:
    arguments = call(1, 32, 3, 4, 1)
    for _ in range(2):
        for name in ("qkv_weight", "out_weight"):
            for _ in range(3):
                with use_backend("native"):
                    out = temporal_attention_block(**arguments)
                torch.testing.assert_close(out.double(), expected(arguments), rtol=1e-4, atol=1e-4)
            arguments[name].data.mul_(0.5)

"""`spatial_attention_block` on the CPU: gradients, far means, threads, non-temporal stores, changed weights."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from vdm_kernels import native, spatial_attention_block, use_backend
from vdm_kernels.op import OPS
from vdm_kernels.ops.spatial_attention_block.samples import samples
from vdm_kernels.testing import (
    assert_results_close,
    poisoned_empty,
    record_backends,
    run,
)

pytestmark = pytest.mark.skipif(native.C is None, reason=str(native.WHY_NOT))

OP = OPS["spatial_attention_block"]


def call(
    channels: int, frames: int, height: int, width: int, heads: int, mean: float = 0.0
) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "x": (mean + torch.randn(1, frames, height, width, channels)).permute(0, 4, 1, 2, 3),
        "norm_weight": torch.rand(channels) + 0.5,
        "norm_bias": torch.randn(channels),
        "qkv_weight": torch.randn(3 * channels, channels) * channels**-0.5,
        "out_weight": torch.randn(channels, channels) * channels**-0.5,
        "out_bias": torch.randn(channels),
        "bias_table": torch.randn(heads, 2 * height - 1, 2 * width - 1),
        "heads": heads,
    }


def expected(arguments: dict[str, Any]) -> Tensor:
    """The reference in float64."""
    double = {k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    with use_backend("reference"):
        return spatial_attention_block(**double)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_are_those_of_the_parts(isa: str, dtype: torch.dtype) -> None:
    parts = {"group_norm_silu_conv", "spatial_attention", "group_norm_silu_conv_bwd", "spatial_attention_bwd"}
    for sample in samples(dtype, "cpu"):
        if sample.name == "one_channel":  # gradients of one number, where rounding is luck
            continue
        exact = run(OP, spatial_attention_block, sample.to_float64(OP), backend="reference")
        low = run(OP, spatial_attention_block, sample, backend="reference")
        with poisoned_empty(), record_backends() as record:
            actual = run(OP, spatial_attention_block, sample, backend="native")
        assert set(record) == {(part, "native") for part in parts}
        assert_results_close(actual, exact, low, sample.name)


@torch.no_grad()
@pytest.mark.skipif(OPS["spatial_attention"].why_not("triton") is not None, reason="Triton does not run here")
def test_triton_has_the_parts() -> None:
    arguments = call(16, 1, 2, 3, 1)
    with use_backend("triton"), record_backends() as record:
        out = spatial_attention_block(**arguments)
    assert set(record) == {("group_norm_silu_conv", "triton"), ("spatial_attention", "triton")}
    torch.testing.assert_close(out.double(), expected(arguments), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("channels", [32, 45])
def test_a_mean_far_from_zero(isa: str, channels: int) -> None:
    arguments = call(channels, 2, 3, 5, 1, mean=1000.0)
    with use_backend("native"):
        out = spatial_attention_block(**arguments)
    # x itself is 1000: what the block adds to it is compared to the rounding of that sum.
    torch.testing.assert_close(out.double(), expected(arguments), rtol=0.0, atol=2e-4)


@torch.no_grad()
def test_values_do_not_depend_on_threads(isa: str, threads: None) -> None:
    # One image for all threads, some for each, more than make a block of tokens.
    for frames, height, width in ((1, 9, 11), (5, 16, 17), (70, 3, 3), (1, 1, 1)):
        arguments = call(64, frames, height, width, 2)
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with use_backend("native"):
                results.append(spatial_attention_block(**arguments))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_output_that_is_written_around_the_caches(dtype: torch.dtype) -> None:
    arguments = call(64, 9000, 3, 5, 1)
    arguments = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in arguments.items()}
    with use_backend("native"):
        out = spatial_attention_block(**arguments)
        for frame in (0, 4000, 8999):
            alone = spatial_attention_block(**{**arguments, "x": arguments["x"][:, :, frame : frame + 1]})
            assert torch.equal(out[:, :, frame : frame + 1], alone)


@torch.no_grad()
def test_a_weight_that_changes_is_seen() -> None:
    arguments = call(32, 2, 3, 4, 1)
    for _ in range(2):
        for name in ("qkv_weight", "out_weight"):
            for _ in range(3):
                with use_backend("native"):
                    out = spatial_attention_block(**arguments)
                torch.testing.assert_close(out.double(), expected(arguments), rtol=1e-4, atol=1e-4)
            arguments[name].data.mul_(0.5)


MEMORY = """
import resource, sys, torch
from vdm_kernels import spatial_attention_block

torch.set_num_threads(2)
weight = torch.randn(384, 128) / 11

def peak_mb(frames):
    x = torch.randn(1, frames, 16, 16, 128).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        spatial_attention_block(x, weight[0], weight[1], weight, weight[:128], heads=2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

before = peak_mb(4)
print(peak_mb(256) - before)
"""


def test_memory_does_not_grow_with_the_frames() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    x_mb = 4 * 256 * 16**2 * 128 / 2**20
    assert float(done.stdout) < 3 * x_mb, (
        "x and y are twice 32 MB; qkv and what it attends to would be 128 MB"
    )

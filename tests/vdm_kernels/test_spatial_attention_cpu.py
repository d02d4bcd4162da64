"""The C++ kernels of `spatial_attention`: shapes that no block fits, determinism, masks and memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vdm_kernels import native, spatial_attention, use_backend
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

OP = OPS["spatial_attention"]


def call(
    images: int,
    size: tuple[int, int],
    heads: int,
    channels: int,
    *,
    bias: bool = True,
    larger: tuple[int, int] = (0, 0),
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
) -> Sample:
    """A call with a table for images that are `larger` by so many rows and columns."""
    normal = tensors(dtype, "cpu")
    (height, width), (rows, columns) = size, larger
    arguments = {"qkv": scale * normal(images, height, width, 3, heads, channels)}
    if bias:
        arguments["bias_table"] = scale * normal(heads, 2 * (height + rows) - 1, 2 * (width + columns) - 1)
    return Sample(f"{images}x{size}x{heads}x{channels}", arguments)


def check(sample: Sample) -> Result:
    """The native result, which is close to that of the reference in float64."""
    expected = run(OP, spatial_attention, sample.to_float64(OP), backend="reference")
    low = run(OP, spatial_attention, sample, backend="reference")
    with poisoned_empty():
        actual = run(OP, spatial_attention, sample, backend="native")
    assert_results_close(actual, expected, low, sample.name)
    return actual


@pytest.mark.parametrize(
    "size",
    [
        *[(1, 1), (1, 2), (3, 1), (4, 4), (1, 65), (65, 1), (7, 9), (8, 8), (9, 15), (5, 31), (16, 8)],
        *[(12, 33), (9, 16), (5, 32)],  # in the last two no vector lies in two rows of the image
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 20, 32])
def test_any_size(isa: str, size: tuple[int, int], channels: int) -> None:
    check(call(2, size, 2, channels))


@pytest.mark.parametrize("channels", [3, 16, 17, 33, 48, 64, 96, 128, 160])
@pytest.mark.parametrize("bias", [False, True])
def test_any_number_of_channels(isa: str, channels: int, bias: bool) -> None:
    check(call(1, (9, 8), 3, channels, bias=bias))


@pytest.mark.parametrize("larger", [(0, 1), (1, 0), (3, 20), (30, 2)], ids=str)
def test_tables_of_larger_images(isa: str, larger: tuple[int, int]) -> None:
    gradient = check(call(2, (5, 7), 2, 16, larger=larger)).gradients["bias_table"]
    rows, columns = larger
    inside = gradient[:, rows : rows + 9, columns : columns + 13]
    assert inside.ne(0).all()
    assert gradient.count_nonzero() == inside.count_nonzero()


@pytest.mark.parametrize("scale", [1e-4, 8.0, 30.0])
def test_small_and_large_scores(isa: str, scale: float) -> None:
    check(call(2, (13, 20), 2, 32, scale=scale))


@pytest.mark.parametrize("slope", [1.2, 8.0])
def test_scores_that_rise_from_block_to_block(isa: str, slope: float) -> None:
    # Each row of keys scores `slope` more than the row before it: sums are rescaled, by a factor that still
    # counts or by one that leaves next to nothing. In the second head the queries of the last rows see none of
    # the first 128 keys, since those are more than 3 rows above them.
    sample = call(2, (13, 20), 2, 32)
    below = torch.arange(-12, 13)[:, None]  # by how many rows a query is below a key
    sample.arguments["bias_table"] -= slope * below
    sample.arguments["bias_table"][1].masked_fill_(below > 3, -torch.inf)
    check(sample)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_over_several_blocks(isa: str, dtype: torch.dtype) -> None:
    check(call(2, (11, 13), 2, 24, dtype=dtype))


def test_minus_infinity_masks(isa: str) -> None:
    # Every pixel sees only those above it, and its own row.
    sample = call(1, (13, 20), 2, 16)
    sample.arguments["bias_table"][:, :12] = -torch.inf
    check(sample)
    sees_itself = sample.arguments["qkv"][:, :1].clone()
    with use_backend("native"), torch.no_grad():
        first_row = spatial_attention(**sample.arguments)[:, :1]
        alone = spatial_attention(sees_itself, sample.arguments["bias_table"])
    torch.testing.assert_close(first_row, alone)


def test_nan_stays_in_its_head(isa: str) -> None:
    sample = call(2, (13, 20), 2, 16)
    clean = run(OP, spatial_attention, sample, backend="native")
    sample.arguments["qkv"][1, 4, 4, 1, 0] = torch.nan  # a key
    dirty = run(OP, spatial_attention, sample, backend="native")
    assert dirty.outputs[0][1, :, :, 0].isnan().all()
    assert dirty.gradients["qkv"][1, :, :, :, 0].isnan().all()
    assert torch.equal(dirty.outputs[0][:, :, :, 1], clean.outputs[0][:, :, :, 1])
    assert torch.equal(dirty.gradients["qkv"][0], clean.gradients["qkv"][0])
    assert dirty.gradients["bias_table"][0].isnan().any()
    assert torch.equal(dirty.gradients["bias_table"][1], clean.gradients["bias_table"][1])


def test_table_gradient_alone(isa: str) -> None:
    # Of many images, whose sums are long: against float64, and the same as together with that of qkv.
    sample = call(40, (6, 11), 2, 16, larger=(1, 2))
    together = check(sample).gradients["bias_table"]
    alone = run(OP, spatial_attention, sample, backend="native", gradients=["bias_table"])
    assert torch.equal(alone.gradients["bias_table"], together)


@pytest.mark.parametrize("images", [1, 5, 40])
def test_results_do_not_depend_on_the_number_of_threads(isa: str, threads: None, images: int) -> None:
    # One image is split over parts of its queries, forty are not.
    sample = call(images, (17, 16), 2, 16)
    results = []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        results.append(run(OP, spatial_attention, sample, backend="native"))
    for result in results[1:]:
        assert torch.equal(result.outputs[0], results[0].outputs[0])
        for name, gradient in result.gradients.items():
            assert torch.equal(gradient, results[0].gradients[name]), name


def test_samples_do_not_depend_on_each_other(isa: str) -> None:
    sample = call(3, (9, 10), 2, 16)
    qkv, table = sample.arguments["qkv"], sample.arguments["bias_table"]
    with use_backend("native"), torch.no_grad():
        every = spatial_attention(qkv, table)
        assert torch.equal(every[2:], spatial_attention(qkv[2:], table))


MEMORY = """
import resource, torch
from vdm_kernels import spatial_attention, use_backend

torch.set_num_threads(2)

def peak_mb(size):
    qkv = torch.randn(1, size, size, 3, 1, 8).requires_grad_()
    table = torch.randn(1, 2 * size - 1, 2 * size - 1).requires_grad_()
    with use_backend("native"):
        spatial_attention(qkv, table).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

before = peak_mb(8)
print(peak_mb(96) - before)
"""


def test_memory_is_linear_in_the_pixels() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    scores_mb = 4 * 96**4 / 2**20
    assert float(done.stdout) < scores_mb / 4, "324 MB are one matrix of scores"


def test_is_chosen_on_the_cpu() -> None:
    sample = call(1, (4, 4), 2, 8)
    args = (sample.arguments["qkv"], sample.arguments["bias_table"])
    assert OP.select(args) == "native"
    double = tuple(arg.double() for arg in args)
    assert OP.select(double) == "reference"

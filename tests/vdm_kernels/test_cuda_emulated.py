"""The CUDA kernels on a CPU: every sample of the contract and more, in the emulator of tests/support/cuda_emulator."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cuda_emulator
import pytest
import torch
from torch import Tensor

import vdm_kernels
from vdm_kernels import native
from vdm_kernels.op import OPS
from vdm_kernels.ops.group_norm_silu_conv import cuda as conv_cuda
from vdm_kernels.ops.temporal_attention import cuda as attention_cuda
from vdm_kernels.testing import Result, Sample, assert_results_close, poisoned_empty, run, tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.C is None, reason=f"without an extension no native backend: {native.WHY_NOT}"),
    pytest.mark.skipif(cuda_emulator.why_not() is not None, reason=str(cuda_emulator.why_not())),
]
STEMS = {source.stem.removesuffix("_cuda") for source in cuda_emulator.SOURCES}
NAMES = sorted(stem for stem in STEMS if not stem.endswith("_bwd"))
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Emulated:
    """An extension whose kernels of the CPU are the emulated kernels of CUDA, on stream 0."""

    def __init__(self, extension: ModuleType) -> None:
        self.extension = extension

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.endswith("_cpu"):
            return getattr(self.extension, name)
        kernel: Callable[..., Any] = getattr(self.extension, name.removesuffix("_cpu") + "_cuda")
        return lambda *arguments: kernel(*arguments, 0)


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """What only has to be compiled once."""
    return Emulated(cuda_emulator.build(tmp_path_factory.mktemp("emulated")))


@pytest.fixture
def on_emulator(extension: Emulated, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Sample], Result]:
    """Runs a sample of an op on the emulated kernels."""

    def on_emulator(name: str, sample: Sample) -> Result:
        with monkeypatch.context() as patch, poisoned_empty():
            # Tensors say that they are on a GPU, so that the backend takes its path for one.
            patch.setattr(torch.Tensor, "is_cuda", True, raising=False)
            patch.setattr(native, "C", extension)
            patch.setattr("vdm_kernels.ops.abs_quantile.native.C", extension)
            patch.setattr(conv_cuda, "prefers_fused", lambda *args: conv_cuda.why_not_fused(*args) is None)
            return run(OPS[name], getattr(vdm_kernels, name), sample, backend="native")

    return on_emulator


def _compare(name: str, sample: Sample, on_emulator: Callable[[str, Sample], Result]) -> None:
    op, function = OPS[name], getattr(vdm_kernels, name)
    expected = run(op, function, sample.to_float64(op), backend="reference")
    low = run(op, function, sample, backend="reference")
    assert_results_close(on_emulator(name, sample), expected, low, f"{name} {sample.name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_float64_reference(
    name: str, dtype: torch.dtype, on_emulator: Callable[[str, Sample], Result]
) -> None:
    compared = 0
    for sample in importlib.import_module(f"vdm_kernels.ops.{name}.samples").samples(dtype, "cpu"):
        if sample.large or (name == "temporal_attention" and not _has_cuda_kernel(sample.arguments["qkv"])):
            continue
        _compare(name, sample, on_emulator)
        compared += 1
    assert compared > 3


def _has_cuda_kernel(qkv: Tensor) -> bool:
    return attention_cuda.why_not(qkv) is None


# Every kernel: tiles of 16 frames, chunks of 32 numbers; one that is full and one that is not.
SIZES = [(16, 32), (5, 24), (16, 64), (11, 40), (16, 128), (3, 104), (32, 64), (20, 40), (64, 48), (50, 96)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("frames", "width"), SIZES)
def test_temporal_attention_of_every_size(
    frames: int, width: int, dtype: torch.dtype, on_emulator: Callable[[str, Sample], Result]
) -> None:
    normal = tensors(dtype, "cpu")
    qkv = normal(1, frames, 3, 3, 2, width)
    if not _has_cuda_kernel(qkv):
        pytest.skip("has no CUDA kernel")
    _compare(
        "temporal_attention", Sample("size", {"qkv": qkv, "bias": normal(2, frames, frames)}), on_emulator
    )


def test_several_turns_of_a_team(on_emulator: Callable[[str, Sample], Result]) -> None:
    # More pixels than teams fit on the emulated device: a team sums its bias gradient over many of them.
    normal = tensors(torch.bfloat16, "cpu")
    ids = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]])
    arguments = {"qkv": normal(2, 4, 100, 3, 1, 8), "bias": normal(1, 4, 4), "segment_ids": ids}
    _compare("temporal_attention", Sample("turns", arguments), on_emulator)

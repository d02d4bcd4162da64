"""Every CUDA source compiles for sm_80 and sm_90 without a GPU, and no kernel spills registers to memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted(CSRC.glob("*/*_cuda.cu"))
ARCHITECTURES = (80, 90)
NVCC = shutil.which("nvcc")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NVCC is None, reason="nvcc is not on PATH"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ptxas -v says of every source, two compilations at a time."""
    folder = tmp_path_factory.mktemp("cuda")

    def compile_source(source: Path) -> tuple[str, str]:
        options = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v", f"-I{CSRC}"]
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        output = ["-Xcompiler=-fPIC", "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        done = subprocess.run([str(NVCC), *options, *targets, *output], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return source.stem, done.stderr

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(pool.map(compile_source, SOURCES))


@pytest.mark.parametrize("source", [source.stem for source in SOURCES])
def test_no_kernel_spills(reports: dict[str, str], source: str) -> None:
    report = reports[source]
    for architecture in ARCHITECTURES:
        assert re.search(rf"Compiling entry function '\w+' for 'sm_{architecture}'", report)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert frames
    # A stack frame without spills is an array that was indexed at run time: as slow.
    assert [frame for frame in frames if frame != ("0", "0", "0")] == []


def test_every_op_but_spatial_attention_has_a_source() -> None:
    stems = {source.stem.removesuffix("_cuda") for source in SOURCES}
    assert stems >= {"abs_quantile", "ancestral_step", "ddim_step", "langevin_step"}
    assert stems >= {"philox_normal", "q_sample"}
    assert stems >= {"channel_statistics", "group_norm_silu", "group_norm_silu_conv", "temporal_attention"}

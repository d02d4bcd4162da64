"""The native extension: its instruction sets are kept apart, agree, and share torch's threads; its build fails well."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vdm_kernels import native

ROOT = Path(__file__).resolve().parents[2]
ISAS = ("baseline", "avx2", "avx512")

needs_extension = pytest.mark.skipif(native.C is None, reason=f"no native extension: {native.WHY_NOT}")


def available_isas() -> list[str]:
    """The instruction sets that this CPU has, best last; leaves the best one set, as at the start."""
    if native.C is None:
        return []
    started_with = native.C.cpu_isa()
    available = list(ISAS[: ISAS.index(started_with) + 1])
    native.C.set_cpu_isa(started_with)
    return available


@pytest.fixture
def restore_isa() -> Iterator[None]:
    """Puts the instruction set back."""
    assert native.C is not None
    before = native.C.cpu_isa()
    yield
    native.C.set_cpu_isa(before)


def object_directories() -> dict[str, Path]:
    """Where the newest build in this checkout left each instruction set's object files."""
    found = sorted(ROOT.glob("build/**/vdm_baseline.dir"), key=lambda path: path.stat().st_mtime)
    if not found:
        return {}
    return {isa: path for isa in ISAS if (path := found[-1].with_name(f"vdm_{isa}.dir")).is_dir()}


def defined_symbols(directory: Path) -> dict[str, str]:
    """Symbol -> nm's type letter, for what the object files of one instruction set define."""
    objects = [str(path) for path in directory.rglob("*.o")]
    assert objects
    listing = subprocess.run(
        ["nm", "-C", "--defined-only", *objects], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split(maxsplit=2) for line in listing.splitlines() if " " in line]
    return {name: kind for _, kind, name in lines}


@pytest.mark.skipif(not object_directories(), reason="the extension was not built in this checkout")
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_instruction_sets_share_no_code() -> None:
    # The linker keeps one of several weak definitions: it could be the one with AVX-512.
    symbols = {isa: defined_symbols(directory) for isa, directory in object_directories().items()}
    for isa, defined in symbols.items():
        visible = {name for name, kind in defined.items() if kind not in "tbdr"}
        assert visible, isa
        # Everything the linker can see is in the instruction set's own namespace.
        assert {name for name in visible if not name.startswith(f"vdm::{isa}::")} == set()
        weak = {name for name, kind in defined.items() if kind in "WVuwv"}
        for other in symbols.keys() - {isa}:
            assert weak & symbols[other].keys() == set()


@needs_extension
def test_the_extension_needs_neither_torch_nor_a_bundled_openmp() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    assert native.C is not None
    assert native.C.__file__ is not None
    listing = subprocess.run(
        ["readelf", "-d", native.C.__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line]
    system = (
        "libgomp.so",
        "libstdc++.so",
        "libm.so",
        "libgcc_s.so",
        "libc.so",
        "libpthread.so",
        "ld-linux",
        "librt.so",
    )
    assert [name for name in needed if not name.startswith((*system, "libdl.so"))] == []
    assert "RPATH" not in listing
    assert "RUNPATH" not in listing


@needs_extension
@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_instruction_sets_make_the_same_noise(dtype: torch.dtype) -> None:
    assert native.C is not None
    n = 40_003  # several blocks and a ragged end
    seed = torch.tensor([0, -1, 2**62 + 12345], dtype=torch.int64)
    draw = torch.tensor([2**40 + 3], dtype=torch.int64)
    noise = {}
    for isa in available_isas():
        native.C.set_cpu_isa(isa)
        assert native.C.cpu_isa() == isa
        out = torch.full((3, n), torch.nan, dtype=dtype)
        code = native.DTYPE_CODES[dtype]
        native.C.philox_normal_cpu(out.data_ptr(), code, 3, n, seed.data_ptr(), draw.data_ptr())
        noise[isa] = out.double()
    # Where two float32 values straddle a rounding boundary, the narrow ones differ by one unit in the last place.
    ulp = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps
    for out in noise.values():
        assert torch.all((out - noise["baseline"]).abs() <= 2e-6 + ulp * out.abs())


@needs_extension
@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("isa", ISAS)
def test_narrow_types_convert_like_torch(isa: str) -> None:
    # DDIM at equal log SNR with an x prediction of zero weight is the identity: it shows the conversions alone.
    if isa not in available_isas():
        pytest.skip(f"this CPU or build lacks {isa}")
    assert native.C is not None
    native.C.set_cpu_isa(isa)
    one = torch.ones(1, dtype=torch.int64)
    logsnr = torch.zeros(1)
    values = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        z = values.view(dtype)
        z = z[z.isfinite()]
        prediction, out = torch.zeros_like(z), torch.full_like(z, torch.nan)
        pointers = [tensor.data_ptr() if tensor is not None else 0 for tensor in (z, prediction, None, out)]
        code = native.DTYPE_CODES[dtype]
        conditions = [logsnr.data_ptr(), logsnr.data_ptr(), 0, 0, one.data_ptr(), one.data_ptr()]
        native.C.ddim_step_cpu(*pointers, code, code, 1, z.numel(), *conditions, 1, 0.0, True)
        assert torch.equal(out, z)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter that finds the same packages."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False
    )


@needs_extension
def test_environment_forces_an_instruction_set() -> None:
    code = "import torch, vdm_kernels._C as C; print(C.cpu_isa())"
    result = run_python(code, VDM_CPU_ISA="baseline")
    assert result.stdout.strip() == "baseline", result.stderr
    result = run_python(code, VDM_CPU_ISA="mmx")
    assert result.returncode != 0
    assert "ValueError: VDM_CPU_ISA: needs baseline, avx2 or avx512, got mmx" in result.stderr


@needs_extension
def test_unknown_instruction_set_is_refused() -> None:
    assert native.C is not None
    with pytest.raises(ValueError, match="needs baseline, avx2 or avx512, got sse9"):
        native.C.set_cpu_isa("sse9")


@needs_extension
def test_threads_are_those_of_torch() -> None:
    code = """
import torch, vdm_kernels._C as C
runtimes = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line or "libomp" in line}
for threads in (1, 3):
    torch.set_num_threads(threads)
    print(len(runtimes), C.num_threads() - threads)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    runtimes = result.stdout.split()[0]
    if runtimes != "1":
        pytest.skip(f"this torch brings an OpenMP of its own: {runtimes} are loaded")
    assert result.stdout.split() == ["1", "0", "1", "0"]


@needs_extension
@pytest.mark.skipif(sys.platform != "linux", reason="the policy is glibc's")
def test_allocator_policy_keeps_pages_and_stays_bounded() -> None:
    code = """
import resource, torch, vdm_kernels._C as C
if not C.set_allocator_policy():
    raise SystemExit("not glibc")
megabytes = 2**18  # float32 elements
def step(i):  # what a sampler holds: three videos of changing sizes
    return [torch.ones((8 + (i * 7 + j * 5) % 9) * megabytes) for j in range(3)]
for i in range(9):
    step(i)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(90):
    step(i)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024)
"""
    result = run_python(code, OMP_NUM_THREADS="1")
    if "not glibc" in result.stderr:
        pytest.skip("the C library is not glibc")
    assert result.returncode == 0, result.stderr
    faults, growth = map(float, result.stdout.split())
    pages_written = 90 * 3 * 12 * 256  # 4 KB each; without the policy every one is faulted in again
    assert faults < 0.05 * pages_written
    assert growth < 64  # MB


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the build reads, without a package around it."""
    for module in ("setuptools", "pybind11", "cmake", "ninja"):
        pytest.importorskip(module, reason="the build's requirements are not installed")
    if not (ROOT / "setup.py").is_file():
        pytest.skip("not a checkout")
    for name in ("setup.py", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "vdm_kernels").mkdir()
    return tmp_path


def build(checkout: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    """Builds in place; the process and what it wrote down."""
    cleared = ("VDM_NATIVE", "VDM_CUDA", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "CXX")
    variables = {name: value for name, value in os.environ.items() if name not in cleared} | environment
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    result = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, check=False)
    info = checkout / "vdm_kernels" / "_build_info.json"
    return result, json.loads(info.read_text()) if info.is_file() else {}


def test_a_failed_build_says_why_and_leaves_a_package(checkout: Path) -> None:
    stale = checkout / "vdm_kernels" / "_C.stale.so"
    stale.touch()
    result, info = build(checkout, CXX="/no/such/compiler", VDM_CUDA="0")
    assert result.returncode == 0, result.stderr
    assert "THE NATIVE EXTENSION WAS NOT BUILT" in result.stderr
    assert info["native"] is False
    assert "/no/such/compiler" in str(info["reason"])
    assert not stale.exists()


def test_a_failed_build_can_be_made_an_error(checkout: Path) -> None:
    result, info = build(checkout, CXX="/no/such/compiler", VDM_CUDA="0", VDM_NATIVE="1")
    assert result.returncode != 0
    assert "the native extension was not built" in result.stderr
    assert info == {}


def test_the_build_can_be_skipped(checkout: Path) -> None:
    result, info = build(checkout, VDM_NATIVE="0")
    assert result.returncode == 0, result.stderr
    assert info == {"native": False, "reason": "VDM_NATIVE=0 was set when the package was installed"}


def test_a_switch_takes_0_or_1(checkout: Path) -> None:
    result, _ = build(checkout, VDM_NATIVE="yes")
    assert result.returncode != 0
    assert "VDM_NATIVE must be 0 or 1, got yes" in result.stderr


def test_cuda_on_demand_needs_nvcc(checkout: Path) -> None:
    result, _ = build(checkout, VDM_CUDA="1", CUDACXX="/no/such/nvcc")
    assert result.returncode != 0
    assert "VDM_CUDA=1 needs nvcc" in result.stderr

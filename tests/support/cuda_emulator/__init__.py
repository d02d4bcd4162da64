"""Runs the CUDA kernels of csrc/ on a CPU; see emulator.h. Needs g++ and the headers of CUDA, but no GPU."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
SOURCES = sorted(CSRC.glob("*/*_cuda.cu"))


@cache
def _cuda_headers() -> str | None:
    """Where nvcc says that the headers of CUDA are."""
    if shutil.which("nvcc") is None:
        return None
    plan = subprocess.run(["nvcc", "--dryrun", "-E", "-x", "cu", "/dev/null"], capture_output=True, text=True)
    found = re.search(r'INCLUDES="-I([^"]*)"', plan.stderr)
    return found[1] if found and Path(found[1], "cuda_runtime.h").exists() else None


def why_not() -> str | None:
    """Why kernels cannot be emulated on this machine; None where they can."""
    if _cuda_headers() is None:
        return "nvcc is not on PATH, or has no headers"
    if not all(map(shutil.which, ("g++", "objcopy"))):
        return "g++ or objcopy is not on PATH"
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is not installed"
    return None


def build(folder: Path) -> ModuleType:
    """Compiles every CUDA source of csrc/ for the CPU; of the extension that it returns, `..._cuda` can be called."""
    for source in [*CSRC.rglob("*.cuh"), *SOURCES]:
        target = folder / source.relative_to(CSRC)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (HERE / source.relative_to(CSRC)).exists():
            target.write_text(_as_cpp(source.read_text()))
    objects = [folder / "bindings.o", folder / "bindings_norm_cuda.o"]
    commands = [_compile(CSRC / f"{o.stem}.cpp", o, folder, "-O0") for o in objects]
    for source in SOURCES:
        objects.append(folder / f"{source.stem}.o")
        generated = folder / source.relative_to(CSRC)
        options = ("-O1", "-x", "c++", "-include", str(HERE / "emulator.h"))
        commands.append(_compile(generated, objects[-1], folder, *options))
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(_run, commands))
    # The kernels of the CPU, which the bindings name, are left out: a weak symbol may be absent.
    _run(["objcopy", "--weaken", str(objects[0])])
    library = folder / "_C.so"
    _run(["g++", "-shared", *map(str, objects), "-o", str(library)])
    loader = importlib.machinery.ExtensionFileLoader("_C", str(library))
    spec = importlib.util.spec_from_file_location("_C", library, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _as_cpp(source: str) -> str:
    source = re.sub(r"<<<(.*?)>>>\s*\(", r" | emulator::Grid(\1)(", source, flags=re.DOTALL)
    shared = "extern __shared__ uint4 dynamic_shared_memory[];"
    return source.replace(shared, "uint4* const dynamic_shared_memory = emulator::dynamic_shared();")


def _compile(source: Path, output: Path, folder: Path, *options: str) -> list[str]:
    import pybind11

    # The emulator's headers take the place of those in csrc/ that have assembly.
    folders = (HERE, folder, CSRC, _cuda_headers(), pybind11.get_include(), sysconfig.get_paths()["include"])
    includes = [f"-I{path}" for path in folders]
    flags = [
        "-std=c++17",
        "-fPIC",
        "-fvisibility=hidden",
        "-w",
        "-DVDM_HAS_CUDA",
        '-DVDM_BUILD_INFO="emulated"',
    ]
    return ["g++", *flags, *options, *includes, "-c", str(source), "-o", str(output)]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[:4000]}"

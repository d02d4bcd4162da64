"""Builds the native extension with CMake and ninja. Everything else about the package is in pyproject.toml.

Environment:
    VDM_NATIVE   0: do not build it; 1: a failure is an error. Otherwise a failure is reported and leaves a package
                 that works without it; vdm_kernels/_build_info.json keeps the reason, which `vdm doctor` shows.
    VDM_CUDA     0: without CUDA; 1: with CUDA, and a failure is an error. Otherwise with CUDA where nvcc is found;
                 should that fail, without it.
    MAX_JOBS     how many files to compile at once; the number of available cores by default.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = "vdm_kernels"
BUILD_INFO = "_build_info.json"


class BuildError(Exception):
    """The native extension was not built; the message says why."""


def switch(name: str) -> bool | None:
    """An environment variable that is 0, 1 or not set."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"setup.py: {name} must be 0 or 1, got {value}")
    return None if value == "" else value == "1"


def python_tool(name: str, directory_attribute: str) -> str:
    """The path of `cmake` or `ninja`, from the Python package of that name or from PATH."""
    try:
        directory = getattr(import_module(name), directory_attribute)
    except ImportError:
        directory = None
    found = (shutil.which(name, path=directory) if directory else None) or shutil.which(name)
    if found is None:
        raise BuildError(f"{name} was not found (pip install {name})")
    return found


def find_nvcc() -> str | None:
    """The CUDA compiler: the one that CUDACXX or CUDA_HOME names, or one on PATH or in the usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    named = os.environ.get("CUDACXX") or (f"{home}/bin/nvcc" if home else None)
    return shutil.which(named) if named else shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def run(command: list[str], what: str) -> None:
    """Runs a command, passes its output on, and puts the end of it into the error."""
    print(*command, flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait() != 0:
        raise BuildError(
            f"{what} failed with exit status {process.returncode}:\n{''.join(lines[-30:]).rstrip()}"
        )


def build_with_cmake(build_directory: Path, output_directory: Path, nvcc: str | None) -> None:
    """Configures and builds; leaves _C*.so in output_directory."""
    try:
        import pybind11
    except ImportError as error:
        raise BuildError("pybind11 was not found (pip install pybind11)") from error
    cmake = python_tool("cmake", "CMAKE_BIN_DIR")
    options = {
        "CMAKE_MAKE_PROGRAM": python_tool("ninja", "BIN_DIR"),
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(output_directory),
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "VDM_CUDA": "ON" if nvcc else "OFF",
        **({"CMAKE_CUDA_COMPILER": nvcc} if nvcc else {}),
    }
    output_directory.mkdir(parents=True, exist_ok=True)
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    run([cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(build_directory), *definitions], "cmake")
    # The cores that this process may use, which in a container are fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = os.environ.get("MAX_JOBS") or str(cores)
    run([cmake, "--build", str(build_directory), "--parallel", jobs], "the compilation")


def build(build_directory: Path, output_directory: Path) -> str | None:
    """Builds as the environment asks. Returns why there is no CUDA in it, None where there is."""
    if switch("VDM_NATIVE") is False:
        raise BuildError("VDM_NATIVE=0 was set when the package was installed")
    wanted = switch("VDM_CUDA")
    nvcc = None if wanted is False else find_nvcc()
    if wanted and nvcc is None:
        raise BuildError("VDM_CUDA=1 needs nvcc: set CUDACXX or CUDA_HOME, or put it on PATH")
    if nvcc is not None:
        try:
            build_with_cmake(build_directory / "cuda", output_directory, nvcc)
            return None
        except BuildError as error:
            if wanted:
                raise
            warn(f"with CUDA ({nvcc}) the build failed, now without it.\n{error}")
            no_cuda = str(error)
    else:
        no_cuda = "VDM_CUDA=0 was set" if wanted is False else "nvcc was not found"
    build_with_cmake(build_directory / "cpu", output_directory, None)
    return no_cuda


def warn(message: str) -> None:
    """Prints what should not be overlooked."""
    line = "!" * 100
    print(f"{line}\nvdm: {message}\n{line}", file=sys.stderr, flush=True)


class BuildNative(build_ext):
    """Builds vdm_kernels._C, or says loudly that, and why, there is none."""

    def build_extension(self, ext: Extension) -> None:
        """Builds it beside the package's modules and writes the build information there."""
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        info: dict[str, bool | str | None] = {"native": True, "reason": None}
        try:
            info["no_cuda"] = build(Path(self.build_temp).resolve(), output.parent)
        except (BuildError, OSError) as error:
            if switch("VDM_NATIVE") or switch("VDM_CUDA"):
                raise SystemExit(f"setup.py: the native extension was not built: {error}") from error
            warn(f"THE NATIVE EXTENSION WAS NOT BUILT. The package works without it, slowly.\n{error}")
            output.unlink(missing_ok=True)
            info = {"native": False, "reason": str(error)}
        output.parent.mkdir(parents=True, exist_ok=True)
        (output.parent / BUILD_INFO).write_text(json.dumps(info, indent=2) + "\n")

    def copy_extensions_to_source(self) -> None:
        """For builds in place: the build information too, and no stale extension."""
        for stale in (ROOT / PACKAGE).glob("_C*.so"):
            stale.unlink()
        super().copy_extensions_to_source()
        shutil.copyfile(Path(self.build_lib) / PACKAGE / BUILD_INFO, ROOT / PACKAGE / BUILD_INFO)


setup(
    # Optional, so that setuptools does not miss the file where the build failed.
    ext_modules=[Extension(f"{PACKAGE}._C", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative},
)

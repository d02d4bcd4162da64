"""Builds the native extension with CMake and ninja. Everything else about the package is in pyproject.toml.

Environment:
    VDM_NATIVE   0: do not build it; 1: a failure is an error. Otherwise a failure is reported, remembered in
                 vdm_kernels/_build_info.json (`vdm doctor` shows it), and leaves a package without it.
    VDM_CUDA     0: without CUDA; 1: with, or fail. Otherwise with CUDA where nvcc is found.
    MAX_JOBS     how many files to compile at once; the number of available cores by default.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = "vdm_kernels"
BUILD_INFO = "_build_info.json"


class BuildError(Exception):
    """The native extension was not built; the message says why."""


def tool(name: str) -> str:
    """The path of `cmake` or `ninja`: that of the Python package where it is installed, or the one on PATH."""
    beside_python = Path(sys.executable).with_name(name)
    found = shutil.which(name) or (str(beside_python) if beside_python.exists() else None)
    try:
        module = __import__(name)
        directory = getattr(module, "CMAKE_BIN_DIR", None) or getattr(module, "BIN_DIR", None)
        found = shutil.which(name, path=directory) or found
    except ImportError:
        pass
    if found is None:
        raise BuildError(f"{name} was not found (pip install {name})")
    return found


def available_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def switch(name: str) -> bool | None:
    """An environment variable that is 0, 1 or not set."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"setup.py: {name} must be 0 or 1, got {value}")
    return None if value == "" else value == "1"


def run(command: list[str], what: str) -> None:
    """Runs a command; its output goes to ours, and its last lines into the error."""
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(process.stdout, end="", flush=True)
    if process.returncode != 0:
        tail = "\n".join(process.stdout.strip().splitlines()[-30:])
        raise BuildError(f"{what} failed with exit status {process.returncode}:\n{tail}")


def build_with_cmake(build_directory: Path, output_directory: Path) -> None:
    """Configures and builds; leaves _C*.so in output_directory."""
    try:
        import pybind11
    except ImportError as error:
        raise BuildError("pybind11 is not installed (pip install pybind11)") from error
    cmake, cuda = tool("cmake"), {None: "AUTO", True: "ON", False: "OFF"}[switch("VDM_CUDA")]
    configure = [
        cmake,
        "-S", str(ROOT),
        "-B", str(build_directory),
        "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output_directory}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DVDM_CUDA={cuda}",
    ]  # fmt: skip
    output_directory.mkdir(parents=True, exist_ok=True)
    run(configure, "cmake (configure)")
    jobs = os.environ.get("MAX_JOBS") or str(available_cores())
    run([cmake, "--build", str(build_directory), "--parallel", jobs], "cmake --build")


class BuildNative(build_ext):
    """Builds vdm_kernels._C, or says loudly that, and why, there is none."""

    def build_extension(self, ext: Extension) -> None:
        """Builds it beside the package's modules and writes the build information there."""
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        reason = None
        try:
            if switch("VDM_NATIVE") is False:
                raise BuildError("VDM_NATIVE=0 was set when the package was built")
            build_with_cmake(Path(self.build_temp).resolve() / "cmake", output.parent)
        except (BuildError, OSError) as error:
            output.unlink(missing_ok=True)
            reason = str(error)
            if switch("VDM_NATIVE"):
                raise SystemExit(f"setup.py: the native extension was not built: {reason}") from error
            line = "!" * 100
            print(f"{line}\nvdm: THE NATIVE EXTENSION WAS NOT BUILT. The package works without it, slowly.\n{reason}\n{line}",
                  file=sys.stderr, flush=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        info = {"native": reason is None, "reason": reason}
        (output.parent / BUILD_INFO).write_text(json.dumps(info, indent=2) + "\n")
        self.build_information = output.parent / BUILD_INFO

    def copy_extensions_to_source(self) -> None:
        """For builds in place: also the build information, and no stale extension."""
        package = ROOT / PACKAGE
        for stale in package.glob("_C*.so"):
            stale.unlink()
        super().copy_extensions_to_source()
        shutil.copyfile(self.build_information, package / BUILD_INFO)


setup(
    ext_modules=[Extension(f"{PACKAGE}._C", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative},
)

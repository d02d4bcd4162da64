"""The state of the machine that a number depends on: versions, threads, allocator, precision."""

import functools
import platform
from importlib import metadata
from pathlib import Path

import torch

import vdm
from vdm_kernels import native


def devices() -> tuple[str, ...]:
    """The device types that rows can be measured on here: `cpu`, and `cuda` where there is one."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def device_name(device: str) -> str:
    """The model of the device, e.g. `AMD EPYC` or `NVIDIA H200`."""
    return torch.cuda.get_device_name() if device == "cuda" else _cpu_model()


@functools.cache
def versions() -> dict[str, str]:
    """What a row was measured with, by name: the same keys in every row."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "vdm": vdm.__version__,
        "native": native_build(),
        "cuda": torch.version.cuda or "none",
        "cpu": _cpu_model(),
    }


@functools.cache
def native_build() -> str:
    """The compiler and instruction sets of the native module, or why it is absent."""
    if native.C is None:
        return f"absent: {native.WHY_NOT}"
    return f"{native.C.build_info}, runs {native.C.cpu_isa()}"


def set_policies() -> list[str]:
    """Set, once and for every row alike, what both sides run under, and say so in lines for the header.

    Big CPU tensors: glibc gives their memory back and faults it in again, which can cost more than a
    kernel; the native module's allocator policy keeps it. float32 means float32: TF32 is off.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    allocator = "the system's default (no native module)"
    if native.C is not None:
        native.C.set_allocator_policy()
        allocator = "freed memory is kept and reused (set_allocator_policy)"
    lines = [
        f"vdm benchmarks: {', '.join(f'{key} {value}' for key, value in versions().items())}",
        f"for all rows: {torch.get_num_threads()} CPU threads; allocator: {allocator}; TF32 off",
    ]
    return lines + [f"device: {device}, {device_name(device)}" for device in devices()]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


@functools.cache
def _cpu_model() -> str:
    """Linux's name for the processor; elsewhere what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

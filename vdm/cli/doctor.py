"""`vdm doctor`."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import vdm_kernels
from vdm_kernels import native

_PACKAGES = ("vdm", "torch", "triton", "numpy", "av", "safetensors")


def doctor_command() -> None:
    """Print device and versions, which backend serves each operator, and why the others do not."""
    console = Console(width=max(100, Console().width))
    for name, value in environment().items():
        console.print(f"[bold]{name:>10}[/bold]  {value}", highlight=False, soft_wrap=True)
    table = Table("operator", "runs on", "not available, and why", title="backends", title_justify="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for op, reasons in vdm_kernels.backends().items():
        if op.endswith("_bwd"):
            continue
        usable = [name for name in _order(device) if reasons[name] is None]
        why_not = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
        table.add_row(op, usable[0], "\n".join(why_not))
    console.print(table)


def environment() -> dict[str, str]:
    """What a bug report needs: versions, devices, and how the extension was built or why it is not there."""
    found = {"python": f"{platform.python_version()} on {platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["cpu"] = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found["gpu"] = f"{torch.cuda.get_device_name()}, sm_{major}{minor}, CUDA {torch.version.cuda}"
    else:
        found["gpu"] = "none that PyTorch can use"
    found["native"] = native_extension()
    return found


def native_extension() -> str:
    """How the extension was built and which instruction set it uses, or why there is none."""
    if native.C is not None:
        return f"{native.C.build_info}; on this CPU: {native.C.cpu_isa()}"
    recorded = Path(vdm_kernels.__file__).with_name("_build_info.json")
    built = json.loads(recorded.read_text()) if recorded.is_file() else {}
    return f"not available: {built.get('reason') or native.WHY_NOT}"


def _order(device: str) -> tuple[str, ...]:
    return ("native", "triton", "reference") if device == "cuda" else ("native", "reference", "triton")

"""The peak memory of a call."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(run: Callable[[], object], device: str) -> int | None:
    """How much more memory a second call holds at most than was held before it; None where nobody counts it.

    On a GPU what torch allocates; on a CPU the resident memory of the process, with what kernels allocate past
    torch, after free memory has been given back to the system.
    """
    run()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists() or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        return None
    libc.malloc_trim(0)
    before = _resident("VmRSS")
    _CLEAR.write_text("5")  # the peak becomes what there is now
    run()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    return int(_STATUS.read_text().split(f"{name}:")[1].split()[0]) * 1024

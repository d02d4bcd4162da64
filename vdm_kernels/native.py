"""The compiled extension `vdm_kernels._C`, or the reason why there is none.

The extension knows nothing of torch: its functions take pointers and streams as integers, and sizes. What calls
it has checked everything before.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

C: ModuleType | None
WHY_NOT: str | None  # None where the extension is loaded

try:
    import vdm_kernels._C as _extension
except ImportError as error:
    C, WHY_NOT = None, f"vdm_kernels._C did not load ({error})"
else:
    C, WHY_NOT = _extension, None

HAS_CUDA: bool = C is not None and bool(C.has_cuda)

# The codes of csrc/common/types.h.
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
PARAMETERIZATION_CODES = {"eps": 0, "x": 1, "v": 2}

# To compare with: a device makes the name of its type anew each time, in 25 µs where the caches are cold.
_CPU = torch.device("cpu")


def unsupported(device: torch.device, *dtypes: torch.dtype) -> str | None:
    """Why the extension cannot run on tensors of this device and these dtypes; None where it can."""
    for dtype in dtypes:
        if dtype not in DTYPE_CODES:
            return f"the native kernels do not take {dtype}"
    if device == _CPU or (device.type == "cuda" and HAS_CUDA):
        return None
    if device.type == "cuda":
        return "vdm_kernels._C was built without CUDA"
    return f"the native kernels do not run on {device.type}"


def pointer(tensor: Tensor | None) -> int:
    """The address of a contiguous tensor's first element; 0, which means absent, for None."""
    return 0 if tensor is None else tensor.data_ptr()


def launch(name: str, device: torch.device, *arguments: float | tuple[float, ...]) -> int | None:
    """Runs `<name>_cpu`, or `<name>_cuda` on the current stream of a GPU; returns what the launcher does."""
    if device == _CPU:
        return getattr(C, f"{name}_cpu")(*arguments)
    with torch.cuda.device(device):
        return getattr(C, f"{name}_cuda")(*arguments, torch.cuda.current_stream(device).cuda_stream)


def launch_in_workspace(name: str, device: torch.device, *arguments: float | tuple[float, ...]) -> None:
    """Runs `<name>_cuda` with the device memory that `<name>_cuda_workspace` asks for."""
    size = getattr(C, f"{name}_cuda_workspace")(*arguments, 0)
    workspace = torch.empty(size, dtype=torch.uint8, device=device)
    launch(name, device, *arguments, workspace.data_ptr())


def set_allocator_policy() -> bool:
    """Makes the process keep memory that tensors free, instead of giving it back and faulting it in again.

    For programs, once at their start: a big elementwise op on the CPU can be several times faster. Returns whether
    it is in force (glibc, with the extension).
    """
    return C is not None and bool(C.set_allocator_policy())

"""The compiled extension `vdm_kernels._C`, or the reason why there is none.

The extension knows nothing of torch: its functions take pointers and streams as integers, and sizes. What calls it
has checked everything before.
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


def unsupported(tensor: Tensor) -> str | None:
    """Why the extension cannot run on this tensor's device or dtype; None where it can."""
    if tensor.dtype not in DTYPE_CODES:
        return f"has no kernel for {tensor.dtype}"
    device = tensor.device.type
    if device == "cpu" or (device == "cuda" and HAS_CUDA):
        return None
    if device == "cuda":
        return "was built without CUDA"
    return f"has no kernel for device type {device}"


def pointer(tensor: Tensor | None) -> int:
    """The address of a contiguous tensor's first element; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def stream(device: torch.device) -> int:
    """The current CUDA stream of a device, as the integer that the launchers take."""
    return torch.cuda.current_stream(device).cuda_stream

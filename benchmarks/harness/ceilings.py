"""What this machine can do at best, measured in the same run as the rows that are compared with it."""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ceiling:
    """The two limits of a roofline: bytes per second of a copy, FLOP per second of the best dense arithmetic."""

    bytes_per_second: float
    flops_per_second: float

    def seconds(self, num_bytes: float, flops: float) -> float:
        """The least time for this much traffic and arithmetic: `max(bytes / bandwidth, FLOP / peak)`."""
        return max(num_bytes / self.bytes_per_second, flops / self.flops_per_second)


def measure_ceiling(device: str, dtype: torch.dtype) -> Ceiling:
    """The ceiling of `device` for arithmetic in `dtype`; measured at the first call, then remembered."""
    return Ceiling(
        _copy_bandwidth(device), max(_matmul_peak(device, dtype), _convolution_peak(device, dtype))
    )


@functools.cache
def _copy_bandwidth(device: str) -> float:
    """Bytes read plus bytes written per second by `Tensor.copy_` on buffers larger than the last cache."""
    size = _copy_bytes(device)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best_seconds(lambda: target.copy_(source), device, rounds=10)


@functools.cache
def _matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP per second of a large square matrix product in `dtype`."""
    n = 8192 if device == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    b = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / _best_seconds(lambda: a @ b, device, rounds=5)


@functools.cache
def _convolution_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP per second of a channels-last 3x3 convolution; on some CPUs well above those of a matrix product."""
    images, channels, size = (128 if device == "cuda" else 16), 256, 32
    x = torch.randn(images, channels, size, size, device=device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
    flops = 2 * 9 * channels**2 * images * size**2
    return flops / _best_seconds(lambda: torch.nn.functional.conv2d(x, weight, padding=1), device, rounds=5)


def _copy_bytes(device: str) -> int:
    """Four times the last-level cache, between 128 MB and 1 GB."""
    if device == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
    else:
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        cache = os.sysconf("SC_LEVEL3_CACHE_SIZE") if "SC_LEVEL3_CACHE_SIZE" in names else 0
    return min(max(4 * cache, 128 << 20), 1 << 30)


def _best_seconds(function: Callable[[], object], device: str, rounds: int) -> float:
    """The shortest of `rounds` calls, after one that is not counted."""
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    function()
    best = float("inf")
    for _ in range(rounds):
        synchronise()
        start = time.perf_counter()
        function()
        synchronise()
        best = min(best, time.perf_counter() - start)
    return best

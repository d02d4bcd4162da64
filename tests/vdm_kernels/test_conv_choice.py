"""Which convolutions the CUDA backend hands to its fused kernel; it is decided without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vdm_kernels.ops.group_norm_silu_conv import cuda


def _video(channels: int, height: int = 32, width: int = 32, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.zeros(1, channels, 2, height, width, dtype=dtype)


def _weight(out_channels: int, channels: int, kernel: int = 3) -> Tensor:
    return torch.zeros(out_channels, channels, kernel, kernel, dtype=torch.bfloat16)


@pytest.mark.parametrize("major", [8, 9])
@pytest.mark.parametrize(
    ("x", "x2", "weight", "fused"),
    [
        (_video(64), None, _weight(64, 64), True),
        (_video(64), _video(64), _weight(64, 128), True),
        (_video(128), None, _weight(128, 128), True),
        (_video(256), None, _weight(128, 256), False),
        (_video(64), None, _weight(256, 64), False),
        (_video(64, 12, 12), None, _weight(64, 64), True),
        (_video(64, 8, 8), None, _weight(64, 64), False),
        (_video(64, 17, 17), None, _weight(64, 64), False),
        (_video(64, dtype=torch.float32), None, _weight(64, 64), False),
        (_video(64), None, _weight(64, 64, kernel=1), False),
        (_video(60), _video(4), _weight(64, 64), False),
        (_video(64), None, _weight(3, 64), False),
    ],
)
def test_choice(
    x: Tensor, x2: Tensor | None, weight: Tensor, fused: bool, major: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert cuda.prefers_fused(x, x2, weight, None) is fused


def test_a_device_that_was_not_considered_uses_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not cuda.prefers_fused(_video(64), None, _weight(64, 64), None)


def test_addresses_must_be_aligned() -> None:
    memory = torch.zeros(2 * 8 * 8 * 64 + 1, dtype=torch.bfloat16)
    shape, strides = (1, 64, 2, 8, 8), (2 * 8 * 8 * 64, 1, 8 * 8 * 64, 8 * 64, 64)
    aligned, shifted = memory.as_strided(shape, strides), memory.as_strided(shape, strides, 1)
    assert cuda.why_not_fused(aligned, None, _weight(64, 64), None) is None
    assert cuda.why_not_fused(shifted, None, _weight(64, 64), None) is not None
    assert cuda.why_not_fused(aligned, None, _weight(64, 64), shifted) is not None

"""The rounding errors of Winograd's convolutions are within twice those of PyTorch's own.

On Gaussian data of every size that the levels of a U-Net have, and on what the shipped model computes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vdm_kernels
from vdm.models import Conditioning
from vdm.pretrained import MOVING_DIGITS
from vdm.training.export import load_model
from vdm_kernels.op import OPS, Op
from vdm_kernels.testing import cpu_isa, cpu_isas

CONV = OPS["group_norm_silu_conv"]
pytestmark = pytest.mark.skipif(CONV.why_not("native") is not None, reason=str(CONV.why_not("native")))


def error(actual: Tensor, truth: Tensor) -> float:
    """The largest error."""
    return (actual.double() - truth).abs().max().item()


def double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("isa", cpu_isas())
@pytest.mark.parametrize("precision", ["fast", "strict"])
@pytest.mark.parametrize(
    ("channels", "out_channels", "size"),
    [
        (64, 64, 32),
        (128, 64, 32),
        (128, 128, 32),
        (256, 256, 16),
        (512, 512, 8),
        (1024, 512, 8),
        (96, 40, 19),
        (64, 3, 32),
        (128, 1, 32),
    ],
)
@pytest.mark.parametrize("upsample", [False, True])
def test_gaussian_data(
    isa: str, precision: Any, upsample: bool, channels: int, out_channels: int, size: int
) -> None:
    size //= 2 if upsample else 1
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, size, size, channels, generator=generator).permute(0, 4, 1, 2, 3)
    weight = torch.randn(out_channels, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    with vdm_kernels.use_backend("reference"):
        truth = vdm_kernels.group_norm_silu_conv(x.double(), weight.double(), upsample=upsample)
        pytorch = vdm_kernels.group_norm_silu_conv(x, weight, upsample=upsample)
    with vdm_kernels.use_backend("native"), vdm_kernels.conv_precision(precision), cpu_isa(isa):
        ours = vdm_kernels.group_norm_silu_conv(x, weight, upsample=upsample)
    assert error(ours, truth) <= 2.0 * error(pytorch, truth)


def test_activations_of_the_shipped_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_model(MOVING_DIGITS)
    calls: list[tuple[Any, ...]] = []
    run = Op.__call__

    def record(self: Op, *args: Any) -> Any:
        if self is CONV:
            calls.append(args)
        return run(self, *args)

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 1, 16, 32, 32, generator=generator)
    monkeypatch.setattr(Op, "__call__", record)
    with torch.no_grad():
        for logsnr in (-6.0, 0.0, 6.0):
            model(z, torch.full((2,), logsnr), Conditioning(labels=torch.tensor([3, 8])))
    monkeypatch.undo()
    assert len(calls) >= 3 * 20
    for args in calls:
        truth, _ = CONV.reference(*map(double, args))
        pytorch, _ = CONV.reference(*args)
        with vdm_kernels.use_backend("native"):
            ours, _ = CONV(*args)
        what = f"{tuple(args[0].shape)} with {tuple(args[1].shape)}"
        assert error(ours, truth) <= 2.0 * error(pytorch, truth), what

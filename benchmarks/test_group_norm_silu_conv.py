"""`group_norm_silu_conv`: the residual block's half, GroupNorm to 3×3 convolution, with bias and residual."""

import torch
import torch.nn.functional as F
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload, size_in_bytes
from torch import Tensor, channels_last

import vdm_kernels

GROUPS = 8

# N = frames in all, 16 to a video; C channels in, `to` channels out (else C). With `to`, half of the channels come from
# a second tensor, as a skip connection does; with `up` the convolution is that of an upsampling layer, at 2 H.
TABLE = Table(
    op="group_norm_silu_conv",
    cpu=(
        {"N": 16, "C": 64, "H": 64},
        {"N": 16, "C": 128, "H": 32},
        {"N": 16, "C": 256, "H": 16},
        {"N": 16, "C": 512, "H": 8},
        {"N": 16, "C": 128, "to": 64, "H": 64},
        {"N": 16, "C": 64, "H": 64, "strict": True},
        {"N": 16, "C": 128, "H": 32, "strict": True},
        {"N": 16, "C": 256, "H": 16, "strict": True},
        {"N": 16, "C": 512, "H": 8, "strict": True},
        {"N": 16, "C": 128, "to": 64, "H": 64, "strict": True},
        {"N": 16, "C": 128, "H": 32, "up": True},
        {"N": 16, "C": 64, "H": 64, "down": True},
        {"N": 16, "C": 128, "to": 64, "H": 64, "kernel": 1},
    ),
    cuda=(
        {"N": 128, "C": 64, "H": 64},
        {"N": 128, "C": 128, "H": 32},
        {"N": 128, "C": 256, "H": 16},
        {"N": 128, "C": 512, "H": 8},
        {"N": 128, "C": 128, "to": 64, "H": 64},
    ),
    quick={"N": 16, "C": 64, "H": 16},
    directions=("fwd", "dx", "bwd"),
)


def images(x: Tensor) -> Tensor:
    """(B, C, F, H, W) as channels-last (B F, C, H, W), the same bytes."""
    return x.transpose(1, 2).flatten(0, 1)


def videos(y: Tensor, frames: int) -> Tensor:
    """The inverse of `images`."""
    return y.unflatten(0, (-1, frames)).transpose(1, 2)


def make(key: RowKey) -> Workload:
    count, channels, height = key.numbers("N", "C", "H")
    if "up" in key.size or "down" in key.size:
        return resampling(key, 2 if "up" in key.size else 1)
    batch, frames = count // 16, 16
    out_channels, kernel = int(key.size.get("to", channels)), int(key.size.get("kernel", 3))
    draw = Inputs(key.device, key.dtype)
    halves = 2 if "to" in key.size else 1
    parts = [draw.video(batch, channels // halves, frames, height, grad=True) for _ in range(halves)]
    residual = draw.video(batch, out_channels, frames, height, grad=True)
    weight = draw.normal(out_channels, channels, kernel, kernel, scale=(kernel**2 * channels) ** -0.5)
    weight = weight.to(memory_format=channels_last).requires_grad_()
    bias = draw.normal(out_channels, grad=True)
    norm_weight, norm_bias = (draw.normal(channels, grad=True) for _ in range(2))
    scale, shift = draw.normal(batch, channels, grad=True), draw.normal(batch, channels, grad=True)

    def call(
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        scale: Tensor,
        shift: Tensor,
        x: Tensor,
        x2: Tensor | None = None,
    ) -> Tensor:
        return vdm_kernels.group_norm_silu_conv(
            x,
            weight,
            bias,
            norm_weight=norm_weight,
            norm_bias=norm_bias,
            num_groups=GROUPS,
            scale=scale,
            shift=shift,
            x2=x2,
            residual=residual,
        )

    def strict(*tensors: Tensor) -> Tensor:
        with vdm_kernels.conv_precision("strict"):
            return call(*tensors)

    def plain(
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        scale: Tensor,
        shift: Tensor,
        *parts: Tensor,
    ) -> Tensor:
        """The chain on channels-last images; conv3d with a 1×3×3 kernel would be slower."""
        x = torch.cat([images(part) for part in parts], dim=1) if len(parts) > 1 else images(parts[0])
        y = F.group_norm(x, GROUPS, norm_weight, norm_bias)
        scales, shifts = (rows.repeat_interleave(frames, 0)[..., None, None] for rows in (scale, shift))
        y = F.conv2d(F.silu(y * (1 + scales) + shifts), weight, bias, padding=kernel // 2)
        return videos(y, frames) + residual

    flops = 2 * kernel**2 * channels * out_channels * count * height**2
    taken, made = size_in_bytes(*parts, weight), size_in_bytes(residual)
    return Workload(
        call=strict if "strict" in key.size else call,
        plain=plain,
        inputs=(residual, weight, bias, norm_weight, norm_bias, scale, shift, *parts),
        activations=(7, 8)[:halves],
        work={
            "fwd": Work(taken + 2 * made, flops),
            # Reads x, dy and the weight, writes dx; then also dweight. dresidual is dy itself.
            "dx": Work(taken + size_in_bytes(*parts) + made, flops),
            "bwd": Work(2 * taken + made, 2 * flops),
        },
    )


def resampling(key: RowKey, factor: int) -> Workload:
    """The convolution of an up- or downsampling layer, which has no norm."""
    count, channels, height = key.numbers("N", "C", "H")
    draw, frames, stride = Inputs(key.device, key.dtype), 16, 3 - factor
    x = draw.video(count // 16, channels, frames, height, grad=True)
    weight = draw.normal(channels, channels, 3, 3, scale=(9 * channels) ** -0.5)
    weight = weight.to(memory_format=channels_last).requires_grad_()
    bias = draw.normal(channels, grad=True)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return vdm_kernels.group_norm_silu_conv(x, weight, bias, upsample=factor == 2, stride=stride)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.interpolate(images(x), scale_factor=2.0) if factor == 2 else images(x)
        return videos(F.conv2d(y, weight, bias, stride=stride, padding=1), frames)

    out = size_in_bytes(x) * factor**2 // stride**2
    flops = 2 * 9 * channels**2 * count * height**2 * factor**2 // stride**2
    taken = size_in_bytes(x, weight)
    return Workload(
        call=call,
        plain=plain,
        inputs=(x, weight, bias),
        work={
            "fwd": Work(taken + out, flops),
            "dx": Work(taken + out, flops),
            "bwd": Work(2 * taken + out, 2 * flops),
        },
    )


def test_group_norm_silu_conv(row: Row) -> None:
    row.measure(make)

"""`group_norm_silu_conv`: the residual block's half, GroupNorm to 3×3 convolution, with bias and residual."""

import torch.nn.functional as F
from harness.inputs import Inputs
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload, size_in_bytes
from torch import Tensor, channels_last

import vdm_kernels

GROUPS = 8

# N = frames in all, 16 to a video; C channels in and out.
TABLE = Table(
    op="group_norm_silu_conv",
    cpu=(
        {"N": 16, "C": 64, "H": 64},
        {"N": 16, "C": 128, "H": 32},
        {"N": 16, "C": 256, "H": 16},
        {"N": 16, "C": 512, "H": 8},
    ),
    cuda=(
        {"N": 128, "C": 64, "H": 64},
        {"N": 128, "C": 128, "H": 32},
        {"N": 128, "C": 256, "H": 16},
        {"N": 128, "C": 512, "H": 8},
    ),
    quick={"N": 16, "C": 64, "H": 16},
)


def plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor,
) -> Tensor:
    """The chain on `(B F, C, H, W)` channels-last images; conv3d with a 1×3×3 kernel would be slower."""
    images = x.transpose(1, 2).flatten(0, 1)
    frames = x.shape[2]
    y = F.group_norm(images, GROUPS, norm_weight, norm_bias)
    y = (
        y * (1 + scale.repeat_interleave(frames, 0)[..., None, None])
        + shift.repeat_interleave(frames, 0)[..., None, None]
    )
    y = F.conv2d(F.silu(y), weight, bias, padding=1)
    return y.unflatten(0, (-1, frames)).transpose(1, 2) + residual


def make(key: RowKey) -> Workload:
    count, channels, height = key.numbers("N", "C", "H")
    batch = count // 16
    draw = Inputs(key.device, key.dtype)
    x = draw.video(batch, channels, 16, height, grad=True)
    residual = draw.video(batch, channels, 16, height, grad=True)
    weight = draw.normal(channels, channels, 3, 3, scale=(9 * channels) ** -0.5).to(
        memory_format=channels_last
    )
    weight.requires_grad_()
    bias, norm_weight, norm_bias = (draw.normal(channels, grad=True) for _ in range(3))
    scale, shift = draw.normal(batch, channels, grad=True), draw.normal(batch, channels, grad=True)
    flops = 2 * 9 * channels**2 * count * height**2
    return Workload(
        call=lambda x, weight, bias, norm_weight, norm_bias, scale, shift, residual: (
            vdm_kernels.group_norm_silu_conv(
                x,
                weight,
                bias,
                norm_weight=norm_weight,
                norm_bias=norm_bias,
                num_groups=GROUPS,
                scale=scale,
                shift=shift,
                residual=residual,
            )
        ),
        plain=plain,
        inputs=(x, weight, bias, norm_weight, norm_bias, scale, shift, residual),
        work={
            # Backward: reads x, dy and the weight, writes dx and dweight; dresidual is dy itself.
            "fwd": Work(3 * size_in_bytes(x) + size_in_bytes(weight), flops),
            "bwd": Work(3 * size_in_bytes(x) + 2 * size_in_bytes(weight), 2 * flops),
        },
    )


def test_group_norm_silu_conv(row: Row) -> None:
    row.measure(make)

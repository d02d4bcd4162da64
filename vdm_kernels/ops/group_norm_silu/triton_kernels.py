"""`group_norm_silu` on Triton: statistics, one small kernel that folds everything into three numbers, one pass.

    y = silu((x - center) gain + offset)
    center = mean,  gain = rstd weight (1 + scale),  offset = bias (1 + scale) + shift

with center, gain and offset of every image and channel in float32. Subtracting first is what keeps mean >> std right;
what the rounding of center leaves out is folded into the offset.

Tiling: channel_statistics/launch.py. The pass over x has the programs of the statistics in reverse, and each walks its
chunk backwards, so that it begins with what the statistics have just left in the L2 cache (50 MB on an H200).

Traffic: x is read once for the statistics, where they are not given, and once for the pass, and y is written once. 8 x
16 x 64 x 64 x 64 in bfloat16 (67 MB): 31 us for the pass at 4.3 TB/s, and 16 us for the statistics less what L2 keeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.ops.channel_statistics.launch import NUM_WARPS, image_launch, next_power_of_2
from vdm_kernels.ops.channel_statistics.triton_kernels import image_shape, locate_chunk, write_statistics
from vdm_kernels.ops.group_norm_silu.triton_backward import group_norm_silu_gradients
from vdm_kernels.ops.step.launch import sm_count
from vdm_kernels.ops.step.triton_block import on_device, unsupported_dtype

# Planes of what `fold` returns; the last two are read by the backward pass: 1 / std, and the mean minus its rounding.
PLANES = 5
_MAX_BLOCK = 1024


@triton.jit
def fold_kernel(
    statistics_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    plane,
    channels,
    num_groups,
    group_channels,
    frames,
    eps,
    IMAGES: tl.constexpr,
    SCALE_PER_FRAME: tl.constexpr,
    SHIFT_PER_FRAME: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The five planes for one group of IMAGES consecutive images, whose statistics are pooled (Chan et al. 1983)."""
    row = (tl.program_id(0) // num_groups).to(tl.int64) * IMAGES
    start = tl.program_id(0) % num_groups * group_channels
    count = IMAGES * group_channels
    lanes = tl.arange(0, BLOCK)
    origin = tl.load(statistics_ptr + (row * channels + start) * 2)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        i = first + lanes
        place = (row + i // group_channels) * channels + start + i % group_channels
        mean = tl.load(statistics_ptr + place * 2, mask=i < count, other=0.0)
        total += tl.where(i < count, mean - origin, 0.0).to(tl.float32)
    mean = tl.sum(total, 0) / count  # relative to the origin
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        i = first + lanes
        place = (row + i // group_channels) * channels + start + i % group_channels
        rest = (tl.load(statistics_ptr + place * 2, mask=i < count, other=0.0) - origin).to(tl.float32) - mean
        variance = tl.load(statistics_ptr + place * 2 + 1, mask=i < count, other=0.0).to(tl.float32)
        total += tl.where(i < count, variance + rest * rest, 0.0)
    rstd = 1.0 / tl.sqrt_rn(tl.sum(total, 0) / count + eps)
    center = (origin + mean).to(tl.float32)
    rest = (origin + mean - center).to(tl.float32)
    for first in range(0, count, BLOCK):
        i = first + lanes
        inside = i < count
        image = row + i // group_channels
        channel = start + i % group_channels
        gain = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
        offset = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
        if scale_ptr is not None:
            place = (image if SCALE_PER_FRAME else image // frames) * channels + channel
            scale = 1.0 + tl.load(scale_ptr + place, mask=inside, other=0.0).to(tl.float32)
            gain *= scale
            offset *= scale
        if shift_ptr is not None:
            place = (image if SHIFT_PER_FRAME else image // frames) * channels + channel
            offset += tl.load(shift_ptr + place, mask=inside, other=0.0).to(tl.float32)
        gain *= rstd
        out = out_ptr + image * channels + channel
        every = tl.zeros((BLOCK,), tl.float32)
        tl.store(out, every + center, mask=inside)
        tl.store(out + plane, gain, mask=inside)
        tl.store(out + 2 * plane, offset - rest * gain, mask=inside)
        tl.store(out + 3 * plane, every + rstd, mask=inside)
        tl.store(out + 4 * plane, every + rest, mask=inside)


@triton.jit
def activation_kernel(
    x_ptr,
    affine_ptr,
    out_ptr,
    plane,
    pixels,
    width,
    channels,
    out_channels,
    first,
    chunk_pixels,
    chunks,
    channel_blocks,
    UPSAMPLE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Writes silu((x - center) gain + offset), or x without an affine, to channels `first`... of the output.

    With UPSAMPLE, pixel (h, w) is written to (2h, 2w), (2h, 2w + 1), (2h + 1, 2w) and (2h + 1, 2w + 1).
    """
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    image, _chunk, begin, end, lanes, inside = locate_chunk(
        program, pixels, channels, chunk_pixels, chunks, channel_blocks, BLOCK_CHANNELS
    )
    rows = tl.arange(0, BLOCK_PIXELS)
    offsets = rows[:, None] * channels + lanes[None, :]
    out_offsets = rows[:, None] * out_channels + first + lanes[None, :]
    if affine_ptr is not None:
        affine = affine_ptr + image * out_channels + first + lanes
        center = tl.load(affine, mask=inside, other=0.0)[None, :]
        gain = tl.load(affine + plane, mask=inside, other=0.0)[None, :]
        offset = tl.load(affine + 2 * plane, mask=inside, other=0.0)[None, :]
    tiles = tl.cdiv(end - begin, BLOCK_PIXELS)
    for tile in range(tiles):
        start = begin + (tiles - 1 - tile) * BLOCK_PIXELS
        mask = (rows < end - start)[:, None] & inside[None, :]
        y = tl.load(x_ptr + (image * pixels + start) * channels + offsets, mask=mask, other=0.0)
        if affine_ptr is not None:
            u = (y.to(tl.float32) - center) * gain + offset
            y = (u * tl.sigmoid(u)).to(out_ptr.dtype.element_ty)
        if UPSAMPLE:
            # Pixel p = h width + w, and 4 h width + 2 w = 4 p - 2 w.
            pixel = (start + rows).to(tl.int64)
            corner = 4 * (image * pixels + pixel) - 2 * (pixel % width)
            for copy in tl.static_range(4):
                target = corner + copy // 2 * (2 * width) + copy % 2
                place = target[:, None] * out_channels + first + lanes[None, :]
                tl.store(out_ptr + place, y, mask=mask)
        else:
            tl.store(out_ptr + (image * pixels + start) * out_channels + out_offsets, y, mask=mask)


def fold(
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> Tensor:
    """(PLANES, B, F, C) float32: center, gain, offset, and what the backward pass needs."""
    batch, frames, channels = statistics.shape[:3]
    out = statistics.new_empty((PLANES, batch, frames, channels), dtype=torch.float32)
    if not out.numel():
        return out
    images = frames if norm_scope == "video" else 1
    group_channels = channels // num_groups
    block = min(next_power_of_2(images * group_channels), _MAX_BLOCK)
    with on_device(statistics):
        fold_kernel[(batch * frames // images * num_groups,)](
            statistics,
            weight,
            bias,
            scale,
            shift,
            out,
            out[0].numel(),
            channels,
            num_groups,
            group_channels,
            frames,
            eps,
            IMAGES=images,
            SCALE_PER_FRAME=scale is not None and scale.dim() == 3,
            SHIFT_PER_FRAME=shift is not None and shift.dim() == 3,
            BLOCK=block,
            num_warps=max(1, block // 256),
        )
    return out


def activate(x: Tensor, affine: Tensor | None, out: Tensor, first: int = 0, upsample: bool = False) -> None:
    """Writes the activation of `x`, or without an affine `x` itself, to channels `first`, ... of `out`.

    Args:
        affine: of `fold`, for the channels of `out`.
    """
    if not x.numel():
        return
    images, pixels, channels = image_shape(x)
    launch = image_launch(images, pixels, channels, sm_count(x.device))
    out_channels = out.shape[1]
    with on_device(x):
        activation_kernel[(launch.programs,)](
            x,
            affine,
            out,
            images * out_channels,
            pixels,
            x.shape[4],
            channels,
            out_channels,
            first,
            launch.chunk_pixels,
            launch.chunks,
            launch.channel_blocks,
            UPSAMPLE=upsample,
            BLOCK_PIXELS=launch.block_pixels,
            BLOCK_CHANNELS=launch.block_channels,
            num_warps=NUM_WARPS,
        )


def joint_affine(
    x: Tensor,
    x2: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> Tensor:
    """`fold` of a norm over the channels of x and x2 together; statistics that are not given are computed."""
    if statistics is None:
        batch, channels, frames = x.shape[:3]
        statistics = torch.empty(batch, frames, weight.numel(), 2, dtype=torch.float64, device=x.device)
        write_statistics(x, statistics)
        if x2 is not None:
            write_statistics(x2, statistics, channels)
    return fold(statistics, weight, bias, scale, shift, num_groups, norm_scope, eps)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
) -> Tensor:
    """See `vdm_kernels.group_norm_silu`; scale and shift are (B, C) or (B, F, C)."""
    out = torch.empty_like(x)
    affine = joint_affine(x, None, weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)
    activate(x, affine, out)
    return out


def group_norm_silu_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    norm_scope: str,
    eps: float,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (x, weight, bias, scale, shift); empty where `needs` is False."""
    affine = joint_affine(x, None, weight, bias, scale, shift, statistics, num_groups, norm_scope, eps)
    return group_norm_silu_gradients(
        dout, x, affine, weight, bias, scale, shift, None, num_groups, norm_scope, [*needs, False]
    )[:-1]


def supports_group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, *args: object
) -> str | None:
    """None, or why this call cannot run."""
    return unsupported_dtype(x, weight, bias, scale, shift)


def supports_group_norm_silu_bwd(dout: Tensor, *args: Tensor) -> str | None:
    """None, or why this call cannot run."""
    return supports_group_norm_silu(*args)

"""`group_norm_silu_conv` as the Triton kernels of the norm around PyTorch's convolution (cuDNN on a GPU).

The activation is written once, for x and x2 into one tensor and upsampled where that is asked for, and read by the
convolution; the backward pass makes it again. With neither norm, second input nor upsampling there is nothing to write.

Traffic beside the convolution's: x is read and its activation written, 4 times as large after upsampling; the
residual is read, and y read and written again; y is read once more for its statistics. The backward pass adds the
activation's and the norm's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_kernels.ops.channel_statistics.triton_kernels import channel_statistics
from vdm_kernels.ops.group_norm_silu.triton_backward import group_norm_silu_gradients
from vdm_kernels.ops.group_norm_silu.triton_kernels import activate, joint_affine
from vdm_kernels.ops.step.triton_block import unsupported_dtype


def _images(video: Tensor) -> Tensor:
    """(B, C, F, H, W) -> (B F, C, H, W): a view of channels-last memory."""
    return video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _video(images: Tensor, like: Tensor) -> Tensor:
    """(B F, C, H, W) -> (B, C, F, H, W), with the batch and frames of `like`: a view of channels-last memory."""
    video = images.unflatten(0, (like.shape[0], like.shape[2])).transpose(1, 2)
    return video.contiguous(memory_format=torch.channels_last_3d)


def _convolved(x: Tensor, x2: Tensor | None, affine: Tensor | None, upsample: bool) -> Tensor:
    """What the convolution reads: x and x2 together, activated where there is a norm; channels-last."""
    if affine is None and x2 is None and not upsample:
        return x
    batch, channels, frames, height, width = x.shape
    factor = 2 if upsample else 1
    total = channels + (0 if x2 is None else x2.shape[1])
    shape = (batch, total, frames, factor * height, factor * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    activate(x, affine, out, 0, upsample)
    if x2 is not None:
        activate(x2, affine, out, channels, upsample)
    return out


def group_norm_silu_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x2: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    upsample: bool,
    stride: int,
    norm_scope: str,
    eps: float,
    precision: str,
    return_statistics: bool,
) -> tuple[Tensor, Tensor]:
    """See `vdm_kernels.group_norm_silu_conv`; scale, shift are (B, C) or (B, F, C); num_groups 0 is no norm."""
    affine = None
    if norm_weight is not None and norm_bias is not None:
        affine = joint_affine(
            x, x2, norm_weight, norm_bias, scale, shift, statistics, num_groups, norm_scope, eps
        )
    convolved = _images(_convolved(x, x2, affine, upsample))
    images = F.conv2d(convolved, weight, bias, stride=stride, padding=weight.shape[-1] // 2)
    y = _video(images, x)
    if residual is not None:
        y.add_(residual)
    if return_statistics:
        return y, channel_statistics(y)
    return y, y.new_empty(0, dtype=torch.float64)


def group_norm_silu_conv_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x2: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor | None,
    num_groups: int,
    upsample: bool,
    stride: int,
    norm_scope: str,
    eps: float,
    precision: str,
    return_statistics: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of (x, weight, bias, norm_weight, norm_bias, scale, shift, x2); empty where `needs` is False."""
    needs_x, needs_weight, needs_bias, *needs_norm, needs_x2 = needs
    affine = None
    if norm_weight is not None and norm_bias is not None:
        affine = joint_affine(
            x, x2, norm_weight, norm_bias, scale, shift, statistics, num_groups, norm_scope, eps
        )
    dconvolved, dweight, dbias = torch.ops.aten.convolution_backward(
        _images(dout),
        _images(_convolved(x, x2, affine, upsample)),
        weight,
        None if bias is None else list(bias.shape),
        [stride, stride],
        [weight.shape[-1] // 2] * 2,
        [1, 1],
        False,
        [0, 0],
        1,
        [needs_x or any(needs_norm) or needs_x2, needs_weight, needs_bias],
    )
    gradients = [dout.new_empty(0) for _ in needs]
    if needs_weight:
        gradients[1] = _like(dweight, weight)
    if needs_bias:
        gradients[2] = dbias
    if dconvolved is None:
        return gradients
    if upsample:
        # The sum over the four pixels that each was copied to.
        dconvolved = F.avg_pool2d(dconvolved, 2, divisor_override=1)
    dactivation = _video(dconvolved, x)
    if affine is not None:
        assert norm_weight is not None
        assert norm_bias is not None
        gradients[0], *gradients[3:] = group_norm_silu_gradients(
            dactivation,
            x,
            affine,
            norm_weight,
            norm_bias,
            scale,
            shift,
            x2,
            num_groups,
            norm_scope,
            [needs_x, *needs_norm, needs_x2],
        )
        return gradients
    if needs_x:
        gradients[0] = _like(dactivation[:, : x.shape[1]], x)
    if needs_x2 and x2 is not None:
        gradients[7] = _like(dactivation[:, x.shape[1] :], x2)
    return gradients


def _like(gradient: Tensor, argument: Tensor) -> Tensor:
    """The gradient with the strides of its argument."""
    if gradient.stride() == argument.stride():
        return gradient
    return torch.empty_like(argument).copy_(gradient)


def supports_group_norm_silu_conv(*args: object) -> str | None:
    """None, or why this call cannot run."""
    x, _weight, _bias, norm_weight, norm_bias, scale, shift = args[:7]
    return unsupported_dtype(x, norm_weight, norm_bias, scale, shift)  # type: ignore[arg-type]


def supports_group_norm_silu_conv_bwd(dout: Tensor, *args: object) -> str | None:
    """None, or why this call cannot run."""
    return supports_group_norm_silu_conv(*args)

"""`temporal_attention_block` in C++, its backward pass composed of those of its parts; on a GPU all is composed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vdm_kernels.native import DTYPE_CODES, launch, pointer, unsupported
from vdm_kernels.ops.group_norm_silu_conv import native as conv
from vdm_kernels.ops.temporal_attention import native as attention
from vdm_kernels.ops.temporal_attention_block.composed import composed, composed_bwd, like_qkv


def supports_temporal_attention_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    bias: Tensor | None,
    segment_ids: Tensor | None,
    heads: int,
    eps: float,
) -> str | None:
    """None, or why the extension cannot run this call."""
    if x.is_cuda:
        return attention.supports_temporal_attention(like_qkv(x, heads), bias, segment_ids)
    return unsupported(x.device, x.dtype)


def supports_temporal_attention_block_bwd(dout: Tensor, *args: Any) -> str | None:
    """None, or why the extension cannot run this call."""
    return supports_temporal_attention_block(*args[:-1])


def temporal_attention_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    bias: Tensor | None,
    segment_ids: Tensor | None,
    heads: int,
    eps: float,
) -> Tensor:
    """See `vdm_kernels.temporal_attention_block`; x is channels-last."""
    if x.is_cuda:
        settings = (bias, segment_ids, heads, eps)
        return composed("native", x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, *settings)
    batch, channels, frames, height, width = x.shape
    out = torch.empty_like(x, memory_format=torch.channels_last_3d)
    bias, segment_ids = attention.as_the_kernel_reads(bias, segment_ids)
    norm_weight, norm_bias = norm_weight.float().contiguous(), norm_bias.float().contiguous()
    out_bias = None if out_bias is None else out_bias.float().contiguous()
    qkv_packed, out_packed = conv.packed_linear(qkv_weight), conv.packed_linear(out_weight)
    launch(
        "temporal_attention_block",
        x.device,
        x.data_ptr(),
        out.data_ptr(),
        DTYPE_CODES[x.dtype],
        (batch, frames, height * width, heads, channels // heads),
        norm_weight.data_ptr(),
        norm_bias.data_ptr(),
        qkv_packed.data_ptr(),
        out_packed.data_ptr(),
        pointer(out_bias),
        pointer(bias),
        bias is not None and bias.dim() == 4,
        pointer(segment_ids),
        eps,
    )
    return out


def temporal_attention_block_bwd(
    dout: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    bias: Tensor | None,
    segment_ids: Tensor | None,
    heads: int,
    eps: float,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of (x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, bias), None where not needed."""
    weights = (norm_weight, norm_bias, qkv_weight, out_weight, out_bias)
    if x.is_cuda:
        return [*composed_bwd("native", dout, x, *weights, bias, segment_ids, heads, eps, needs)]
    if x.dtype != torch.float32:
        # As in the forward pass, nothing between the parts is rounded to x's dtype.
        wide: list[Any] = [None if weight is None else weight.float() for weight in weights]
        wide += [bias, segment_ids, heads, eps, needs]
        *found, dbias = temporal_attention_block_bwd(dout.float(), x.float(), *wide)
        return [*(None if gradient is None else gradient.to(x.dtype) for gradient in found), dbias]
    need_x, need_norm_weight, need_norm_bias, need_qkv, need_out, need_out_bias, need_bias = needs
    batch, channels, frames, height, width = x.shape
    packed_shape = (batch, frames, height * width, 3, heads, channels // heads)
    tokens = x.permute(0, 2, 3, 4, 1)
    normed, mean, rstd = torch.native_layer_norm(tokens, (channels,), norm_weight, norm_bias, eps)
    qkv = _tokens(_project(_video(normed), qkv_weight)).view(packed_shape)
    # W_out
    attended = (
        _video(attention.temporal_attention(qkv, bias, segment_ids).view(tokens.shape)) if need_out else x
    )
    dattended, dout_weight, dout_bias = _project_bwd(
        dout, attended, out_weight, (True, need_out, need_out_bias)
    )
    assert dattended is not None
    # attention
    need_normed = need_x or need_norm_weight or need_norm_bias
    dattended = _tokens(dattended).reshape(batch, frames, height * width, heads, channels // heads)
    dqkv, dbias = attention.temporal_attention_bwd(
        dattended, qkv, bias, segment_ids, (need_normed or need_qkv, need_bias)
    )
    # W_qkv and the norm
    dnormed: Tensor | None = None
    dqkv_weight: Tensor | None = None
    if dqkv is not None:
        dqkv = _video(dqkv.view(*tokens.shape[:-1], 3 * channels))
        dnormed, dqkv_weight, _ = _project_bwd(
            dqkv, _video(normed), qkv_weight, (need_normed, need_qkv, False)
        )
    gradients: Sequence[Any] = [None] * 3
    if dnormed is not None:
        gradients = torch.ops.aten.native_layer_norm_backward(
            _tokens(dnormed),
            tokens,
            (channels,),
            mean,
            rstd,
            norm_weight,
            norm_bias,
            (need_x, need_norm_weight, need_norm_bias),
        )
    dx, dnorm_weight, dnorm_bias = gradients
    if need_x:
        dx = _video(dx).add_(dout)
    results = (dx, dnorm_weight, dnorm_bias, dqkv_weight, dout_weight, dout_bias, dbias)
    return [gradient if need else None for gradient, need in zip(results, needs)]


# A linear layer over channels is a 1x1 convolution without norm, and that kernel the fastest of it.
_NO_NORM: tuple[Any, ...] = (None,) * 7 + (0, False, 1, "frame", 0.0, "strict", False)


def _project(video: Tensor, weight: Tensor) -> Tensor:
    return conv.group_norm_silu_conv(video, weight[:, :, None, None], None, *_NO_NORM)[0]


def _project_bwd(
    dout: Tensor, video: Tensor, weight: Tensor, needs: tuple[bool, bool, bool]
) -> list[Tensor | None]:
    """Gradients of the video, the weight and the layer's bias, None where not needed."""
    arguments: tuple[Any, ...] = (dout, video, weight[:, :, None, None], None, *_NO_NORM)
    arguments += ((*needs, *(False,) * 5),)
    dvideo, dweight, dbias, *_ = conv.group_norm_silu_conv_bwd(*arguments)
    return [dvideo, None if dweight is None else dweight.view_as(weight), dbias]


def _tokens(video: Tensor) -> Tensor:
    """(B, C, F, H, W) channels-last as (B, F, H, W, C), the same bytes."""
    return video.permute(0, 2, 3, 4, 1)


def _video(tokens: Tensor) -> Tensor:
    """(B, F, H, W, C) as (B, C, F, H, W) channels-last, the same bytes."""
    return tokens.permute(0, 4, 1, 2, 3)

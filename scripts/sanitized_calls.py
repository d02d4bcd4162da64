"""Calls every op that has native CUDA kernels once on aligned and on ragged sizes, for compute-sanitizer to watch."""

from __future__ import annotations

from typing import Any

import torch

import vdm_kernels


def main() -> None:
    """One call per kind of launch; the results are compared by the tests."""
    seed = torch.tensor([3, -4], device="cuda")
    draw = torch.tensor(1, device="cuda")
    early = torch.tensor([-2.0, 1.0], device="cuda")
    plain: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((2, 3, 4, 16, 16), (2, 3, 1, 7, 5), (2, 80_001)):
            z = torch.randn(shape, device="cuda").to(dtype).requires_grad_()
            prediction = torch.randn(shape, device="cuda").to(dtype).requires_grad_()
            with vdm_kernels.use_backend("native"):
                vdm_kernels.philox_normal(shape, seed, draw, dtype=dtype)
                vdm_kernels.q_sample(z.detach(), early, seed, draw)
                threshold = vdm_kernels.abs_quantile(prediction.detach(), 0.995)
                guided = {
                    "uncond": prediction.detach(),
                    "guidance_weight": 2.0,
                    "threshold": threshold.float(),
                }
                for step in (vdm_kernels.ancestral_step, vdm_kernels.ddim_step):
                    for extra in (plain, guided):
                        z_s = step(z, prediction, early, early + 1, seed, draw, parameterization="v", **extra)
                        torch.autograd.grad(z_s, (z, prediction), torch.ones_like(z_s))
                z = vdm_kernels.langevin_step(
                    z, prediction, early, seed, draw, parameterization="v", **guided
                )
                torch.autograd.grad(z, prediction, torch.ones_like(z))
    for dtype in (torch.float32, torch.bfloat16):
        for channels, out, size in ((64, 72, (33, 17)), (15, 9, (7, 5))):
            norm_and_convolve(dtype, channels, out, size)
    for dtype in (torch.float32, torch.bfloat16):
        for frames, width in ((16, 32), (5, 24), (16, 64), (11, 104), (20, 40), (50, 64)):
            attend(dtype, frames, width)
    torch.cuda.synchronize()


def attend(dtype: torch.dtype, frames: int, width: int) -> None:
    """Attention over frames with a bias and segments, forward and backward, where there is a CUDA kernel."""
    if dtype == torch.float32 and frames > 32:
        return
    qkv = torch.randn(2, frames, 37, 3, 3, width, device="cuda").to(dtype).requires_grad_()
    bias = torch.randn(3, frames, frames, device="cuda", requires_grad=True)
    ids = torch.arange(frames, device="cuda").div(4, rounding_mode="floor").expand(2, -1)
    with vdm_kernels.use_backend("native"):
        for of in ({}, {"bias": bias}, {"bias": bias, "segment_ids": ids}):
            out = vdm_kernels.temporal_attention(qkv, **of)
            leaves = (qkv, bias) if of else (qkv,)
            torch.autograd.grad(out, leaves, torch.ones_like(out))


def norm_and_convolve(dtype: torch.dtype, channels: int, out: int, size: tuple[int, int]) -> None:
    """The norm alone, and convolutions of one input and of two, forward and backward."""

    def video(width: int) -> torch.Tensor:
        x = torch.randn(2, width, 2, *size, device="cuda").to(dtype)
        return x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()

    x, x2, residual = video(channels), video(channels), video(out)
    affine = torch.ones(2 * channels, device="cuda", requires_grad=True)
    for scope in ("frame", "video"):
        norm: dict[str, Any] = {"num_groups": channels // 3 if channels % 3 == 0 else 8, "norm_scope": scope}
        with vdm_kernels.use_backend("native"):
            y = vdm_kernels.group_norm_silu(x, affine[:channels], affine[:channels], **norm)
            torch.autograd.grad(y, (x, affine), torch.ones_like(y))
            vdm_kernels.group_norm_silu(x.detach(), affine[:channels], affine[:channels], **norm)
            for second in (None, x2):
                width = channels if second is None else 2 * channels
                weight = torch.randn(out, width, 3, 3, device="cuda").to(dtype).requires_grad_()
                of_norm: dict[str, Any] = {"norm_weight": affine[:width], "norm_bias": affine[:width], **norm}
                y, _ = vdm_kernels.group_norm_silu_conv(
                    x, weight, x2=second, residual=residual, return_statistics=True, **of_norm
                )
                torch.autograd.grad(y, (x, weight, affine), torch.ones_like(y))


if __name__ == "__main__":
    main()

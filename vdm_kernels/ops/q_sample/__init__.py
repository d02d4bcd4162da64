"""`q_sample`: the forward process, with its noise drawn inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.q_sample import reference


def _fake(
    x: Tensor, logsnr: Tensor, seed: Tensor, draw: Tensor, variance_preserving: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


def _fake_bwd(
    dz: Tensor,
    x: Tensor,
    logsnr: Tensor,
    seed: Tensor,
    draw: Tensor,
    variance_preserving: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    return fake_gradients(x, needs=needs)


Q_SAMPLE_BWD = Op(reference.q_sample_bwd, fake=_fake_bwd, package=__name__)
Q_SAMPLE = Op(reference.q_sample, fake=_fake, package=__name__, backward=Q_SAMPLE_BWD, differentiable=("x",))


def q_sample(
    x: Tensor, logsnr: Tensor, seed: Tensor, draw: int | Tensor, *, variance_preserving: bool = True
) -> tuple[Tensor, Tensor]:
    """A sample of the forward process and the noise in it.

        z = alpha x + sigma eps,  eps = philox_normal(x.shape, seed, draw)

    with alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr), or for a variance-exploding process alpha = 1,
    sigma^2 = exp(-logsnr) (Ho et al. 2022, Video Diffusion Models, section 2). Arithmetic in float32
    (float64 for a float64 x). Gradient of x; eps is a constant.

    Args:
        x: (B, ...), such as a video (B, C, F, H, W) in [-1, 1].
        logsnr: (B,) float32, a constant.
        seed: (B,) int64.
        draw: an int or an int64 tensor of one element.
        variance_preserving: which of the two processes.

    Returns:
        z and eps, both contiguous, with the shape and dtype of x.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or device.
    """
    checks.batched("q_sample", "x", x)
    batch, device = x.shape[0], x.device
    checks.per_sample("q_sample", "logsnr", logsnr, batch, device, torch.float32)
    checks.per_sample("q_sample", "seed", seed, batch, device, torch.int64)
    checks.flag("q_sample", "variance_preserving", variance_preserving)
    draw = checks.draw_number("q_sample", draw, seed)
    z, eps = Q_SAMPLE(x.contiguous(), logsnr.contiguous(), seed.contiguous(), draw, variance_preserving)
    return z, eps.detach() if eps.requires_grad else eps

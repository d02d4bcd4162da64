"""`ancestral_step`: one step of the ancestral sampler, in one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.ancestral_step import reference
from vdm_kernels.ops.step.arguments import Parameterization, step_arguments


def _fake(
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    gamma: float,
    add_noise: bool,
    variance_preserving: bool,
) -> Tensor:
    return torch.empty_like(z)


def _fake_bwd(
    dout: Tensor,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    gamma: float,
    add_noise: bool,
    variance_preserving: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    return fake_gradients(z, prediction, uncond, needs=needs)


ANCESTRAL_STEP_BWD = Op(reference.ancestral_step_bwd, fake=_fake_bwd, package=__name__)
ANCESTRAL_STEP = Op(
    reference.ancestral_step,
    fake=_fake,
    package=__name__,
    backward=ANCESTRAL_STEP_BWD,
    differentiable=("z", "prediction", "uncond"),
)


def ancestral_step(
    z: Tensor,
    prediction: Tensor,
    logsnr_t: Tensor,
    logsnr_s: Tensor,
    seed: Tensor,
    draw: int | Tensor,
    *,
    parameterization: Parameterization,
    gamma: float = 0.0,
    uncond: Tensor | None = None,
    guidance_weight: float | Tensor | None = None,
    threshold: float | Tensor | None = None,
    add_noise: bool = True,
    variance_preserving: bool = True,
) -> Tensor:
    """One ancestral step, from z_t to z_s with s < t (Ho et al. 2022, Video Diffusion Models, eqs. 3-4).

        prediction <- (1 + w) prediction - w uncond                 where uncond is given
        x_hat = (z - sigma_t eps) / alpha_t, x, or alpha_t z - sigma_t v, by the parameterization
        x_hat <- clip(x_hat, -s', s') / s',  s' = max(threshold, 1)  where threshold is given
        z_s = e^{lt-ls} (alpha_s / alpha_t) z + (1 - e^{lt-ls}) alpha_s x_hat + std noise
        log std^2 = log(1 - e^{lt-ls}) + (1 - gamma) log sigma_s^2 + gamma log sigma_t^2

    where l = logsnr, alpha^2 = sigmoid(l), sigma^2 = sigmoid(-l), noise = philox_normal(z.shape, seed,
    draw); for a variance-exploding process alpha = 1, sigma^2 = e^-l, and v gives x_hat = (z - sigma v) /
    (1 + sigma^2). Arithmetic in float32 (float64 for a float64 z), whatever the dtypes. Gradients of z,
    prediction and uncond.

    Args:
        z: (B, ...), such as a video (B, C, F, H, W), at log-SNR logsnr_t.
        prediction: what the network predicts, z's shape, z's dtype or a narrower one.
        logsnr_t: (B,) float32, a constant.
        logsnr_s: (B,) float32, a constant, over logsnr_t (that is not checked: it would wait for a GPU).
            Infinity, without noise, gives x_hat.
        seed: (B,) int64, one per sample.
        draw: the number of the noise in the sample's stream, an int or an int64 tensor of one element.
        parameterization: "eps", "x" or "v": what prediction and uncond are.
        gamma: interpolates the variance between its lower (0) and its upper bound (1).
        uncond: the prediction without conditioning, prediction's shape and dtype.
        guidance_weight: w, a number or float32 (B,) or (); given exactly where uncond is.
        threshold: a number or float32 (B,) or (); 1.0 is static clipping to [-1, 1], `abs_quantile` of
            x_hat dynamic thresholding (Saharia et al. 2022).
        add_noise: False on the last step.
        variance_preserving: which of the two processes.

    Returns:
        z_s, contiguous, with z's shape and dtype.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype, device or range, or a constant requires
            grad.
    """
    checks.unit_interval("ancestral_step", "gamma", gamma)
    checks.flag("ancestral_step", "add_noise", add_noise)
    checks.flag("ancestral_step", "variance_preserving", variance_preserving)
    arguments = step_arguments(
        "ancestral_step",
        z,
        prediction,
        uncond,
        logsnr_t,
        logsnr_s,
        guidance_weight,
        threshold,
        seed,
        draw,
        parameterization,
    )
    z_s: Tensor = ANCESTRAL_STEP(*arguments, float(gamma), add_noise, variance_preserving)
    return z_s

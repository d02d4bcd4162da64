"""`langevin_step`: one step of Langevin dynamics at one noise level, in one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm_kernels import checks
from vdm_kernels.op import Op, fake_gradients
from vdm_kernels.ops.langevin_step import reference
from vdm_kernels.ops.step.arguments import Parameterization, step_arguments


def _fake(
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    delta: float,
    variance_preserving: bool,
) -> Tensor:
    return torch.empty_like(z)


def _fake_bwd(
    dout: Tensor,
    z: Tensor,
    prediction: Tensor,
    uncond: Tensor | None,
    logsnr: Tensor,
    guidance_weight: Tensor | None,
    threshold: Tensor | None,
    seed: Tensor,
    draw: Tensor,
    parameterization: str,
    delta: float,
    variance_preserving: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    return fake_gradients(z, prediction, uncond, needs=needs)


LANGEVIN_STEP_BWD = Op(reference.langevin_step_bwd, fake=_fake_bwd, package=__name__)
LANGEVIN_STEP = Op(
    reference.langevin_step,
    fake=_fake,
    package=__name__,
    backward=LANGEVIN_STEP_BWD,
    differentiable=("z", "prediction", "uncond"),
)


def langevin_step(
    z: Tensor,
    prediction: Tensor,
    logsnr: Tensor,
    seed: Tensor,
    draw: int | Tensor,
    *,
    parameterization: Parameterization,
    delta: float = 0.1,
    uncond: Tensor | None = None,
    guidance_weight: float | Tensor | None = None,
    threshold: float | Tensor | None = None,
    variance_preserving: bool = True,
) -> Tensor:
    """One Langevin step on z_t, which stays at its log-SNR (Song et al. 2021, Score SDE, appendix G).

        prediction <- (1 + w) prediction - w uncond                 where uncond is given
        x_hat = (z - sigma eps) / alpha, x, or alpha z - sigma v, by the parameterization
        x_hat <- clip(x_hat, -s', s') / s',  s' = max(threshold, 1)  where threshold is given
        eps_hat = (z - alpha x_hat) / sigma
        z <- z - (delta / 2) sigma eps_hat + sqrt(delta) sigma noise

    This is the corrector of Ho et al. 2022 (Video Diffusion Models, section 3.2). As the score is
    -eps_hat / sigma, it is also z + eta score + sqrt(2 eta) noise with eta = delta sigma^2 / 2, the step of
    annealed Langevin dynamics (Song & Ermon 2019). alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr),
    noise = philox_normal(z.shape, seed, draw); for a variance-exploding process alpha = 1,
    sigma^2 = e^-logsnr, and v gives x_hat = (z - sigma v) / (1 + sigma^2). Arithmetic in float32 (float64 for
    a float64 z), whatever the dtypes. Gradients of z, prediction and uncond.

    Args:
        z: (B, ...), such as a video (B, C, F, H, W), at log-SNR logsnr.
        prediction: what the network predicts, z's shape, z's dtype or a narrower one.
        logsnr: (B,) float32, a constant.
        seed: (B,) int64, one per sample.
        draw: the number of the noise in the sample's stream, an int or an int64 tensor of one element.
        parameterization: "eps", "x" or "v": what prediction and uncond are.
        delta: the step's length in units of sigma^2, in [0, 1]; 0 leaves z alone.
        uncond: the prediction without conditioning, prediction's shape and dtype.
        guidance_weight: w, a number or float32 (B,) or (); given exactly where uncond is.
        threshold: a number or float32 (B,) or (); 1.0 is static clipping to [-1, 1], `abs_quantile` of
            x_hat dynamic thresholding (Saharia et al. 2022).
        variance_preserving: which of the two processes.

    Returns:
        The new z, contiguous, with z's shape and dtype.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype, device or range, or a constant requires
            grad.
    """
    checks.unit_interval("langevin_step", "delta", delta)
    checks.flag("langevin_step", "variance_preserving", variance_preserving)
    checks.batched("langevin_step", "z", z)
    checks.per_sample("langevin_step", "logsnr", logsnr, z.shape[0], z.device, torch.float32)
    arguments = step_arguments(
        "langevin_step",
        z,
        prediction,
        uncond,
        logsnr,
        logsnr,
        guidance_weight,
        threshold,
        seed,
        draw,
        parameterization,
    )
    moved: Tensor = LANGEVIN_STEP(
        arguments.z,
        arguments.prediction,
        arguments.uncond,
        arguments.logsnr_t,
        arguments.guidance_weight,
        arguments.threshold,
        arguments.seed,
        arguments.draw,
        arguments.parameterization,
        float(delta),
        variance_preserving,
    )
    return moved

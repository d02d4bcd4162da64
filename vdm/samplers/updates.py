"""The updates that samplers are made of, each a fused step of `vdm_kernels`."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from vdm.diffusion import Parameterization, Prediction
from vdm.samplers.loop import Inputs, State, Update
from vdm_kernels import ancestral_step, ddim_step, langevin_step, q_sample


class _Options(TypedDict):
    parameterization: Parameterization
    uncond: Tensor | None
    guidance_weight: float | Tensor | None
    threshold: float | Tensor | None
    variance_preserving: bool


def ancestral_update(gamma: float, *, add_noise: bool = True) -> Update:
    """The ancestral step from λ_t to λ_s; values (λ_t, λ_s)."""

    def update(state: State, prediction: Prediction, inputs: Inputs) -> State:
        z, (logsnr_t, logsnr_s, *_) = state[0], inputs.values
        options = _options(prediction, z)
        return (
            ancestral_step(
                z,
                prediction.value,
                logsnr_t,
                logsnr_s,
                inputs.seed,
                inputs.draw,
                gamma=gamma,
                add_noise=add_noise,
                **options,
            ),
        )

    return update


def ddim_update(eta: float) -> Update:
    """The DDIM step from λ_t to λ_s; values (λ_t, λ_s)."""

    def update(state: State, prediction: Prediction, inputs: Inputs) -> State:
        z, (logsnr_t, logsnr_s, *_) = state[0], inputs.values
        options = _options(prediction, z)
        return (
            ddim_step(z, prediction.value, logsnr_t, logsnr_s, inputs.seed, inputs.draw, eta=eta, **options),
        )

    return update


def langevin_update(delta: float) -> Update:
    """A Langevin step at λ; values (λ,)."""

    def update(state: State, prediction: Prediction, inputs: Inputs) -> State:
        z, logsnr = state[0], inputs.values[0]
        options = _options(prediction, z)
        return (langevin_step(z, prediction.value, logsnr, inputs.seed, inputs.draw, delta=delta, **options),)

    return update


def ddim_and_renoise(state: State, prediction: Prediction, inputs: Inputs) -> State:
    """DDIM from λ_t to λ_u, then q(z_s | z_u), u < s < t; values (λ_t, λ_u, λ_{s|u}).

    Where variance preserving, q(z_s | z_u) has squares of scales (α_s/α_u)² + σ_{s|u}² = 1, where exploding
    α_s/α_u = 1: either is the forward process itself at λ_{s|u} = log((α_s/α_u)² / σ_{s|u}²).
    """
    z, (logsnr_t, logsnr_u, logsnr_s_u, *_) = state[0], inputs.values
    options = _options(prediction, z)
    z_u = ddim_step(z, prediction.value, logsnr_t, logsnr_u, inputs.seed, inputs.draw, **options)
    z_s, _ = q_sample(
        z_u, logsnr_s_u, inputs.seed, inputs.draw, variance_preserving=options["variance_preserving"]
    )
    return (z_s,)


def dpm_solver_update(state: State, prediction: Prediction, inputs: Inputs) -> State:
    """DPM-Solver++(2M) from λ_t to λ_s; state (z, previous x̂), values (λ_t, λ_s, w).

    z_s = (σ_s/σ_t) z_t + α_s (1 - e^{-h}) D with D = (1 + w) x̂ - w x̂_before is a DDIM step at η = 0 whose
    x-prediction is "guided" away from the previous one. x̂ itself is an ancestral step to λ = ∞.
    """
    (z, x_before), (logsnr_t, logsnr_s, weight, *_) = state, inputs.values
    options = _options(prediction, z)
    at_data = torch.full_like(logsnr_t, torch.inf)
    x = ancestral_step(
        z, prediction.value, logsnr_t, at_data, inputs.seed, inputs.draw, add_noise=False, **options
    )
    z_s = ddim_step(
        z,
        x,
        logsnr_t,
        logsnr_s,
        inputs.seed,
        inputs.draw,
        parameterization="x",
        uncond=x_before,
        guidance_weight=weight,
        variance_preserving=options["variance_preserving"],
    )
    return z_s, x


def _options(prediction: Prediction, z: Tensor) -> _Options:
    """What a prediction leaves to the fused step."""
    return {
        "parameterization": prediction.parameterization,
        "uncond": prediction.uncond,
        "guidance_weight": _step_constant(prediction.guidance_weight, z),
        "threshold": _step_constant(prediction.threshold, z),
        "variance_preserving": prediction.variance_preserving,
    }


def _step_constant(value: float | Tensor | None, z: Tensor) -> float | Tensor | None:
    """A guidance weight or threshold as the fused steps take it: a number, or (B,) float32."""
    return value.detach().float().expand(len(z)).contiguous() if isinstance(value, Tensor) else value

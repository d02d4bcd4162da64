"""What the network predicts, and the conversions between ε, x and v.

    z = α x + σ ε,   v = α ε - σ x      (v: Salimans & Ho 2022, arXiv 2202.00512; variance preserving only)

All conversions compute in float32 (float64 for float64 z) and return z's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from vdm.diffusion.checks import (
    check_batched,
    check_bool,
    check_choice,
    check_like,
    check_logsnr,
    check_per_sample,
)
from vdm.diffusion.process import broadcast_alpha_sigma, compute_dtype, per_sample

Parameterization = Literal["eps", "x", "v"]
PARAMETERIZATIONS: tuple[str, ...] = get_args(Parameterization)


def check_parameterization(where: str, parameterization: object, variance_preserving: bool) -> None:
    """Require a known parameterization; "v" is not defined for a variance-exploding process."""
    check_choice(where, "parameterization", parameterization, PARAMETERIZATIONS)
    check_bool(where, "variance_preserving", variance_preserving)
    if parameterization == "v" and not variance_preserving:
        raise ValueError(
            f"{where}: parameterization must be eps or x for a variance-exploding process, got v"
        )


def x_from_eps(z: Tensor, eps: Tensor, logsnr: Tensor, *, variance_preserving: bool = True) -> Tensor:
    """x = (z - σ ε) / α.

    Args:
        z: (B, ...).
        eps: z's shape.
        logsnr: λ, (B,).
        variance_preserving: which process.

    Returns:
        x, z's shape and dtype.

    Raises:
        ValueError: shapes, devices or dtypes do not fit.
    """
    alpha, sigma = _checked_scales("x_from_eps", z, "eps", eps, logsnr, variance_preserving)
    return ((z - sigma * eps) / alpha).to(z.dtype)


def x_from_v(z: Tensor, v: Tensor, logsnr: Tensor) -> Tensor:
    """x = α z - σ v (variance preserving). Arguments, result and errors as in `x_from_eps`."""
    alpha, sigma = _checked_scales("x_from_v", z, "v", v, logsnr, True)
    return (alpha * z - sigma * v).to(z.dtype)


def eps_from_x(z: Tensor, x: Tensor, logsnr: Tensor, *, variance_preserving: bool = True) -> Tensor:
    """ε = (z - α x) / σ. Arguments, result and errors as in `x_from_eps`."""
    alpha, sigma = _checked_scales("eps_from_x", z, "x", x, logsnr, variance_preserving)
    return ((z - alpha * x) / sigma).to(z.dtype)


def eps_from_v(z: Tensor, v: Tensor, logsnr: Tensor) -> Tensor:
    """ε = α v + σ z (variance preserving). Arguments, result and errors as in `x_from_eps`."""
    alpha, sigma = _checked_scales("eps_from_v", z, "v", v, logsnr, True)
    return (alpha * v + sigma * z).to(z.dtype)


def v_from_x(z: Tensor, x: Tensor, logsnr: Tensor) -> Tensor:
    """v = (α z - x) / σ (variance preserving). Arguments, result and errors as in `x_from_eps`."""
    alpha, sigma = _checked_scales("v_from_x", z, "x", x, logsnr, True)
    return ((alpha * z - x) / sigma).to(z.dtype)


def v_from_eps(z: Tensor, eps: Tensor, logsnr: Tensor) -> Tensor:
    """v = (ε - σ z) / α (variance preserving). Arguments, result and errors as in `x_from_eps`."""
    alpha, sigma = _checked_scales("v_from_eps", z, "eps", eps, logsnr, True)
    return ((eps - sigma * z) / alpha).to(z.dtype)


def v_from_x_eps(x: Tensor, eps: Tensor, logsnr: Tensor) -> Tensor:
    """v = α ε - σ x, the definition (variance preserving). Result in x's shape and dtype, errors as above."""
    alpha, sigma = _checked_scales("v_from_x_eps", x, "eps", eps, logsnr, True, z_name="x")
    return (alpha * eps - sigma * x).to(x.dtype)


@dataclass(frozen=True)
class Prediction:
    """A network's output at (z, λ), with the guidance and the thresholding still to be applied.

        prediction <- (1 + w) value - w uncond             where uncond is given
        x̂ from prediction by the parameterization
        x̂ <- clip(x̂, -s', s') / s',  s' = max(s, 1)        where threshold s is given

    Ho & Salimans 2022 (arXiv 2207.12598), eq. 6; Saharia et al. 2022 (2205.11487), section 2.3. It is lazy
    so that a sampler's fused step does all of this in one pass; `x`, `eps` and `v` materialise it.

    Attributes:
        value: the (conditional) output (B, ...).
        parameterization: what `value` is.
        uncond: the unconditional output, value's shape, or None for no guidance.
        guidance_weight: w, a number or a tensor () or (B,); given exactly where uncond is.
        threshold: s >= 0, a number or a tensor () or (B,); 1.0 clips to [-1, 1]; None leaves x̂ alone.
        variance_preserving: which process z and λ belong to.
    """

    value: Tensor
    parameterization: Parameterization
    uncond: Tensor | None = None
    guidance_weight: float | Tensor | None = None
    threshold: float | Tensor | None = None
    variance_preserving: bool = True

    def __post_init__(self) -> None:
        check_batched("Prediction", "value", self.value)
        check_parameterization("Prediction", self.parameterization, self.variance_preserving)
        if (self.uncond is None) != (self.guidance_weight is None):
            given = "uncond" if self.guidance_weight is None else "guidance_weight"
            raise ValueError(
                f"Prediction: uncond and guidance_weight must be given together, got only {given}"
            )
        if self.uncond is not None:
            check_like("Prediction", "uncond", self.uncond, "value", self.value)
            check_per_sample("Prediction", "guidance_weight", self.guidance_weight, self.value)
        if self.threshold is not None:
            check_per_sample("Prediction", "threshold", self.threshold, self.value, minimum=0.0)

    def guided(self) -> Tensor:
        """(1 + w) value - w uncond in the network's own space, at least float32; `value` without guidance."""
        dtype = compute_dtype(self.value)
        if self.uncond is None or self.guidance_weight is None:
            return self.value.to(dtype)
        weight = _as_per_sample(self.guidance_weight, self.value)
        return (1.0 + weight) * self.value - weight * self.uncond

    def x(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """x̂, guided and thresholded.

        Args:
            z: the z the prediction was made for, value's shape.
            logsnr: its λ, (B,).

        Returns:
            x̂, z's shape and dtype.

        Raises:
            ValueError: z or logsnr do not fit the prediction.
        """
        return self._x("Prediction.x", z, logsnr).to(z.dtype)

    def eps(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """ε̂ = (z - α x̂) / σ of the guided and thresholded x̂. Arguments, result and errors as in `x`."""
        if self.threshold is not None:
            return self._from_x("Prediction.eps", "eps", z, logsnr)
        wide, value = self._wide("Prediction.eps", z, logsnr)
        if self.parameterization == "eps":
            eps = value
        elif self.parameterization == "v":
            eps = eps_from_v(wide, value, logsnr)
        else:
            eps = eps_from_x(wide, value, logsnr, variance_preserving=self.variance_preserving)
        return eps.to(z.dtype)

    def v(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """v̂ = (α z - x̂) / σ of the guided and thresholded x̂. Arguments, result and errors as in `x`."""
        check_parameterization("Prediction.v", "v", self.variance_preserving)
        if self.threshold is not None:
            return self._from_x("Prediction.v", "v", z, logsnr)
        wide, value = self._wide("Prediction.v", z, logsnr)
        if self.parameterization == "v":
            v = value
        elif self.parameterization == "eps":
            v = v_from_eps(wide, value, logsnr)
        else:
            v = v_from_x(wide, value, logsnr)
        return v.to(z.dtype)

    def _wide(self, where: str, z: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """(z, the guided output), checked, both in the dtype of the arithmetic."""
        check_like(where, "z", z, "the prediction", self.value)
        check_logsnr(where, "logsnr", logsnr, "z", z)
        dtype = torch.promote_types(compute_dtype(z), self.value.dtype)
        return z.to(dtype), self.guided().to(dtype)

    def _x(self, where: str, z: Tensor, logsnr: Tensor) -> Tensor:
        wide, value = self._wide(where, z, logsnr)
        if self.parameterization == "eps":
            x = x_from_eps(wide, value, logsnr, variance_preserving=self.variance_preserving)
        elif self.parameterization == "v":
            x = x_from_v(wide, value, logsnr)
        else:
            x = value
        if self.threshold is None:
            return x
        bound = _as_per_sample(self.threshold, x).clamp(min=1.0)
        return torch.maximum(torch.minimum(x, bound), -bound) / bound

    def _from_x(self, where: str, target: Literal["eps", "v"], z: Tensor, logsnr: Tensor) -> Tensor:
        x = self._x(where, z, logsnr)
        if target == "v":
            return v_from_x(z.to(x.dtype), x, logsnr).to(z.dtype)
        eps = eps_from_x(z.to(x.dtype), x, logsnr, variance_preserving=self.variance_preserving)
        return eps.to(z.dtype)


def _as_per_sample(value: float | Tensor, like: Tensor) -> Tensor:
    """A number or a tensor () or (B,) as a tensor that broadcasts against `like`, in its compute dtype."""
    dtype = compute_dtype(like)
    if not isinstance(value, Tensor):  # filled on the device: a copy from the host cannot be in a CUDA graph
        value = torch.full((), float(value), dtype=dtype, device=like.device)
    return per_sample(value.to(like.device, dtype), like)


def _checked_scales(
    where: str,
    z: Tensor,
    name: str,
    value: Tensor,
    logsnr: Tensor,
    variance_preserving: bool,
    *,
    z_name: str = "z",
) -> tuple[Tensor, Tensor]:
    """Check a conversion's arguments; (α, σ) shaped to broadcast against z."""
    check_batched(where, z_name, z)
    check_like(where, name, value, z_name, z)
    check_logsnr(where, "logsnr", logsnr, z_name, z)
    check_bool(where, "variance_preserving", variance_preserving)
    return broadcast_alpha_sigma(logsnr, z, variance_preserving=variance_preserving)

"""Noise schedules: the log signal-to-noise ratio λ as a function of diffusion time t, t = 0 being data.

    λ(t) = log(α_t² / σ_t²),  decreasing in t

Every schedule is a frozen dataclass that is called with t and returns λ. A discrete-time model is the same
object evaluated at t = (i + 1) / T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from vdm.diffusion.checks import check_floating, check_integer, check_number, check_unit_interval


@dataclass(frozen=True)
class Schedule:
    """A map from diffusion time t in [0, 1] to λ; subclasses define `_logsnr`."""

    variance_preserving: ClassVar[bool] = True

    def __call__(self, t: Tensor) -> Tensor:
        """λ(t), computed in float64.

        Args:
            t: diffusion time in [0, 1], any shape, floating point.

        Returns:
            λ, the shape of t, in t's dtype but at least float32.

        Raises:
            ValueError: t is not a floating-point tensor, or (checked on the CPU) is outside [0, 1] or NaN.
        """
        where = type(self).__name__
        check_floating(where, "t", t)
        check_unit_interval(where, "t", t)
        return self._logsnr(t.double()).to(torch.promote_types(t.dtype, torch.float32))

    def _check_ends(self) -> None:
        """Require λ to be finite at both ends and to decrease from one to the other."""
        high, low = self(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        if not (math.isfinite(high) and math.isfinite(low) and low < high):
            names = ", ".join(field.name for field in fields(self))
            raise ValueError(
                f"{type(self).__name__}: {names} must give a finite, decreasing logsnr,"
                f" got {high:g} at t = 0 and {low:g} at t = 1"
            )

    def _logsnr(self, t: Tensor) -> Tensor:
        """λ of a float64 t."""
        raise NotImplementedError


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """The cosine schedule of VDM, optionally shifted for resolutions other than 64.

        λ(t) = -2 log tan(a t + b) + shift,   b = atan(e^{-λmax/2}),   a = atan(e^{-λmin/2}) - b

    Ho et al. 2022 (arXiv 2204.03458), from Nichol & Dhariwal 2021; the shift is Hoogeboom et al. 2023
    (2301.11093). Without a shift λ(0) = logsnr_max and λ(1) = logsnr_min. tan θ is evaluated as
    sin θ / sin(π/2 - θ) with both angles formed without cancellation, so that both ends are exact.

    Args:
        logsnr_min: λ at t = 1 (before the shift).
        logsnr_max: λ at t = 0 (before the shift).
        shift: added to λ; `for_size` gives 2 log(64 / size).
    """

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_number(where, "logsnr_min", self.logsnr_min)
        check_number(where, "logsnr_max", self.logsnr_max)
        check_number(where, "shift", self.shift)
        if self.logsnr_min >= self.logsnr_max:
            raise ValueError(
                f"{where}: logsnr_min must be less than logsnr_max={self.logsnr_max}, got {self.logsnr_min}"
            )
        if max(abs(self.logsnr_min), abs(self.logsnr_max)) > 500.0:
            raise ValueError(
                f"{where}: logsnr_min and logsnr_max must be within [-500, 500],"
                f" got {self.logsnr_min} and {self.logsnr_max}"
            )
        self._check_ends()

    @classmethod
    def for_size(cls, size: int, *, logsnr_min: float = -20.0, logsnr_max: float = 20.0) -> CosineSchedule:
        """The schedule for videos of `size` pixels a side: shift = 2 log(64 / size), none at 64.

        Raises:
            ValueError: size is not a positive integer.
        """
        check_integer("CosineSchedule.for_size", "size", size, minimum=1, maximum=1_000_000)
        return cls(logsnr_min=logsnr_min, logsnr_max=logsnr_max, shift=2.0 * math.log(64.0 / size))

    def _logsnr(self, t: Tensor) -> Tensor:
        at_data = math.atan(math.exp(-0.5 * self.logsnr_max))
        at_noise = math.atan(math.exp(0.5 * self.logsnr_min))
        span = 0.5 * math.pi - at_data - at_noise
        angle = span * t + at_data
        complement = span * (1.0 - t) + at_noise
        return 2.0 * (torch.log(torch.sin(complement)) - torch.log(torch.sin(angle))) + self.shift


@dataclass(frozen=True)
class LinearBetaSchedule(Schedule):
    """The variance-preserving SDE with linear β(t), in continuous time.

        log α(τ) = -¼ τ² (β1 - β0) - ½ τ β0,   λ(t) = -log(e^{-2 log α} - 1),   τ = t_min + (1 - t_min) t

    Song et al. 2021 (arXiv 2011.13456), eq. 33. λ(τ) is infinite at τ = 0, so, as there, τ starts at t_min.

    Args:
        beta_min: β0 >= 0.
        beta_max: β1 > 0.
        t_min: the SDE time that t = 0 stands for, in (0, 1).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-5

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_number(where, "beta_min", self.beta_min, minimum=0.0)
        check_number(where, "beta_max", self.beta_max, minimum=0.0, maximum=500.0, exclusive_minimum=True)
        check_number(where, "t_min", self.t_min, minimum=0.0, exclusive_minimum=True)
        if self.t_min >= 1.0:
            raise ValueError(f"{where}: t_min must be in (0, 1), got {self.t_min}")
        if self.beta_min > self.beta_max:
            raise ValueError(
                f"{where}: beta_min must be at most beta_max={self.beta_max}, got {self.beta_min}"
            )
        self._check_ends()

    def _logsnr(self, t: Tensor) -> Tensor:
        time = self.t_min + (1.0 - self.t_min) * t
        minus_two_log_alpha = 0.5 * time**2 * (self.beta_max - self.beta_min) + time * self.beta_min
        return -torch.log(torch.expm1(minus_two_log_alpha))


@dataclass(frozen=True)
class DiscreteLinearBetaSchedule(Schedule):
    """The discrete linear β table of DDPM and MCVD, at t = (i + 1) / T for i = 0 .. T - 1.

        β_i linear from beta_start to beta_end,   α²_i = Π_{j<=i} (1 - β_j),
        λ((i + 1) / T) = log(α²_i / (1 - α²_i))

    Ho et al. 2020 (arXiv 2006.11239). Between the entries λ is interpolated linearly in t; below t = 1/T,
    where the table has no entry, the first two are extrapolated, which keeps λ(0) finite.

    Args:
        num_timesteps: T >= 2.
        beta_start: β_0 in (0, 1).
        beta_end: β_{T-1} in [beta_start, 1).
    """

    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_integer(where, "num_timesteps", self.num_timesteps, minimum=2, maximum=1_000_000)
        check_number(where, "beta_start", self.beta_start, minimum=0.0, exclusive_minimum=True)
        check_number(where, "beta_end", self.beta_end, minimum=0.0, exclusive_minimum=True)
        if self.beta_end >= 1.0:
            raise ValueError(f"{where}: beta_end must be in (0, 1), got {self.beta_end}")
        if self.beta_start > self.beta_end:
            raise ValueError(
                f"{where}: beta_start must be at most beta_end={self.beta_end}, got {self.beta_start}"
            )
        self._check_ends()

    def table(self, device: torch.device | None = None) -> Tensor:
        """λ at t = 0, 1/T, ..., 1, (T + 1,) float64; the entry at t = 0 extrapolates the next two."""
        betas = torch.linspace(
            self.beta_start, self.beta_end, self.num_timesteps, dtype=torch.float64, device=device
        )
        log_alpha_squared = torch.log1p(-betas).cumsum(0)
        entries = log_alpha_squared - torch.log(-torch.expm1(log_alpha_squared))
        return torch.cat([2.0 * entries[:1] - entries[1:2], entries])

    def _logsnr(self, t: Tensor) -> Tensor:
        table = self.table(t.device)
        position = t * self.num_timesteps
        lower = position.floor().clamp(0, self.num_timesteps - 1)
        index = lower.long()
        return torch.lerp(table[index], table[index + 1], position - lower)


@dataclass(frozen=True)
class GeometricVESchedule(Schedule):
    """The variance-exploding SDE with a geometric σ(t).

        σ(t) = σmin (σmax / σmin)^t,   α = 1,   λ(t) = -2 log σ(t)

    Song et al. 2021 (arXiv 2011.13456), eq. 30.

    Args:
        sigma_min: σ at t = 0, > 0.
        sigma_max: σ at t = 1, > sigma_min; about the largest distance between two data points.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    variance_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_number(where, "sigma_min", self.sigma_min, minimum=0.0, exclusive_minimum=True)
        check_number(where, "sigma_max", self.sigma_max, minimum=0.0, exclusive_minimum=True)
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"{where}: sigma_min must be less than sigma_max={self.sigma_max}, got {self.sigma_min}"
            )
        self._check_ends()

    def _logsnr(self, t: Tensor) -> Tensor:
        log_min, log_max = math.log(self.sigma_min), math.log(self.sigma_max)
        return -2.0 * (log_min + (log_max - log_min) * t)


SCHEDULES: Mapping[str, type[Schedule]] = MappingProxyType(
    {
        "cosine": CosineSchedule,
        "linear_beta": LinearBetaSchedule,
        "discrete_linear_beta": DiscreteLinearBetaSchedule,
        "geometric_ve": GeometricVESchedule,
    }
)
"""Name -> schedule dataclass, for configuration files."""


MAX_STEPS = 1_000_000


def times(num_steps: int) -> Tensor:
    """The uniform grid of `num_steps` sampling steps: t_i = 1 - i / num_steps.

    Args:
        num_steps: number of steps, 1 to 1,000,000.

    Returns:
        (num_steps + 1,) float64 from 1 to 0, on the CPU.

    Raises:
        ValueError: num_steps is not such an integer.
    """
    check_integer("times", "num_steps", num_steps, minimum=1, maximum=MAX_STEPS)
    return torch.linspace(1.0, 0.0, int(num_steps) + 1, dtype=torch.float64)

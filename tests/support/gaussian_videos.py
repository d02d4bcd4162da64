"""Gaussian videos: a process whose optimal denoiser, conditionals and sampled laws are known exactly.

    x ~ N(μ, S),   S = S_F ⊗ S_P,   S_F[i, j] = std² ρ^|i-j|       (a stationary AR(1) over frames)
    E[x | z] = μ + α S (α² S + σ² I)^{-1} (z - α μ),   Var[x | z] = σ² S (α² S + σ² I)^{-1}

With an affine denoiser a sampler's output is an affine function of its noise and of what it was told of
the video. Both are inputs that a test knows, so that `sampled_law` finds the function, and with it mean and
covariance, exactly, from the outputs of the public function alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vdm.diffusion import Parameterization, Prediction, alpha_sigma
from vdm.generation import ConditionalSampler, complete
from vdm.guidance import downsample
from vdm_kernels import philox_normal, use_backend

SEED = 0
"""Of all samples: they are the channels of one video, which a Gaussian's denoiser takes one by one."""


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) over the n = F·H·W values of one channel, and its optimal denoiser.

    Attributes:
        mean: (n,), or (C, n): one for each channel.
        covariance: (n, n); may be singular.
        parameterization: what the denoiser predicts.
        variance_preserving: the denoiser's process.
    """

    mean: Tensor
    covariance: Tensor
    parameterization: Parameterization = "x"
    variance_preserving: bool = True

    def __call__(self, z: Tensor, logsnr: Tensor) -> Prediction:
        """E[x | z] of (B, C, F, H, W) videos, in z's dtype; differentiable in z."""
        alpha, sigma = (c[:, None, None] for c in self._scales(logsnr))
        variances, modes = self._modes
        gain = alpha * variances / (alpha**2 * variances + sigma**2)
        flat = z.double().flatten(2)
        x = self.mean + ((flat - alpha * self.mean) @ modes * gain) @ modes.T
        eps = (flat - alpha * x) / sigma
        value = {"x": x, "eps": eps, "v": alpha * eps - sigma * x}[self.parameterization]
        return Prediction(
            value.reshape(z.shape).to(z.dtype),
            self.parameterization,
            variance_preserving=self.variance_preserving,
        )

    def gain(self, logsnr: Tensor) -> Tensor:
        """∂E[x | z] / ∂z at one λ, (n, n), by solving the definition."""
        alpha, sigma = self._scales(logsnr)
        noised = alpha**2 * self.covariance + sigma**2 * torch.eye(len(self.covariance), dtype=torch.float64)
        return alpha * torch.linalg.solve(noised, self.covariance)

    def given(self, observed: Tensor, operator: Tensor) -> Gaussian:
        """p(x | y), y = operator @ x: the exact conditional.

        Args:
            observed: y, (m,) or (C, m).
            operator: A, (m, n), of full rank.
        """
        gain = regression(self.covariance, operator)
        mean = self.mean + (observed - self.mean @ operator.T) @ gain.T
        covariance = self.covariance - gain @ operator @ self.covariance
        return Gaussian(mean, covariance, self.parameterization, self.variance_preserving)

    def _scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        return alpha_sigma(logsnr.double(), variance_preserving=self.variance_preserving)

    @cached_property
    def _modes(self) -> tuple[Tensor, Tensor]:
        variances, modes = torch.linalg.eigh(self.covariance)
        return variances, modes


def regression(covariance: Tensor, operator: Tensor) -> Tensor:
    """∂E[x | y] / ∂y of y = operator @ x, (n, m): S Aᵀ (A S Aᵀ)^{-1}."""
    return torch.linalg.solve(operator @ covariance @ operator.T, operator @ covariance).T


def ar1_videos(
    frames: int,
    *,
    correlation: float = 0.9,
    std: float = 0.5,
    mean: float = 0.2,
    pixels: Tensor | None = None,
    parameterization: Parameterization = "x",
    variance_preserving: bool = True,
) -> Gaussian:
    """Stationary videos of one pixel, or of the P pixels whose correlations `pixels`, (P, P), gives.

    Frames i and j correlate by correlation^|i-j|.
    """
    covariance = std**2 * _decaying(frames, correlation)
    if pixels is not None:
        covariance = torch.kron(covariance, pixels)
    constant = torch.full((len(covariance),), mean, dtype=torch.float64)
    return Gaussian(constant, covariance, parameterization, variance_preserving)


def image_correlation(size: int, correlation: float) -> Tensor:
    """correlation^(|dy| + |dx|) between the pixels of a square image, (size², size²)."""
    return torch.kron(_decaying(size, correlation), _decaying(size, correlation))


def _decaying(length: int, correlation: float) -> Tensor:
    distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    return correlation ** distance.double()


@dataclass(frozen=True)
class Law:
    """What a sampler draws from: N(mean + gain @ y, covariance), y being what it was told of the video.

    Attributes:
        mean: (n,).
        gain: (n, m).
        covariance: (n, n).
        residual: the largest deviation of a sample from the affine function, not 0 if it is none.
    """

    mean: Tensor
    gain: Tensor
    covariance: Tensor
    residual: float

    def covariance_error(self, truth: Tensor) -> float:
        """||covariance - truth|| / ||truth||, Frobenius."""
        return float((self.covariance - truth).norm() / truth.norm())

    def joint(self, observed_covariance: Tensor) -> Tensor:
        """The covariance of the samples where y varies, too."""
        return self.covariance + self.gain @ observed_covariance @ self.gain.T


def sampled_law(
    sample: Callable[[tuple[int, ...], Tensor], Tensor],
    size: Sequence[int],
    draws: Sequence[int],
    *,
    num_observed: int = 0,
    spare: int = 32,
) -> Law:
    """The exact law of a sampler whose denoiser is affine, from more samples than the function has unknowns.

        x = mean + gain y + Σ_d A_d ε_d,   covariance = Σ_d A_d A_dᵀ

    Args:
        sample: (shape (1, C, F, H, W), y (C, m)) -> x of that shape in float64, drawn with SEED; y is uniform
            in [-1, 1].
        size: (F, H, W).
        draws: the numbers of the draws that the sampler makes; more do no harm.
        num_observed: m.
        spare: equations in excess of unknowns; what is not in `draws` shows in them.
    """
    n = torch.Size(size).numel()
    channels = 1 + num_observed + len(draws) * n + spare
    shape = (1, channels, *size)
    generator = torch.Generator().manual_seed(SEED)
    observed = 2 * torch.rand(channels, num_observed, generator=generator, dtype=torch.float64) - 1
    seed = torch.tensor([SEED])
    with use_backend("reference"):  # which is what samplers of float64 run on
        noise = [philox_normal(shape, seed, draw, dtype=torch.float64).reshape(channels, n) for draw in draws]
    inputs = torch.cat([torch.ones(channels, 1, dtype=torch.float64), observed, *noise], dim=1)
    x = sample(shape, observed).reshape(channels, n)
    solution = torch.linalg.lstsq(inputs, x, driver="gels").solution
    mean, gain, maps = solution.split([1, num_observed, len(draws) * n])
    residual = float((inputs @ solution - x).abs().max())
    return Law(mean[0], gain.T, maps.T @ maps, residual)


@dataclass(frozen=True)
class Observed:
    """What is known of a video: whole frames, and the other ones at a low resolution; either may be missing.

    Attributes:
        size: (F, H, W).
        frames: which are known.
        low_resolution: (h, w), to which all other frames are known.
    """

    size: tuple[int, int, int]
    frames: tuple[int, ...] = ()
    low_resolution: tuple[int, int] | None = None

    @property
    def unknown_frames(self) -> list[int]:
        return [f for f in range(self.size[0]) if f not in self.frames]

    def unknown(self, rows: Tensor) -> Tensor:
        """Those of n rows, one for each value of the video, that belong to frames that are not known."""
        return rows.unflatten(0, (self.size[0], -1))[self.unknown_frames].flatten(0, 1)

    @cached_property
    def operator(self) -> Tensor:
        """A of y = A x, (m, n): the known frames in order, then the low resolution of the others."""
        n = torch.Size(self.size).numel()
        images = torch.eye(n, dtype=torch.float64).reshape(1, n, *self.size)
        rows = [images[:, :, list(self.frames)].reshape(n, -1)]
        if self.low_resolution is not None:
            rows.append(downsample(images, *self.low_resolution)[:, :, self.unknown_frames].reshape(n, -1))
        return torch.cat(rows, dim=1).T

    def tensors(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(known (1, C, F, H, W), mask (1, 1, F, 1, 1), low-resolution video or None) of y (C, m)."""
        frames, height, width = self.size
        split = len(self.frames) * height * width
        known = torch.zeros(1, len(y), *self.size, dtype=torch.float64)
        known[:, :, list(self.frames)] = y[:, :split].reshape(1, len(y), -1, height, width)
        mask = torch.zeros(1, 1, frames, 1, 1, dtype=torch.bool)
        mask[:, :, list(self.frames)] = True
        if self.low_resolution is None:
            return known, mask, None
        low = downsample(known, *self.low_resolution)
        low[:, :, self.unknown_frames] = y[:, split:].reshape(1, len(y), -1, *self.low_resolution)
        return known, mask, low


def completed_law(how: ConditionalSampler, observed: Observed, logsnr: Tensor, draws: Sequence[int]) -> Law:
    """The exact law of `complete`.

    Args:
        how: with a Gaussian's denoiser.
        observed: what is known.
        logsnr: λ at every call of the denoiser, which replacement draws noise for.
        draws: the numbers of the sampler's own draws.
    """

    def sample(shape: tuple[int, ...], y: Tensor) -> Tensor:
        known, mask, low_resolution = observed.tensors(y)
        return complete(how, known, mask, seeds=SEED, low_resolution=low_resolution)

    replaced = (logsnr.float().view(torch.int32).long() + 2**40).tolist() if observed.frames else []
    return sampled_law(sample, observed.size, [*draws, *replaced], num_observed=len(observed.operator))


def mean_error(law: Law, videos: Gaussian, observed: Observed) -> float:
    """Of the unknown frames' conditional mean, as a share of that mean's own spread, root mean squares over y."""
    operator = observed.operator
    truth = observed.unknown(regression(videos.covariance, operator))
    spread = operator @ videos.covariance @ operator.T
    error = observed.unknown(law.gain) - truth
    return math.sqrt((error @ spread @ error.T).trace() / (truth @ spread @ truth.T).trace())


def border_correlation(law: Law, videos: Gaussian, observed: Observed) -> float:
    """Of one-pixel videos, between the first unknown frame after a known one and that."""
    after = next(f for f in observed.unknown_frames if f - 1 in observed.frames)
    operator = observed.operator
    joint = law.joint(operator @ videos.covariance @ operator.T)
    pair = joint[after - 1 : after + 1, after - 1 : after + 1]
    return float(pair[0, 1] / pair.diagonal().prod().sqrt())


def exact_weight(videos: Gaussian, operator: Tensor) -> Callable[[Tensor], Tensor]:
    """w_r(λ) for which reconstruction guidance is exact, where a single value y = operator @ x is known.

        w_r = (σ²/α²) / Var[y | z] = 1 / (α A K Aᵀ),   K = ∂E[x | z] / ∂z

    Of several values it takes the mean of their variances, and is not exact.
    """

    def weight(logsnr: Tensor) -> Tensor:
        alpha, _ = alpha_sigma(logsnr[0].double(), variance_preserving=videos.variance_preserving)
        return 1 / (alpha * (operator @ videos.gain(logsnr[0]) @ operator.T).diagonal().mean())

    return weight

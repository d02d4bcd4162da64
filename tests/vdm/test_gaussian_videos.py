"""The Gaussian videos that other tests compare with, against other ways to compute the same."""

from __future__ import annotations

import pytest
import torch
from gaussian_videos import SEED, Gaussian, ar1_videos, image_correlation, regression, sampled_law
from torch import Tensor

from vdm.diffusion import Parameterization, alpha_sigma
from vdm_kernels import philox_normal, use_backend


def test_frames_are_a_stationary_first_order_autoregression() -> None:
    """x_{f+1} - μ = ρ (x_f - μ) + sqrt(1 - ρ²) std e_f, from x_0 of the same law."""
    rho, std, frames = 0.8, 0.6, 5
    noise_to_x = torch.zeros(frames, frames, dtype=torch.float64)
    noise_to_x[0, 0] = std
    for f in range(1, frames):
        noise_to_x[f] = rho * noise_to_x[f - 1]
        noise_to_x[f, f] = (1 - rho**2) ** 0.5 * std
    videos = ar1_videos(frames, correlation=rho, std=std, mean=0.3)
    torch.testing.assert_close(videos.covariance, noise_to_x @ noise_to_x.T)
    torch.testing.assert_close(videos.mean, torch.full((frames,), 0.3, dtype=torch.float64))


def test_pixels_are_ordered_as_in_a_video() -> None:
    """Frame slowest, then row, then column."""
    videos = ar1_videos(3, correlation=0.9, std=1.0, pixels=image_correlation(2, 0.7))
    distance = torch.tensor([[2, 1, 0], [0, 1, 1]])  # (frame, row, column)
    weights = torch.tensor([4, 2, 1])
    first, second = (distance @ weights).tolist()
    assert float(videos.covariance[first, second]) == pytest.approx(0.9**2 * 0.7 ** (0 + 1))


@pytest.mark.parametrize("logsnr", [-9.0, 0.0, 5.0])
@pytest.mark.parametrize(
    ("parameterization", "variance_preserving"),
    [("x", True), ("eps", True), ("v", True), ("x", False), ("eps", False)],
)
def test_denoiser_is_the_conditional_mean_given_z(
    parameterization: Parameterization, logsnr: float, variance_preserving: bool
) -> None:
    """z = α x + σ ε is a linear observation of (x, ε), whose law given z is conditioning once more."""
    videos = ar1_videos(
        4,
        pixels=image_correlation(2, 0.5),
        parameterization=parameterization,
        variance_preserving=variance_preserving,
    )
    n = len(videos.mean)
    at = torch.tensor([logsnr])
    alpha, sigma = (float(c) for c in alpha_sigma(at.double(), variance_preserving=variance_preserving))
    eye = torch.eye(n, dtype=torch.float64)
    both = Gaussian(
        torch.cat([videos.mean, torch.zeros_like(videos.mean)]), torch.block_diag(videos.covariance, eye)
    )
    z = torch.randn(1, 3, 4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = both.given(z.reshape(3, n), torch.cat([alpha * eye, sigma * eye], dim=1))
    prediction = videos(z, at)
    assert prediction.parameterization == parameterization
    torch.testing.assert_close(prediction.x(z, at).reshape(3, n), expected.mean[:, :n], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        prediction.eps(z, at).reshape(3, n), expected.mean[:, n:], rtol=1e-7, atol=1e-7
    )
    variance = sigma**2 / alpha * videos.gain(at[0])  # σ² S (α² S + σ² I)^{-1}
    torch.testing.assert_close(variance, expected.covariance[:n, :n], rtol=1e-6, atol=1e-9)


def test_given_a_frame_the_next_ones_decay_to_the_mean() -> None:
    """An AR(1) forgets: E[x_f | x_0] = μ + ρ^f (x_0 - μ), Var = std² (1 - ρ^2f), whatever frames came before."""
    videos = ar1_videos(6, correlation=0.9, std=0.5, mean=0.2)
    known = torch.eye(6, dtype=torch.float64)[:3]
    conditional = videos.given(torch.tensor([-0.4, 0.7, 0.6], dtype=torch.float64), known)
    steps = torch.arange(1, 4).double()
    torch.testing.assert_close(conditional.mean[3:], 0.2 + 0.9**steps * 0.4)
    torch.testing.assert_close(conditional.covariance.diagonal()[3:], 0.25 * (1 - 0.81**steps))
    torch.testing.assert_close(conditional.mean[:3], torch.tensor([-0.4, 0.7, 0.6], dtype=torch.float64))
    torch.testing.assert_close(conditional.covariance[:3], torch.zeros(3, 6, dtype=torch.float64))


def affine(shape: tuple[int, ...], observed: Tensor) -> Tensor:
    """x = 1 + M ε_0 + ε_5 + 2 (y, 0) of one-pixel videos of two frames."""
    with use_backend("reference"):
        first, second = (
            philox_normal(shape, torch.tensor([SEED]), draw, dtype=torch.float64).reshape(-1, 2)
            for draw in (0, 5)
        )
    matrix = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    return (1 + first @ matrix.T + second + 2 * torch.nn.functional.pad(observed, (0, 1))).reshape(shape)


def test_law_of_an_affine_sampler() -> None:
    law = sampled_law(affine, (2, 1, 1), [0, 3, 5], num_observed=1)
    assert law.residual < 1e-12
    torch.testing.assert_close(law.mean, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(law.gain, torch.tensor([[2.0], [0.0]], dtype=torch.float64))
    covariance = torch.tensor([[1 + 4 + 1, 6.0], [6.0, 9 + 1]], dtype=torch.float64)
    torch.testing.assert_close(law.covariance, covariance)
    assert law.covariance_error(covariance) < 1e-12
    joint = law.joint(torch.tensor([[0.25]], dtype=torch.float64))
    torch.testing.assert_close(
        joint, covariance + torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    )


def test_law_shows_what_it_cannot_explain() -> None:
    assert sampled_law(affine, (2, 1, 1), [0], num_observed=1).residual > 0.1, "a draw is missing"
    nonlinear = sampled_law(lambda shape, y: affine(shape, y).clamp(-2, 2), (2, 1, 1), [0, 5], num_observed=1)
    assert nonlinear.residual > 0.1


def test_regression_is_the_gain_of_given() -> None:
    videos = ar1_videos(5)
    operator = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0]], dtype=torch.float64)
    y = torch.tensor([0.3, -0.8], dtype=torch.float64)
    slope = videos.given(y, operator).mean - videos.given(torch.zeros(2).double(), operator).mean
    torch.testing.assert_close(regression(videos.covariance, operator) @ y, slope)

"""Conditional sampling of Gaussian videos, where p(x^b | x^a) is known and so is what the samplers draw from.

With K = ∂x̂/∂z and y = A x what is known, Var[y | z] = (σ²/α) A K Aᵀ, and

    E[x | z, y] = x̂ + K Aᵀ (A K Aᵀ)^{-1} (y - A x̂)                 the exact conditional denoiser
    x̃           = x̂ + w_r α K Aᵀ (y - A x̂)                          reconstruction guidance

so that w_r stands for (α A K Aᵀ)^{-1}: a number where a single value is known, larger than 1 by as much as
σ²/α² is larger than Var[y | z].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import gaussian_videos
import pytest
import torch
from gaussian_videos import (
    Gaussian,
    Law,
    Observed,
    ar1_videos,
    completed_law,
    exact_weight,
    image_correlation,
    regression,
)
from torch import Tensor

from vdm.diffusion import CosineSchedule, alpha_sigma, times
from vdm.generation import ConditionalSampler
from vdm.guidance import GuidanceWeight, downsample, reconstruction_guidance
from vdm.samplers import ancestral, ddim, dpm_solver_pp, predictor_corrector

SCHEDULE = CosineSchedule()
RHO = 0.9
EXTEND_1, EXTEND_4, INTERPOLATE = (Observed((8, 1, 1), frames) for frames in ((0,), (0, 1, 2, 3), (0, 7)))
UPSCALE = Observed((1, 4, 4), low_resolution=(2, 2))
BOTH = Observed((3, 2, 2), (0,), (1, 1))
LEVELS = [-12.0, -3.0, 0.0, 2.5, 9.0]


def videos_of(observed: Observed) -> Gaussian:
    frames, height, _ = observed.size
    return ar1_videos(frames, correlation=RHO, pixels=image_correlation(height, 0.8) if height > 1 else None)


def conditional_law(
    observed: Observed,
    weight: GuidanceWeight | None,
    *,
    sampler: Callable[..., Tensor] = ancestral,
    num_steps: int = 32,
    num_draws: int | None = None,
) -> Law:
    """By replacement alone where the weight is None."""
    how = ConditionalSampler(
        videos_of(observed),
        partial(sampler, schedule=SCHEDULE, num_steps=num_steps),
        method="replacement" if weight is None else "reconstruction",
        weight=weight,
    )
    draws = range(num_steps if num_draws is None else num_draws)
    law = completed_law(how, observed, SCHEDULE(times(num_steps))[:-1], draws)
    assert law.residual < 1e-6
    return law


def mean_error(law: Law, observed: Observed) -> float:
    return gaussian_videos.mean_error(law, videos_of(observed), observed)


def border_correlation(law: Law, observed: Observed) -> float:
    """RHO in the data."""
    return gaussian_videos.border_correlation(law, videos_of(observed), observed)


@pytest.mark.parametrize("logsnr", LEVELS)
@pytest.mark.parametrize("observed", [EXTEND_4, INTERPOLATE, UPSCALE, BOTH], ids=repr)
def test_guidance_is_linear_regression_with_another_gain(observed: Observed, logsnr: float) -> None:
    """x̃ = x̂ + w_r α K Bᵀ (values - B x̂) where it is not known; B holds the low resolution of known frames, too."""
    videos = videos_of(observed)
    n, channels, weight = len(videos.mean), 3, 2.5
    generator = torch.Generator().manual_seed(3)
    y = torch.rand(channels, len(observed.operator), generator=generator, dtype=torch.float64) - 0.5
    z = torch.randn(1, channels, *observed.size, generator=generator, dtype=torch.float64)
    known, mask, low = observed.tensors(y)
    at = torch.tensor([logsnr])
    unknown = (~mask).expand(1, 1, *observed.size).reshape(n)
    rows, values = [torch.eye(n, dtype=torch.float64)[~unknown]], [known.reshape(channels, n)[:, ~unknown]]
    if low is not None and observed.low_resolution is not None:
        everything = torch.eye(n, dtype=torch.float64).reshape(1, n, *observed.size)
        rows.append(downsample(everything, *observed.low_resolution).reshape(n, -1).T)
        values.append(low.reshape(channels, -1))
    every_row = torch.cat(rows)
    x = videos(z, at).x(z, at).reshape(channels, n)
    alpha, _ = alpha_sigma(at.double())
    missing = torch.cat(values, dim=1) - x @ every_row.T
    expected = x + weight * alpha * missing @ every_row @ videos.gain(at[0])
    some = {"known": known, "mask": mask} if observed.frames else {}
    guided = reconstruction_guidance(videos, weight, low_resolution=low, **some)(z, at)
    found = guided.x(z, at).reshape(channels, n)
    torch.testing.assert_close(found[:, unknown], expected[:, unknown], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found[:, ~unknown], x[:, ~unknown], rtol=1e-6, atol=1e-9)


ONE_VALUE = [EXTEND_1, Observed((6, 1, 1), (3,)), Observed((1, 2, 2), low_resolution=(1, 1))]


@pytest.mark.parametrize("logsnr", LEVELS)
@pytest.mark.parametrize("observed", ONE_VALUE, ids=repr)
def test_one_known_value_has_an_exact_weight(observed: Observed, logsnr: float) -> None:
    """x̃ is then E[x | z, y], whatever z is; the weight is above 1, and 1 over A Aᵀ without noise."""
    videos = videos_of(observed)
    generator = torch.Generator().manual_seed(3)
    y = torch.rand(3, 1, generator=generator, dtype=torch.float64) - 0.5
    z = torch.randn(1, 3, *observed.size, generator=generator, dtype=torch.float64)
    known, mask, low = observed.tensors(y)
    at = torch.tensor([logsnr])
    weight = exact_weight(videos, observed.operator)
    some = {"known": known, "mask": mask} if observed.frames else {}
    found = reconstruction_guidance(videos, weight, low_resolution=low, **some)(z, at).x(z, at)
    expected = videos.given(y, observed.operator)(z, at).x(z, at)
    unknown = (~mask).expand_as(z)
    torch.testing.assert_close(found[unknown], expected[unknown], rtol=1e-5, atol=1e-6)
    square = float(observed.operator @ observed.operator.T)
    assert float(weight(at)) > 1 / square
    if logsnr == max(LEVELS):
        assert float(weight(at)) == pytest.approx(1 / square, rel=0.02)


SAMPLERS = {
    "ancestral": (ancestral, None, 1),
    "ddim": (ddim, 1, 1),
    "dpm_solver_pp": (dpm_solver_pp, 1, 2),
    "predictor_corrector": (partial(predictor_corrector, delta=0.1), 95, 1),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_the_exact_weight_every_sampler_draws_from_the_conditional(name: str) -> None:
    """The mean is right after any number of steps, the covariance at the sampler's own order."""
    sampler, num_draws, order = SAMPLERS[name]
    videos = videos_of(EXTEND_1)
    weight = exact_weight(videos, EXTEND_1.operator)
    truth = videos.given(torch.zeros(1, dtype=torch.float64), EXTEND_1.operator).covariance
    coarse, fine = (
        conditional_law(EXTEND_1, weight, sampler=sampler, num_steps=n, num_draws=num_draws) for n in (16, 48)
    )
    assert max(mean_error(coarse, EXTEND_1), mean_error(fine, EXTEND_1)) < 1e-4
    fall = math.log(coarse.covariance_error(truth) / fine.covariance_error(truth), 3)
    assert fall > 0.75 * order, (coarse.covariance_error(truth), fine.covariance_error(truth))
    if sampler is dpm_solver_pp:
        assert border_correlation(fine, EXTEND_1) == pytest.approx(RHO, abs=0.005)


@pytest.mark.parametrize("sampler", [ancestral, ddim])
@pytest.mark.parametrize("observed", [EXTEND_1, EXTEND_4, INTERPOLATE], ids=repr)
def test_guidance_keeps_the_correlation_that_replacement_loses(
    observed: Observed, sampler: Callable[..., Tensor]
) -> None:
    """Extension by seven and by four frames, and both ends known; a constant weight is not exact, but near."""
    num_draws = 1 if sampler is ddim else None
    replaced, guided = (
        conditional_law(observed, weight, sampler=sampler, num_draws=num_draws) for weight in (None, 4.0)
    )
    assert border_correlation(replaced, observed) < RHO - 0.14
    assert border_correlation(guided, observed) == pytest.approx(RHO, abs=0.06)
    assert mean_error(replaced, observed) > 0.4
    assert mean_error(guided, observed) < 0.6 * mean_error(replaced, observed)


@pytest.mark.parametrize("observed", [EXTEND_1, EXTEND_4, INTERPOLATE], ids=repr)
def test_no_constant_weight_is_right(observed: Observed) -> None:
    """Weights of 1 say too little of what is known, large ones too much: the mean is best in between."""
    errors = [mean_error(conditional_law(observed, w), observed) for w in (1.0, 4.0, 50.0)]
    assert errors[1] < 0.55 * errors[0]
    assert errors[1] < 0.6 * errors[2]
    assert errors[1] > 0.02
    correlations = [border_correlation(conditional_law(observed, w), observed) for w in (1.0, 2.0, 9.0)]
    assert correlations[0] < correlations[1] < RHO < correlations[2]


def test_a_weight_for_many_values_goes_by_what_they_have_in_common() -> None:
    """1 + e^{-λ}/s with s of one pixel overshoots where pixels correlate; s of their common mode does not."""
    observed = Observed((3, 4, 4), (0,))
    videos = ar1_videos(3, correlation=RHO, pixels=image_correlation(4, 0.98))
    common = float(torch.linalg.eigvalsh(observed.operator @ videos.covariance @ observed.operator.T).max())
    assert common > 14 * 0.25  # of 16 pixels
    num_steps, errors = 32, {}
    for variance, most in ((0.25, 50.0), (common, math.inf)):
        how = ConditionalSampler(
            videos,
            partial(ddim, schedule=SCHEDULE, num_steps=num_steps),
            weight=lambda logsnr, s=variance, most=most: (1 + torch.exp(-logsnr) / s).clamp(max=most),
        )
        law = completed_law(how, observed, SCHEDULE(times(num_steps))[:-1], [0])
        assert law.residual < 1e-6
        errors[variance] = gaussian_videos.mean_error(law, videos, observed)
    assert errors[common] < 0.2 < 0.4 < errors[0.25], errors


def test_in_space_the_weight_is_counted_in_squares_of_the_factor() -> None:
    """D averages pixels: 1 / (D Dᵀ) takes the part of 1, and at twice that, steps overshoot and diverge."""
    largest = float(torch.linalg.eigvalsh(UPSCALE.operator @ UPSCALE.operator.T).max())
    assert 3.0 < 1 / largest < 4.0  # near the square of the factor, 2
    one, good, diverging = (conditional_law(UPSCALE, w) for w in (1.0, 1 / largest, 10 / largest))
    truth = videos_of(UPSCALE).given(torch.zeros(4, dtype=torch.float64), UPSCALE.operator).covariance
    assert mean_error(one, UPSCALE) > 0.3
    assert mean_error(good, UPSCALE) < 0.1
    assert good.covariance_error(truth) < 0.3 < one.covariance_error(truth)
    assert diverging.covariance_error(truth) > 100


def test_space_and_time_together_use_both() -> None:
    """Frame 0, and the other ones as one pixel each: of all there is to say, no part alone says as much."""
    truth = regression(videos_of(BOTH).covariance, BOTH.operator)
    spread = BOTH.operator @ videos_of(BOTH).covariance @ BOTH.operator.T
    explained = float((truth @ spread @ truth.T).trace())
    for part in (Observed(BOTH.size, BOTH.frames), Observed(BOTH.size, (), BOTH.low_resolution)):
        less = regression(videos_of(BOTH).covariance, part.operator)
        alone = less @ part.operator @ videos_of(BOTH).covariance @ part.operator.T @ less.T
        assert float(alone.trace()) < 0.97 * explained
        assert mean_error(conditional_law(part, 3.0), part) < 0.3
    assert mean_error(conditional_law(BOTH, 3.0), BOTH) < 0.06

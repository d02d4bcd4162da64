"""Block-autoregressive extension of Gaussian videos: what becomes of mean and covariance after many blocks.

A block is an affine function of its context and its noise (`completed_law`), and so is the next. Mean and
covariance of the context after any number of blocks follow by recursion:

    m' = k + G m,   P' = G P Gᵀ + C       (the rows of the new context)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from gaussian_videos import SEED, Gaussian, Law, Observed, ar1_videos, completed_law, exact_weight
from torch import Tensor

from vdm.diffusion import CosineSchedule, times
from vdm.generation import ConditionalSampler, extend
from vdm.guidance import GuidanceWeight
from vdm.samplers import ancestral, dpm_solver_pp

FRAMES, RHO, MEAN, VARIANCE = 8, 0.9, 0.2, 0.25
VIDEOS = ar1_videos(FRAMES, correlation=RHO, mean=MEAN, std=0.5)
SCHEDULE = CosineSchedule()


def extender(
    weight: GuidanceWeight | None, sampler: Callable[..., Tensor], num_steps: int
) -> ConditionalSampler:
    """By replacement where the weight is None."""
    return ConditionalSampler(
        VIDEOS,
        partial(sampler, schedule=SCHEDULE, num_steps=num_steps),
        method="replacement" if weight is None else "reconstruction",
        weight=weight,
    )


def block_law(
    weight: GuidanceWeight | None,
    context: int,
    sampler: Callable[..., Tensor] = ancestral,
    num_steps: int = 32,
) -> Law:
    draws = [0] if sampler is dpm_solver_pp else range(num_steps)
    observed = Observed((FRAMES, 1, 1), tuple(range(context)))
    law = completed_law(
        extender(weight, sampler, num_steps), observed, SCHEDULE(times(num_steps))[:-1], draws
    )
    assert law.residual < 1e-8
    return law


def after(blocks: int, law: Law, context: int, first: Gaussian) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the frames of the last of so many blocks, its context included."""
    mean, covariance = first.mean[:context], first.covariance[:context, :context]
    for _ in range(blocks):
        block = law.mean + law.gain @ mean, law.joint(covariance)
        mean, covariance = block[0][-context:], block[1][-context:, -context:]
    return block


def test_extend_follows_the_recursion() -> None:
    """4096 videos of three blocks, against mean and covariance of the third, within five standard errors."""
    context, count = 4, 4096
    law = block_law(3.0, context, num_steps=12)
    white = torch.randn(count, FRAMES, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    first = (VIDEOS.mean + white @ torch.linalg.cholesky(VIDEOS.covariance).T)[:, :context]
    video = extend(
        extender(3.0, ancestral, 12),
        first.reshape(1, count, context, 1, 1),
        num_frames=3 * (FRAMES - context),
        block_frames=FRAMES,
        context_frames=context,
        seeds=SEED,
    )
    frames = video[0, :, -FRAMES:, 0, 0]
    mean, covariance = after(3, law, context, VIDEOS)
    variance = covariance.diagonal()
    assert bool(((frames.mean(0) - mean).abs() <= 5 * (variance / count).sqrt()).all())
    bound = 5 * ((variance[:, None] * variance + covariance**2) / count).sqrt()
    assert bool(((frames.T.cov() - covariance).abs() <= bound).all())


@pytest.mark.parametrize("blocks", [1, 10, 1000])
def test_with_the_exact_weight_nothing_drifts(blocks: int) -> None:
    """After a thousand blocks, 7000 frames: the law of the data, to the error of the sampler's 48 steps."""
    weight = exact_weight(VIDEOS, torch.eye(FRAMES, dtype=torch.float64)[:1])
    law = block_law(weight, 1, dpm_solver_pp, 48)
    mean, covariance = after(blocks, law, 1, VIDEOS)
    torch.testing.assert_close(mean, VIDEOS.mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(covariance, VIDEOS.covariance, rtol=0, atol=0.02 * VARIANCE)


@pytest.mark.parametrize("context", [1, 4])
def test_replacement_breaks_at_every_border_and_guidance_does_not(context: int) -> None:
    def border(law: Law) -> float:
        """The correlation across the border of the thousandth block, which neither vanishes nor grows."""
        mean, covariance = after(1000, law, context, VIDEOS)
        torch.testing.assert_close(mean, VIDEOS.mean, rtol=0, atol=1e-3)
        assert bool(((covariance.diagonal() > 0.5 * VARIANCE) & (covariance.diagonal() < VARIANCE)).all())
        pair = covariance[context - 1 : context + 1, context - 1 : context + 1]
        return float(pair[0, 1] / pair.diagonal().prod().sqrt())

    assert border(block_law(None, context)) < RHO - 0.15
    assert border(block_law(3.0, context)) == pytest.approx(RHO, abs=0.03)


def test_too_large_a_weight_diverges_over_blocks() -> None:
    """One block looks right. But where several frames are known, G has an eigenvalue above 1, and blocks grow."""
    radii = {}
    for weight in (3.0, 20.0):
        law = block_law(weight, 4)
        radii[weight] = float(torch.linalg.eigvals(law.gain[-4:]).abs().max())
        one, many = (float(after(n, law, 4, VIDEOS)[1].diagonal().max()) for n in (1, 100))
        assert one < 1.5 * VARIANCE
        assert (many > 100 * VARIANCE) == (weight == 20.0), (weight, many)
    assert radii[3.0] < RHO < 1 < radii[20.0], radii

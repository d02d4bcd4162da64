"""The figures of docs/exactness.md, about a minute:  PYTHONPATH=tests/support python docs/figures/exactness.py"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch
from gaussian_videos import (
    SEED,
    Gaussian,
    Law,
    Observed,
    ar1_videos,
    border_correlation,
    completed_law,
    exact_weight,
    image_correlation,
    mean_error,
    sampled_law,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from vdm.diffusion import CosineSchedule, GeometricVESchedule, Schedule, times
from vdm.generation import ConditionalSampler
from vdm.guidance import GuidanceWeight
from vdm.samplers import ancestral, annealed_langevin, ddim, distilled, dpm_solver_pp, predictor_corrector

FOLDER = Path(__file__).resolve().parents[1] / "images"
COSINE, WIDE = CosineSchedule(), GeometricVESchedule(1e-3, 500.0)
BLUE, ORANGE, GREEN, RED, GREY, PURPLE, BROWN = (
    *("#0b5fa5", "#d08a2e", "#3c8d5a", "#b5402a", "#6d6d6d", "#7a5aa8", "#7d6b3d"),
)
FRAMES, RHO, VARIANCE = 8, 0.9, 0.25
VIDEOS = ar1_videos(FRAMES, correlation=RHO)
WEIGHTS = [0.5, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 22.0, 32.0, 50.0]
SAMPLERS: dict[str, tuple[Callable[..., Tensor], dict[str, float], int, str]] = {
    # name: (sampler, options, draws per step after the first, colour)
    "ancestral γ=0": (ancestral, {"gamma": 0.0}, 1, BLUE),
    "ancestral γ=0.3": (ancestral, {"gamma": 0.3}, 1, PURPLE),
    "ancestral γ=1": (ancestral, {"gamma": 1.0}, 1, BROWN),
    "predictor-corrector δ=0.1": (predictor_corrector, {"delta": 0.1}, 2, GREY),
    "distilled": (distilled, {}, 1, RED),
    "DDIM η=0": (ddim, {}, 0, ORANGE),
    "DPM-Solver++(2M)": (dpm_solver_pp, {}, 0, GREEN),
}


def spacing(num_steps: int) -> float:
    return 2 * math.log(WIDE.sigma_max / WIDE.sigma_min) / num_steps


def covariance_error(
    sampler: Callable[..., Tensor], schedule: Schedule, num_steps: int, num_draws: int, **options: float
) -> float:
    videos = ar1_videos(3, correlation=RHO, variance_preserving=schedule.variance_preserving)
    draw = partial(
        sampler, schedule=schedule, num_steps=num_steps, seeds=SEED, dtype=torch.float64, **options
    )
    law = sampled_law(lambda shape, _: draw(videos, shape), (3, 1, 1), range(num_draws))
    assert law.residual < 1e-9
    return law.covariance_error(videos.covariance)


def conditional_law(
    videos: Gaussian,
    observed: Observed,
    weight: GuidanceWeight | None,
    sampler: Callable[..., Tensor] = ancestral,
    num_steps: int = 64,
) -> Law:
    how = ConditionalSampler(
        videos,
        partial(sampler, schedule=COSINE, num_steps=num_steps),
        method="replacement" if weight is None else "reconstruction",
        weight=weight,
    )
    draws = range(num_steps) if sampler is ancestral else [0]
    return completed_law(how, observed, COSINE(times(num_steps))[:-1], draws)


def tidy(axis: Axes, x: str, y: str, title: str) -> None:
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, name: str) -> None:
    figure.savefig(FOLDER / f"exactness_{name}.png", dpi=110)
    plt.close(figure)
    print(FOLDER / f"exactness_{name}.png", flush=True)


def samplers() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for name, (sampler, options, draws, colour) in SAMPLERS.items():
        calls, errors = [], []
        for n in (8, 16, 32, 64, 128, 256) if draws < 2 else (8, 16, 32, 64, 128):
            calls.append(2 * n - 1 if draws == 2 else n)
            errors.append(covariance_error(sampler, COSINE, n, 1 + draws * (n - 1), **options))
        left.loglog(calls, errors, "o-", color=colour, label=name, markersize=3, linewidth=1)
    left.legend(fontsize=7, frameon=False)
    tidy(left, "calls of the denoiser", "covariance error", "cosine schedule, even steps in t")

    predicted: dict[str, Callable[[float], float]] = {
        "ancestral γ=0": lambda h: h / 2,
        "ancestral γ=0.3": lambda h: h / 5,
        "DDIM η=0": lambda h: h / 4,
        "DPM-Solver++(2M)": lambda h: h**2 / 32,
    }
    for name, error in predicted.items():
        sampler, options, draws, colour = SAMPLERS[name]
        steps = (16, 32, 64, 128, 256)
        found = [covariance_error(sampler, WIDE, n, 1 + draws * (n - 1), **options) for n in steps]
        right.loglog(steps, found, "o", color=colour, label=name, markersize=4)
        right.loglog(steps, [error(spacing(n)) for n in steps], color=colour, linewidth=0.8)
    steps = (16, 32, 64, 128, 256)
    found = [covariance_error(ancestral, WIDE, n, n, gamma=0.5) for n in steps]
    right.loglog(
        steps, found, "o--", color=PURPLE, markerfacecolor="none", linewidth=0.6, label="ancestral γ=0.5"
    )
    delta, per_level = 0.5, 8
    levels = (24, 48, 96)
    options = {"eta0": delta / 2 * WIDE.sigma_min**2, "steps_per_level": per_level}
    found = [covariance_error(annealed_langevin, WIDE, n - 1, 1 + n * per_level, **options) for n in levels]
    calls = [n * per_level for n in levels]
    right.loglog(calls, found, "o", color=RED, label="annealed Langevin, 8 steps a level", markersize=4)
    kappa = [per_level * delta / spacing(n - 1) for n in levels]
    right.loglog(calls, [(1 + delta / 4) / (k - 1) for k in kappa], color=RED, linewidth=0.8)
    right.legend(fontsize=7, frameon=False)
    tidy(right, "calls of the denoiser", "covariance error", "even steps in λ; lines: predicted")
    save(figure, "samplers")


def weights() -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    cases = {
        "1 frame known": (Observed((FRAMES, 1, 1), (0,)), BLUE),
        "4 frames known": (Observed((FRAMES, 1, 1), (0, 1, 2, 3)), ORANGE),
        "both ends known": (Observed((FRAMES, 1, 1), (0, 7)), GREEN),
    }
    for label, (observed, colour) in cases.items():
        laws = [conditional_law(VIDEOS, observed, w) for w in WEIGHTS]
        for axis, measure in ((left, mean_error), (middle, border_correlation)):
            axis.semilogx(
                WEIGHTS, [measure(law, VIDEOS, observed) for law in laws], "o-",
                color=colour, label=label, markersize=3, linewidth=1,
            )  # fmt: skip
            replaced = measure(conditional_law(VIDEOS, observed, None), VIDEOS, observed)
            axis.plot([0.3], [replaced], "s", color=colour, markersize=5)
    one = cases["1 frame known"][0]
    exact = conditional_law(VIDEOS, one, exact_weight(VIDEOS, one.operator))
    left.axhline(mean_error(exact, VIDEOS, one), color=BLUE, linestyle=":", linewidth=1)
    middle.axhline(border_correlation(exact, VIDEOS, one), color=BLUE, linestyle=":", linewidth=1)
    middle.axhline(RHO, color="black", linewidth=0.8)
    middle.annotate("the data", (20, RHO - 0.018), fontsize=7)
    left.legend(fontsize=7, frameon=False)
    tidy(left, "w_r  (squares: replacement)", "error of the conditional mean", "mean")
    tidy(middle, "w_r  (dotted: the exact w_r(λ))", "correlation across the border", "correlation")

    logsnr = torch.linspace(-6, 10, 65)
    curves: Iterable[tuple[str, Gaussian, Tensor, str]] = [
        ("one of 8 frames", VIDEOS, one.operator, BLUE),
        ("the same, frames uncorrelated", ar1_videos(8, correlation=0.0), one.operator, GREY),
        (
            "one pixel for 2×2",
            ar1_videos(1, pixels=image_correlation(2, 0.8)),
            Observed((1, 2, 2), low_resolution=(1, 1)).operator,
            RED,
        ),
    ]
    for label, videos, operator, colour in curves:
        weight = exact_weight(videos, operator)
        right.semilogy(logsnr, [float(weight(at[None])) for at in logsnr], color=colour, label=label)
    right.axhline(1, color="black", linewidth=0.8)
    right.legend(fontsize=7, frameon=False)
    tidy(right, "λ", "w_r", "the exact weight of one known value")
    save(figure, "weight")


def frames() -> None:
    observed = Observed((FRAMES, 1, 1), (0, 1, 2, 3))
    spread = VIDEOS.covariance[:4, :4]
    covariances = {"data": VIDEOS.covariance}
    for label, weight in (("replacement", None), ("w_r = 1", 1.0), ("w_r = 3", 3.0), ("w_r = 20", 20.0)):
        covariances[label] = conditional_law(VIDEOS, observed, weight).joint(spread)
    figure, axes = plt.subplots(1, len(covariances), figsize=(11, 2.5), layout="constrained")
    for axis, (label, covariance) in zip(axes, covariances.items()):
        std = covariance.diagonal().sqrt()
        image = axis.imshow(covariance / (std[:, None] * std), vmin=0, vmax=1, cmap="viridis")
        axis.axhline(3.5, color="white", linewidth=0.8)
        axis.axvline(3.5, color="white", linewidth=0.8)
        axis.set_title(label, fontsize=9)
        axis.set_xticks([0, 3, 7])
        axis.set_yticks([0, 3, 7])
        axis.tick_params(labelsize=7)
    figure.colorbar(image, ax=axes, shrink=0.75).ax.tick_params(labelsize=7)
    save(figure, "frames")


def space() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    videos = ar1_videos(1, pixels=image_correlation(4, 0.8))
    observed = Observed((1, 4, 4), low_resolution=(2, 2))
    operator = observed.operator
    truth = videos.given(torch.zeros(len(operator), dtype=torch.float64), operator).covariance
    for label, sampler, colour in (("ancestral", ancestral, BLUE), ("DDIM", ddim, ORANGE)):
        laws = [conditional_law(videos, observed, w, sampler, 32) for w in WEIGHTS]
        means = [mean_error(law, videos, observed) for law in laws]
        left.loglog(WEIGHTS, means, "o-", color=colour, markersize=3, linewidth=1, label=f"{label}: mean")
        errors = [law.covariance_error(truth) for law in laws]
        left.loglog(
            WEIGHTS, errors, "s--", color=colour, markersize=3, linewidth=1, label=f"{label}: covariance"
        )
    largest = float(torch.linalg.eigvalsh(operator @ operator.T).max())
    for share, text in ((1, "1/d"), (2, "2/d")):
        left.axvline(share / largest, color=GREY, linewidth=0.8, linestyle=":")
        left.annotate(text, (share / largest * 1.03, 3.0), fontsize=7)
    left.set_ylim(3e-3, 10)
    left.legend(fontsize=7, frameon=False)
    tidy(left, "w_r", "error of the conditional law", "4×4 pixels from 2×2")

    videos = ar1_videos(3, pixels=image_correlation(2, 0.8))
    for label, part, colour in (
        ("frame 0", Observed((3, 2, 2), (0,)), BLUE),
        ("low resolution", Observed((3, 2, 2), (), (1, 1)), ORANGE),
        ("both", Observed((3, 2, 2), (0,), (1, 1)), GREEN),
    ):
        measured = [w for w in WEIGHTS if w <= 22]
        means = [mean_error(conditional_law(videos, part, w, num_steps=32), videos, part) for w in measured]
        right.loglog(measured, means, "o-", color=colour, markersize=3, linewidth=1, label=label)
    right.legend(fontsize=7, frameon=False)
    tidy(right, "w_r", "error of the conditional mean", "3 frames of 2×2 pixels; known:")
    save(figure, "space")


def drift() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    blocks = 300
    for axis, context in zip(axes, (1, 4)):
        observed = Observed((FRAMES, 1, 1), tuple(range(context)))
        cases: dict[str, tuple[GuidanceWeight | None, str]] = {
            "replacement": (None, GREY),
            "w_r = 3": (3.0, BLUE),
            "w_r = 9": (9.0, ORANGE),
            "w_r = 20": (20.0, RED),
        }
        if context == 1:
            cases["exact w_r(λ)"] = (exact_weight(VIDEOS, observed.operator), GREEN)
        for label, (weight, colour) in cases.items():
            law = conditional_law(VIDEOS, observed, weight, dpm_solver_pp, 64)
            spread, correlations, variances = VIDEOS.covariance[:context, :context], [], []
            for _ in range(blocks):
                joint = law.joint(spread)
                pair = joint[context - 1 : context + 1, context - 1 : context + 1]
                correlations.append(float(pair[0, 1] / pair.diagonal().prod().sqrt()))
                variances.append(float(joint[-1, -1]) / VARIANCE)
                spread = joint[-context:, -context:]
            values = correlations if context == 1 else variances
            axis.plot(range(1, blocks + 1), values, color=colour, label=label, linewidth=1.2)
        axis.axhline(RHO if context == 1 else 1, color="black", linewidth=0.8, linestyle=":")
        axis.set_xscale("log")
        axis.legend(fontsize=7, frameon=False)
    axes[1].set_yscale("log")
    axes[1].set_ylim(0.5, 30)
    tidy(axes[0], "blocks", "correlation across the border", "1 frame of context, 7 new ones a block")
    tidy(
        axes[1],
        "blocks",
        "variance of the last frame / the data's",
        "4 frames of context, 4 new ones a block",
    )
    save(figure, "drift")


if __name__ == "__main__":
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    for draw in (samplers, weights, frames, space, drift):
        draw()

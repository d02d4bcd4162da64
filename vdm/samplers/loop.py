"""What every sampler shares: checks, the grid of λ, seeds, the first noise, the loop over steps."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from vdm.diffusion import Denoiser, Prediction, Schedule, alpha_sigma, predict
from vdm.diffusion import times as uniform_times
from vdm.diffusion.checks import check_callable, check_integer, check_readable, checked_device
from vdm.diffusion.schedules import MAX_STEPS
from vdm_kernels import philox_normal

Seeds: TypeAlias = int | Sequence[int] | Tensor
"""One 64-bit seed per sample; an int s stands for s, s + 1, ..."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class SamplerStep:
    """What a callback sees of a step, after the denoiser's call and before z changes.

    Attributes:
        index: 0 .. num_steps - 1.
        num_steps: the number of steps.
        t: the time of z.
        logsnr: its λ, (B,).
        z: the current sample (B, C, F, H, W).
        prediction: the denoiser's prediction at z; `x()` materialises it for a preview.
    """

    index: int
    num_steps: int
    t: float
    logsnr: Tensor
    z: Tensor
    prediction: Prediction

    def x(self) -> Tensor:
        """x̂ at this step, (B, C, F, H, W), guided and thresholded."""
        return self.prediction.x(self.z, self.logsnr)


Callback: TypeAlias = Callable[[SamplerStep], object]


@dataclass(frozen=True)
class Transition:
    """One step from λ_t to λ_s for a sampler's update: everything but z.

    Attributes:
        prediction: the denoiser's prediction at z_t.
        logsnr_t: λ_t, (B,) float32.
        logsnr_s: λ_s, (B,) float32.
        seed: (B,) int64.
        draw: the number of this step's noise draw.
        is_last: no noise is added.
    """

    prediction: Prediction
    logsnr_t: Tensor
    logsnr_s: Tensor
    seed: Tensor
    draw: int
    is_last: bool


Update: TypeAlias = Callable[[Tensor, Transition], Tensor]


@torch.no_grad()
def sample_loop(
    where: str,
    update: Update,
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    schedule: Schedule,
    num_steps: int | None,
    times: Sequence[float] | Tensor | None,
    seeds: Seeds,
    callback: Callback | None,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> Tensor:
    """Draw z at the first time, then `update` it from each time to the next; arguments as in `ancestral`."""
    check_callable(where, "denoiser", denoiser)
    if not isinstance(schedule, Schedule):
        raise ValueError(f"{where}: schedule must be a Schedule, got {type(schedule).__name__}")
    if callback is not None:
        check_callable(where, "callback", callback)
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise ValueError(f"{where}: dtype must be float32, bfloat16, float16 or float64, got {dtype}")
    size = _checked_shape(where, shape)
    grid = time_grid(where, num_steps, times)
    seed = sample_seeds(where, seeds, size[0], checked_device(where, device))
    grid_logsnr = _grid_logsnr(where, schedule, grid)
    logsnr = grid_logsnr.to(seed.device)[:, None].expand(-1, size[0]).contiguous()

    z = philox_normal(size, seed, 0, dtype=dtype)
    if not schedule.variance_preserving:
        z = z * float(alpha_sigma(grid_logsnr[:1], variance_preserving=False)[1])
    last = len(grid) - 2
    for index in range(last + 1):
        prediction = predict(
            where, denoiser, z, logsnr[index], variance_preserving=schedule.variance_preserving
        )
        if callback is not None:
            callback(SamplerStep(index, last + 1, float(grid[index]), logsnr[index], z, prediction))
        if index == last and float(grid[-1]) == 0.0:
            return prediction.x(z, logsnr[index])
        z = update(
            z,
            Transition(prediction, logsnr[index], logsnr[index + 1], seed, index + 1, is_last=index == last),
        )
    return z


def step_constant(value: float | Tensor | None, z: Tensor) -> float | Tensor | None:
    """A prediction's guidance weight or threshold as the fused steps take it: a number, or (B,) float32."""
    return value.detach().float().expand(len(z)).contiguous() if isinstance(value, Tensor) else value


def time_grid(where: str, num_steps: int | None, times: Sequence[float] | Tensor | None) -> Tensor:
    """The decreasing times of a sampler, (num_steps + 1,) float64 on the CPU, from one of the two arguments.

    Raises:
        ValueError: none or both are given, num_steps < 1, or times are not at least two strictly decreasing
            numbers in [0, 1].
    """
    if (num_steps is None) == (times is None):
        came = "neither" if times is None else "both"
        raise ValueError(f"{where}: exactly one of num_steps and times must be given, got {came}")
    if times is None:
        assert num_steps is not None
        check_integer(where, "num_steps", num_steps, minimum=1, maximum=MAX_STEPS)
        return uniform_times(num_steps)
    grid = _checked_times(where, times)
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"{where}: times must be at least two numbers in one axis, got {tuple(grid.shape)}")
    if not bool(((grid >= 0.0) & (grid <= 1.0)).all()):
        raise ValueError(f"{where}: times must be in [0, 1], got {grid.tolist()}")
    if not bool((grid[1:] < grid[:-1]).all()):
        raise ValueError(f"{where}: times must be strictly decreasing, got {grid.tolist()}")
    return grid


def sample_seeds(where: str, seeds: Seeds, batch_size: int, device: torch.device | None) -> Tensor:
    """One seed per sample as a (B,) int64 tensor; an int s gives s, s + 1, ...

    Args:
        where: the caller, for the error message.
        seeds: an int, a sequence of B ints, or a (B,) integer tensor.
        batch_size: B.
        device: where the result lies; None for the seeds' own device, the CPU where they have none.

    Raises:
        ValueError: seeds are not integers of 64 bits, or not B of them.
    """
    low, high = -(2**63), 2**63 - 1
    if isinstance(seeds, Tensor):
        if seeds.is_floating_point() or seeds.is_complex() or seeds.dtype == torch.bool:
            raise ValueError(f"{where}: seeds must be integers, got a tensor of {seeds.dtype}")
        check_readable(where, "seeds", seeds)
        tensor = seeds.to(torch.int64)
    elif isinstance(seeds, numbers.Integral):
        check_integer(where, "seeds", seeds, minimum=low, maximum=high - (batch_size - 1))
        tensor = int(seeds) + torch.arange(batch_size, dtype=torch.int64)
    elif isinstance(seeds, Sequence) and not isinstance(seeds, (str, bytes)):
        for seed in seeds:
            check_integer(where, "seeds", seed, minimum=low, maximum=high)
        tensor = torch.tensor([int(seed) for seed in seeds], dtype=torch.int64)
    else:
        raise ValueError(
            f"{where}: seeds must be an integer, a sequence of them or a tensor, got {type(seeds).__name__}"
        )
    if tuple(tensor.shape) != (batch_size,):
        raise ValueError(
            f"{where}: seeds must be one per sample, {batch_size} of them, got shape {tuple(tensor.shape)}"
        )
    return (tensor if device is None else tensor.to(device)).contiguous()


def _grid_logsnr(where: str, schedule: Schedule, grid: Tensor) -> Tensor:
    """λ at each time, float32 on the CPU."""
    logsnr = schedule(grid).float()
    if not bool(logsnr.isfinite().all()):
        raise ValueError(f"{where}: schedule must give a finite logsnr at every time, got {logsnr.tolist()}")
    if not bool((logsnr[1:] >= logsnr[:-1]).all()):
        raise ValueError(f"{where}: schedule must not increase with t, got logsnr {logsnr.tolist()}")
    return logsnr


def _checked_shape(where: str, shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(shape, (str, bytes, Tensor)) or not isinstance(shape, Sequence) or len(shape) != 5:
        raise ValueError(f"{where}: shape must be (B, C, F, H, W), got {shape!r}")
    for length in shape:
        check_integer(where, "shape", length, minimum=1)
    return tuple(int(length) for length in shape)


def _checked_times(where: str, times: Sequence[float] | Tensor) -> Tensor:
    if not isinstance(times, Tensor):
        if isinstance(times, (str, bytes)) or not isinstance(times, Sequence):
            raise ValueError(f"{where}: times must be numbers or a tensor, got {type(times).__name__}")
        if not all(isinstance(t, (int, float)) and not isinstance(t, bool) for t in times):
            raise ValueError(f"{where}: times must be numbers, got {times!r}")
        return torch.tensor([float(t) for t in times], dtype=torch.float64)
    if not times.is_floating_point():
        raise ValueError(f"{where}: times must have a floating-point dtype, got {times.dtype}")
    check_readable(where, "times", times)
    return times.detach().to("cpu", torch.float64)

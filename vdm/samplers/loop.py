"""What every sampler shares: checks, the grid of λ, seeds, the first noise, and the loop.

A sampler is a plan: a list of moves, each a call of the denoiser and an update of z, made from the grid before
anything is computed. What changes from move to move lies in device memory, so that a move can be a CUDA graph.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from vdm.diffusion import (
    Denoiser,
    DiscreteLinearBetaSchedule,
    Prediction,
    Schedule,
    alpha_sigma,
    predict,
)
from vdm.diffusion import times as uniform_times
from vdm.diffusion.checks import (
    check_bool,
    check_callable,
    check_integer,
    check_readable,
    checked_device,
)
from vdm.diffusion.schedules import MAX_STEPS
from vdm.samplers.cuda_graph import CudaGraphed, check_cuda_graph
from vdm_kernels import philox_normal

Seeds: TypeAlias = int | Sequence[int] | Tensor
"""One 64-bit seed per sample; an int s stands for s, s + 1, ..."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class SamplerStep:
    """What a callback sees of a step: a call of the denoiser, before z changes.

    With `cuda_graph` its tensors hold until the callback returns: the next step overwrites them.

    Attributes:
        index: 0 .. num_steps - 1.
        num_steps: the number of the denoiser's calls, correctors included.
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
class Inputs:
    """What an update reads besides the state and the prediction, on z's device.

    Attributes:
        values: the move's numbers, each (B,) float32; the first is λ of z.
        seed: (B,) int64.
        draw: () int64, the number of this move's noise draw.
    """

    values: tuple[Tensor, ...]
    seed: Tensor
    draw: Tensor


State: TypeAlias = tuple[Tensor, ...]
"""z, and what a multistep sampler carries with it; all of z's shape and dtype."""

Update: TypeAlias = Callable[[State, Prediction, Inputs], State]
"""(state, the denoiser's prediction at z, inputs) -> the next state."""


@dataclass(frozen=True)
class Move:
    """One call of the denoiser and the update after it.

    Attributes:
        t: the time of z.
        update: what follows the call. Moves that share it differ in their values alone: one graph runs them.
        values: the numbers that `update` reads; the first is λ of z.
    """

    t: float
    update: Update
    values: tuple[float, ...]


@dataclass(frozen=True)
class Grid:
    """The decreasing times of a sampler and λ there, rounded to float32; num_steps + 1 of each."""

    t: tuple[float, ...]
    logsnr: tuple[float, ...]

    @property
    def ends_at_data(self) -> bool:
        """Whether the last time is 0, where a sampler returns x̂ itself."""
        return self.t[-1] == 0.0

    def moves(self, update: Update, last: Update) -> list[Move]:
        """From each time to the next with values (λ_t, λ_s), the last one by `last`, or to x̂ at t = 0."""
        updates = [update] * (len(self.t) - 2) + [denoise if self.ends_at_data else last]
        return [Move(*move) for move in zip(self.t, updates, pairwise(self.logsnr))]


def denoise(state: State, prediction: Prediction, inputs: Inputs) -> State:
    """x̂ in place of z."""
    return (prediction.x(state[0], inputs.values[0]),)


@torch.no_grad()
def sample_loop(
    where: str,
    plan: Callable[[Grid], list[Move]],
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
    cuda_graph: bool,
    history: int = 0,
) -> Tensor:
    """Draw z at the first time, then make the moves of `plan`; move i has the draw i + 1.

    The state starts as z and `history` tensors of zeros. All other arguments are those of `ancestral`.
    """
    check_callable(where, "denoiser", denoiser)
    if not isinstance(schedule, Schedule):
        raise ValueError(f"{where}: schedule must be a Schedule, got {type(schedule).__name__}")
    if callback is not None:
        check_callable(where, "callback", callback)
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise ValueError(f"{where}: dtype must be float32, bfloat16, float16 or float64, got {dtype}")
    check_bool(where, "cuda_graph", cuda_graph)
    size = _checked_shape(where, shape)
    grid = _grid(
        where, schedule, time_grid(where, num_steps, times), "times" if times is not None else "num_steps"
    )
    seed = sample_seeds(where, seeds, size[0], checked_device(where, device))
    if cuda_graph:
        check_cuda_graph(where, seed.device)
    moves = plan(grid)

    def run(update: Update, values: Tensor, draw: Tensor, *state: Tensor) -> tuple[Tensor, Prediction, State]:
        inputs = Inputs(values.unbind(), seed, draw)
        prediction = predict(
            where, denoiser, state[0], inputs.values[0], variance_preserving=schedule.variance_preserving
        )
        return state[0], prediction, update(state, prediction, inputs)

    z = philox_normal(size, seed, 0, dtype=dtype)
    if not schedule.variance_preserving:
        z = z * float(alpha_sigma(torch.tensor(grid.logsnr[0]), variance_preserving=False)[1])
    state: State = (z, *(torch.zeros_like(z) for _ in range(history)))
    runners: dict[Update, Callable[..., tuple[Tensor, Prediction, State]]] = {
        move.update: partial(run, move.update) for move in moves
    }
    if cuda_graph:
        runners = {update: CudaGraphed(where, runner) for update, runner in runners.items()}
    values, draws = _values(moves, seed), torch.arange(1, len(moves) + 1, device=seed.device)
    for index, move in enumerate(moves):
        z, prediction, state = runners[move.update](values[index], draws[index], *state)
        if callback is not None:
            callback(SamplerStep(index, len(moves), move.t, values[index, 0], z, prediction))
    return state[0]


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


def _grid(where: str, schedule: Schedule, times: Tensor, name: str) -> Grid:
    """The grid of a schedule, whose λ is finite and falls with t; no more steps than a discrete one has.

    `name` is the argument that gave the times.
    """
    steps = len(times) - 1
    if isinstance(schedule, DiscreteLinearBetaSchedule) and steps > schedule.num_timesteps:
        raise ValueError(
            f"{where}: {name} must be at most the schedule's num_timesteps={schedule.num_timesteps} steps, got {steps}"
        )
    logsnr = schedule(times).float()
    if not bool(logsnr.isfinite().all()):
        raise ValueError(f"{where}: schedule must give a finite logsnr at every time, got {logsnr.tolist()}")
    if not bool((logsnr[1:] >= logsnr[:-1]).all()):
        raise ValueError(f"{where}: schedule must not increase with t, got logsnr {logsnr.tolist()}")
    return Grid(tuple(times.tolist()), tuple(logsnr.tolist()))


def _values(moves: Sequence[Move], seed: Tensor) -> Tensor:
    """The values of all moves on the device of the seeds, (moves, values, B); zeros where a move has fewer."""
    width = max(len(move.values) for move in moves)
    rows = [[*move.values, *[0.0] * (width - len(move.values))] for move in moves]
    table = torch.tensor(rows, dtype=torch.float32).to(seed.device)
    return table[:, :, None].expand(-1, -1, len(seed)).contiguous()


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

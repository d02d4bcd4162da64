"""Stateless randomness of a training run: everything random at step n is a function of (run seed, n, row).

So a run resumes from its step number alone, bit for bit, and a row's noise does not depend on how the
batch is divided into micro-batches or over processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vdm.diffusion import stratified_times

# One stream per purpose, so that no two draws of a step share their bits.
NOISE_STREAM = 1
TIME_STREAM = 2
CONDITIONING_STREAM = 3
TORCH_STREAM = 4
INITIAL_STREAM = 5

_MASK = 0xFFFFFFFFFFFFFFFF


def splitmix64(x: int) -> int:
    """One output of SplitMix64 (Steele, Lea and Flood 2014) from the state x; unsigned 64 bits."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def mix(*values: int) -> int:
    """Hash of integers to 64 unsigned bits: SplitMix64 chained over the values, order matters."""
    state = 0
    for value in values:
        state = splitmix64(state ^ (value & _MASK))
    return state


def uniform(*values: int) -> float:
    """Uniform number in [0, 1) from the hash of integers, 53 bits."""
    return (mix(*values) >> 11) * 2.0**-53


def noise_seeds(seed: int, step: int, rows: Sequence[int], *, stream: int = NOISE_STREAM) -> Tensor:
    """Seeds for `q_sample`, one per row of the global batch; (len(rows),) int64."""
    values = [mix(seed, stream, step, row) for row in rows]
    return torch.tensor([v - (1 << 64) if v >> 63 else v for v in values], dtype=torch.int64)


def conditioning_drop(seed: int, step: int, rows: Sequence[int], *, probability: float) -> Tensor:
    """Which rows train without their conditioning, each with the given probability; (len(rows),) bool."""
    return torch.tensor([uniform(seed, CONDITIONING_STREAM, step, row) < probability for row in rows])


def global_times(seed: int, step: int, batch_size: int) -> Tensor:
    """Stratified diffusion times of a whole global batch; (batch_size,) float32."""
    return stratified_times(batch_size, mix(seed, TIME_STREAM, step))


def seed_torch(seed: int, step: int, micro_step: int) -> None:
    """Seed torch's own generators (dropout) for one micro-batch of a step."""
    torch.manual_seed(mix(seed, TORCH_STREAM, step, micro_step) >> 1)

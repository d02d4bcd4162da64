"""Data sets as pure functions of (seed, draw number).

`dataset[i]` is the i-th training draw for any i >= 0. Draw i belongs to epoch i // len(dataset); the epoch's
order is a permutation seeded by (seed, epoch), and everything random inside the draw comes from
`default_rng([seed, i])`. So the position in the data is one integer: training resumes at draw i with nothing
else saved, and the draws do not depend on the number of workers or the order in which they run.
"""

from __future__ import annotations

import abc
import functools
import operator
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset

from vdm.data.clip import Clip

# A third, non-zero word of entropy keeps orders apart from draws ([seed, i] seeds the same as [seed, i, 0]).
_ORDER_STREAM = 0x6F726472


@functools.lru_cache(maxsize=8)
def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Returns the order of `length` videos in an epoch: (length,) int64, a permutation, read-only."""
    order = np.random.default_rng([seed, epoch, _ORDER_STREAM]).permutation(length)
    order.setflags(write=False)
    return order


class DrawDataset(Dataset[Clip], abc.ABC):
    """A data set whose i-th item is its i-th training draw, for any i >= 0."""

    def __init__(self, *, seed: int) -> None:
        where = type(self).__name__
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise ValueError(f"{where}: seed must be an integer in [0, 2^63), got {seed!r}")
        self.seed = int(seed)
        self.classes: tuple[str, ...] | None = None
        """Class names by label, or None where there are no labels."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of distinct videos, which is the length of an epoch."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Clip:
        """Returns draw number `index`, any integer >= 0."""

    @abc.abstractmethod
    def draw_frame(self, rng: np.random.Generator) -> Clip:
        """Returns one random frame of a random video: a `Clip` with F = 1."""

    def __iter__(self) -> Iterator[Clip]:
        """Iterates over the draws of the first epoch."""
        return (self[index] for index in range(len(self)))

    def _locate(self, index: int) -> tuple[int, np.ndarray, int]:
        """Returns the draw's number as an int, its epoch's order, and its position in that."""
        try:
            draw = operator.index(index)
        except TypeError:
            draw = -1
        if draw < 0:
            raise ValueError(f"{type(self).__name__}: a draw number must be an integer >= 0, got {index!r}")
        epoch, position = divmod(draw, len(self))
        return draw, epoch_order(self.seed, epoch, len(self)), position

    def _generator(self, draw: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, draw])

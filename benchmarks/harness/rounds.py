"""How long to time a row, and the turns that a baseline takes with it."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import vdm_kernels

SHORTEST_ROUND = 1e-3
TURN = 0.05
LONGEST_PAIRED = 4  # budgets for a row and the baseline beside it together


def synchronised_clock() -> float:
    """Seconds, once the GPU is done with everything: calls in between overlap as they do in use."""
    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = {"cpu": time.perf_counter, "cuda": synchronised_clock}


def turn_of(seconds_per_call: float) -> tuple[int, int]:
    """(rounds per turn, calls per round) of a call.

    A round lasts a millisecond or more, or the clock would matter. A turn lasts 50 ms or more: short against what
    else a machine may be busy with for a while, and of calls of some milliseconds most find the caches as the same call
    left them and not as the other side did.
    """
    calls = math.ceil(SHORTEST_ROUND / seconds_per_call)
    return math.ceil(TURN / (calls * seconds_per_call)), calls


@dataclass(frozen=True)
class Rival:
    """A baseline that is kept to be timed in turn with rows of ours."""

    backend: str
    run: Callable[[], object]
    seconds: float  # the median of its own row

    def take_turn(self, device: str) -> float:
        """Seconds per call, the median of a turn; on the reference, as in its own row."""
        rounds, calls = turn_of(self.seconds)
        with vdm_kernels.use_backend("reference"):
            return statistics.median(self._time_round(calls, CLOCKS[device]) for _ in range(rounds))

    def _time_round(self, calls: int, clock: Callable[[], float]) -> float:
        start = clock()
        for _ in range(calls):
            self.run()
        return (clock() - start) / calls


@dataclass(frozen=True)
class Budget:
    """How long to time one row: at least `min_rounds`, and more to fill `seconds`; 3 rounds of a very slow call."""

    seconds: float
    min_rounds: int
    max_rounds: int = 1000

    def turns(self, seconds_per_call: float, rival: Rival | None) -> int:
        """How many turns a row has; after each of them `rival` has one."""
        rounds, calls = turn_of(seconds_per_call)
        own = both = rounds * calls * seconds_per_call
        if rival is not None:
            both += math.prod(turn_of(rival.seconds)) * rival.seconds
        turns = math.ceil(self.seconds * min(1 / own, LONGEST_PAIRED / both))
        least = min(self.min_rounds, 3) if seconds_per_call > 2.0 else self.min_rounds
        return min(max(turns, math.ceil(least / rounds)), self.max_rounds // rounds)


def seconds_of(run: Callable[[], object], device: str) -> float:
    """A first guess: the mean of ten calls, or of what fits in a tenth of a second.

    Not the shortest, so that a machine that is busy with something else gets a plan that it can end in time.
    A compiled function also settles in these.
    """
    start = CLOCKS[device]()
    for calls in range(1, 11):
        run()
        elapsed = CLOCKS[device]() - start
        if (elapsed > 0.1 and calls >= 3) or elapsed > 1.0:
            break
    return elapsed / calls

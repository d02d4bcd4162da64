"""Batches of a run, prepared in the background, in an order that depends on the step alone."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch.utils.data import DataLoader

from vdm.data import Batch, DrawDataset, collate

_AHEAD = 4


def draw_indices(step: int, micro_step: int, *, batch_size: int, accumulation_steps: int) -> range:
    """Data draws of one micro-batch; those of step n are draws n * batch_size to (n + 1) * batch_size - 1."""
    rows = batch_size // accumulation_steps
    start = step * batch_size + micro_step * rows
    return range(start, start + rows)


def batches(
    dataset: DrawDataset,
    *,
    batch_size: int,
    accumulation_steps: int,
    first_step: int,
    last_step: int,
    workers: int,
) -> Generator[Batch, None, None]:
    """Micro-batches of steps first_step to last_step - 1, in order.

    Args:
        dataset: the draws.
        batch_size: rows per step, over all micro-batches.
        accumulation_steps: micro-batches per step.
        first_step, last_step: range of steps.
        workers: processes; 0 = one background thread of this process.

    Yields:
        `accumulation_steps` batches per step.
    """
    indices = (
        draw_indices(step, micro, batch_size=batch_size, accumulation_steps=accumulation_steps)
        for step in range(first_step, last_step)
        for micro in range(accumulation_steps)
    )
    if workers:
        loader = DataLoader(
            dataset,
            batch_sampler=_Indices(indices),
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=_AHEAD,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_interrupts,
        )
        yield from loader
    else:
        yield from _prefetched(dataset, indices)


def _prefetched(dataset: DrawDataset, indices: Iterator[range]) -> Iterator[Batch]:
    def load(draws: range) -> Batch:
        return collate([dataset[i] for i in draws])

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="data")
    pending: list[Future[Batch]] = []
    try:
        for draws in indices:
            pending.append(pool.submit(load, draws))
            if len(pending) > _AHEAD:
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Indices:
    """A batch sampler over a prepared sequence of index ranges."""

    def __init__(self, indices: Iterator[range]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return (list(draws) for draws in self._indices)


def _ignore_interrupts(worker: int) -> None:
    """The parent decides what an interrupt means; a worker ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

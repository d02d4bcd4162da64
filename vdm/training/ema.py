"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def ema_decay_at(decay: float, num_updates: int) -> float:
    """Decay of update number n (from 0) with warm-up: `min(decay, (1 + n) / (10 + n))`.

    The warm-up lets the average forget the random initialisation within a few dozen updates, however
    long its final memory of `1 / (1 - decay)` updates is.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class EMA:
    """Float32 moving average of a model's parameters: `e <- d e + (1 - d) w`, d from `ema_decay_at`.

    Buffers are copied, not averaged. The averaged weights are put into the model for a while with `swapped`.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.9999) -> None:
        """Start from the model's present weights.

        Args:
            model: the model to follow; its parameters must keep their names and shapes.
            decay: final decay in [0, 1).

        Raises:
            ValueError: decay is outside [0, 1).
        """
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA: decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.num_updates = 0
        self._names = [name for name, _ in model.named_parameters()]
        self._weights = [
            parameter.detach().clone(memory_format=torch.preserve_format).float()
            for parameter in model.parameters()
        ]
        self._buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        # Non-persistent buffers are recomputed by the model itself and are no part of a checkpoint.
        state = model.state_dict(keep_vars=True)
        self._persistent = [name for name in self._buffers if name in state]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """One step of the average towards the model's present weights."""
        decay = ema_decay_at(self.decay, self.num_updates)
        parameters = [parameter.detach().float() for parameter in model.parameters()]
        torch._foreach_lerp_(self._weights, parameters, 1.0 - decay)
        for name, buffer in model.named_buffers():
            self._buffers[name].copy_(buffer)
        self.num_updates += 1

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with the averaged weights inside the block, and its own, bit for bit, after it."""
        own = [parameter.data for parameter in model.parameters()]
        try:
            for parameter, average in zip(model.parameters(), self._weights):
                parameter.data = average.to(parameter.dtype)
            yield model
        finally:
            for parameter, data in zip(model.parameters(), own):
                parameter.data = data

    def state_dict(self) -> dict[str, Tensor]:
        """Averaged parameters and persistent buffers under the model's own names."""
        state = dict(zip(self._names, self._weights))
        state.update({name: self._buffers[name] for name in self._persistent})
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Restore the average and the number of updates made so far.

        Raises:
            ValueError: names or shapes differ from the model's.
        """
        own = self.state_dict()
        if state.keys() != own.keys():
            differing = sorted(state.keys() ^ own.keys())
            raise ValueError(f"EMA.load_state_dict: names must be the model's, differing: {differing[:5]}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"EMA.load_state_dict: {name} must have shape {tuple(tensor.shape)}, "
                    f"got {tuple(state[name].shape)}"
                )
            tensor.copy_(state[name])
        self.num_updates = num_updates

"""Random inputs of the shapes that the ops take. The same call gives the same tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Inputs:
    """Draws the inputs of one row, on its device and in its dtype, from a fixed seed."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self._generator = torch.Generator(device).manual_seed(0)
        self.device = device
        self.dtype = dtype

    def normal(self, *shape: int, grad: bool = False, scale: float = 1.0) -> Tensor:
        """Normal values of standard deviation `scale`."""
        values = torch.randn(shape, generator=self._generator, device=self.device) * scale
        return values.to(self.dtype).requires_grad_(grad)

    def video(self, batch: int, channels: int, frames: int, size: int, *, grad: bool = False) -> Tensor:
        """(B, C, F, H, H) in channels-last memory, as it is inside the model."""
        x = self.normal(batch, frames, size, size, channels).permute(0, 4, 1, 2, 3)
        return x.requires_grad_(grad)

    def floats(self, values: Sequence[float], batch: int) -> Tensor:
        """(B,) float32 between the two ends given."""
        return torch.linspace(values[0], values[1], batch, device=self.device)

    def seeds(self, batch: int) -> Tensor:
        """(B,) int64 seeds."""
        return torch.arange(batch, device=self.device) + 1000

"""Samplers: one function each, over any decreasing grid of times."""

from vdm.samplers.ancestral import ancestral
from vdm.samplers.ddim import ddim
from vdm.samplers.loop import Callback, SamplerStep, Seeds

__all__ = ["Callback", "SamplerStep", "Seeds", "ancestral", "ddim"]

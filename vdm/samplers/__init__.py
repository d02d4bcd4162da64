"""Samplers: one function each, over any decreasing grid of times."""

from vdm.samplers.ancestral import ancestral
from vdm.samplers.annealed_langevin import annealed_langevin
from vdm.samplers.ddim import ddim
from vdm.samplers.distilled import distilled
from vdm.samplers.dpm_solver_pp import dpm_solver_pp
from vdm.samplers.loop import Callback, SamplerStep, Seeds
from vdm.samplers.predictor_corrector import predictor_corrector

__all__ = [
    "Callback",
    "SamplerStep",
    "Seeds",
    "ancestral",
    "annealed_langevin",
    "ddim",
    "distilled",
    "dpm_solver_pp",
    "predictor_corrector",
]

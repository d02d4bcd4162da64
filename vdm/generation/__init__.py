"""Conditional generation: extend, interpolate, upscale and inpaint videos with any denoiser and sampler."""

from vdm.generation.blocks import Known, KnownReader, block_seeds, complete_blocks
from vdm.generation.conditional import METHODS, ConditionalSampler, Method, Sampler, complete
from vdm.generation.extend import extend, extend_blocks
from vdm.generation.inpaint import inpaint, inpaint_blocks
from vdm.generation.interpolate import interpolate, interpolate_blocks
from vdm.generation.lazy_video import LazyVideo
from vdm.generation.plan import Block, plan_blocks, plan_extension
from vdm.generation.upscale import upscale, upscale_blocks

__all__ = [
    "METHODS",
    "Block",
    "ConditionalSampler",
    "Known",
    "KnownReader",
    "LazyVideo",
    "Method",
    "Sampler",
    "block_seeds",
    "complete",
    "complete_blocks",
    "extend",
    "extend_blocks",
    "inpaint",
    "inpaint_blocks",
    "interpolate",
    "interpolate_blocks",
    "plan_blocks",
    "plan_extension",
    "upscale",
    "upscale_blocks",
]

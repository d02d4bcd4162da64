"""The hot paths of video diffusion as fused operators.

Every function here is defined by a plain PyTorch reference and runs on the fastest backend that supports
the call: C++ or CUDA C++ ("native"), "triton", or the "reference" itself. `use_backend` forces one;
`backends` says which are available on this machine, and why others are not.
"""

from vdm_kernels.native import set_allocator_policy
from vdm_kernels.op import backends, use_backend
from vdm_kernels.ops.abs_quantile import abs_quantile
from vdm_kernels.ops.ancestral_step import ancestral_step
from vdm_kernels.ops.channel_statistics import channel_statistics, reads_statistics
from vdm_kernels.ops.ddim_step import ddim_step
from vdm_kernels.ops.group_norm_silu import group_norm_silu
from vdm_kernels.ops.group_norm_silu_conv import conv_precision, group_norm_silu_conv
from vdm_kernels.ops.langevin_step import langevin_step
from vdm_kernels.ops.philox_normal import philox_normal
from vdm_kernels.ops.q_sample import q_sample
from vdm_kernels.ops.spatial_attention import spatial_attention
from vdm_kernels.ops.spatial_attention_block import spatial_attention_block
from vdm_kernels.ops.temporal_attention import temporal_attention
from vdm_kernels.ops.temporal_attention_block import temporal_attention_block

__all__ = [
    "abs_quantile",
    "ancestral_step",
    "backends",
    "channel_statistics",
    "conv_precision",
    "ddim_step",
    "group_norm_silu",
    "group_norm_silu_conv",
    "langevin_step",
    "philox_normal",
    "q_sample",
    "reads_statistics",
    "set_allocator_policy",
    "spatial_attention",
    "spatial_attention_block",
    "temporal_attention",
    "temporal_attention_block",
    "use_backend",
]

"""Compiles Triton kernels for GPUs that need not be there, and prints what became of each as a line of JSON.

Run as a script, because Triton's kernels are interpreted or compiled according to the environment of the import.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vdm_kernels.ops.abs_quantile import launch as quantile_launch
from vdm_kernels.ops.abs_quantile import triton_kernels as abs_quantile
from vdm_kernels.ops.attention import launch as attention_launch
from vdm_kernels.ops.attention import triton_flash
from vdm_kernels.ops.channel_statistics import launch as image_launch
from vdm_kernels.ops.channel_statistics import triton_kernels as channel_statistics
from vdm_kernels.ops.group_norm_silu import triton_backward as group_norm_silu_bwd
from vdm_kernels.ops.group_norm_silu import triton_kernels as group_norm_silu
from vdm_kernels.ops.philox_normal import triton_kernels as philox_normal
from vdm_kernels.ops.q_sample import triton_kernels as q_sample
from vdm_kernels.ops.spatial_attention import triton_kernels as spatial_attention
from vdm_kernels.ops.step import launch, triton_step
from vdm_kernels.ops.temporal_attention import launch as packed_launch
from vdm_kernels.ops.temporal_attention import triton_packed
from vdm_kernels.ops.temporal_attention_block import launch as block_launch
from vdm_kernels.ops.temporal_attention_block import triton_fused


@dataclass(frozen=True)
class Case:
    """One specialization: `types` names the type of every argument that is no constexpr; None is an absent tensor.

    `divisible` names the numbers that are multiples of 16; tensors always are.
    """

    name: str
    kernel: Any
    types: dict[str, str | None]
    constexprs: dict[str, Any]
    num_warps: int = launch.NUM_WARPS
    divisible: tuple[str, ...] = ()
    num_stages: int = 3


@dataclass(frozen=True)
class Result:
    """What ptxas says of a case, and the widths in bytes of its accesses to global memory."""

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    loads: list[int] = field(default_factory=list)
    stores: list[int] = field(default_factory=list)


_INTEGERS = {"groups": "i64", "n": "i64", "blocks": "i32", "splits": "i32"}
# Between them: every dtype, rule, parameterization and process, and sizes that are no multiple of 4.
_STEPS = (
    ("fp32", "fp32", "ancestral", "v", True, True),
    ("fp32", "bf16", "ddim", "eps", True, False),
    ("bf16", "bf16", "ancestral", "eps", False, True),
    ("fp16", "fp16", "ddim", "x", True, True),
    ("fp32", "fp32", "langevin", "eps", False, True),
)


def step_cases() -> Iterator[Case]:
    """The step kernels with everything switched on, and once with everything off."""
    scalars = {
        "logsnr_t_ptr": "*fp32",
        "logsnr_s_ptr": "*fp32",
        "weight_ptr": "*fp32",
        "threshold_ptr": "*fp32",
    }
    noise = {"seed_ptr": "*i64", "draw_ptr": "*i64"}
    numbers = {**_INTEGERS, "strength": "fp32"}
    for z, prediction, rule, parameterization, variance_preserving, vector in _STEPS:
        constexprs = {
            "RULE": rule,
            "PARAMETERIZATION": parameterization,
            "GUIDED": True,
            "THRESHOLDED": True,
            "VARIANCE_PRESERVING": variance_preserving,
            "VECTOR": vector,
            "BLOCK": launch.GROUPS_PER_BLOCK,
        }
        label = f"{z}-{prediction}-{rule}-{parameterization}{'' if vector else '-ragged'}"
        read = {"z_ptr": f"*{z}", "prediction_ptr": f"*{prediction}", "uncond_ptr": f"*{prediction}"}
        yield Case(
            f"step_kernel-{label}",
            triton_step.step_kernel,
            {**read, "out_ptr": f"*{z}", **scalars, **noise, **numbers},
            constexprs | {"NOISY": True},
        )
        written = {"dz_ptr": f"*{z}", "dprediction_ptr": f"*{prediction}", "duncond_ptr": f"*{prediction}"}
        yield Case(
            f"step_bwd_kernel-{label}",
            triton_step.step_bwd_kernel,
            {"dout_ptr": f"*{z}", **read, **written, **scalars, **numbers},
            constexprs | {"NEEDS_Z": True, "NEEDS_PREDICTION": True, "NEEDS_UNCOND": True},
        )
    absent = {"uncond_ptr": None, "weight_ptr": None, "threshold_ptr": None}
    yield Case(
        "step_kernel-fp32-plain",
        triton_step.step_kernel,
        {"z_ptr": "*fp32", "prediction_ptr": "*fp32", "out_ptr": "*fp32"}
        | scalars
        | absent
        | noise
        | numbers,
        {"RULE": "ddim", "PARAMETERIZATION": "v", "GUIDED": False, "THRESHOLDED": False, "NOISY": False}
        | {"VARIANCE_PRESERVING": True, "VECTOR": True, "BLOCK": launch.GROUPS_PER_BLOCK},
    )


def noise_cases() -> Iterator[Case]:
    """philox_normal and q_sample."""
    for dtype, vector in (("fp32", True), ("bf16", True), ("fp16", False)):
        constexprs = {"VECTOR": vector, "BLOCK": launch.GROUPS_PER_BLOCK}
        noise = {"seed_ptr": "*i64", "draw_ptr": "*i64", **_INTEGERS}
        label = dtype if vector else f"{dtype}-ragged"
        yield Case(
            f"philox_normal_kernel-{label}",
            philox_normal.philox_normal_kernel,
            {"out_ptr": f"*{dtype}", **noise},
            constexprs,
        )
        videos = {"x_ptr": f"*{dtype}", "z_ptr": f"*{dtype}", "eps_ptr": f"*{dtype}"}
        yield Case(
            f"q_sample_kernel-{label}",
            q_sample.q_sample_kernel,
            {**videos, "logsnr_ptr": "*fp32", **noise},
            constexprs | {"VARIANCE_PRESERVING": True},
        )


def quantile_cases() -> Iterator[Case]:
    """abs_quantile's kernels."""
    scan_numbers = {"n": "i64", "blocks": "i32", "splits": "i32", "index": "i64"}
    for passes, infinity, is_bfloat16 in ((4, 0x7F800000, False), (2, 0x7F80, True)):
        bits = "*i32" if passes == 4 else "*i16"
        kind: dict[str, Any] = {"PASSES": passes, "IS_BFLOAT16": is_bfloat16}
        scan: dict[str, Any] = {"PASSES": passes, "INFINITY": infinity, "BLOCK": quantile_launch.BLOCK}
        for digit in (0, passes - 1):
            yield Case(
                f"histogram_kernel-{bits[1:]}-{digit}",
                abs_quantile.histogram_kernel,
                {"x_ptr": bits, "workspace_ptr": "*i64", **scan_numbers},
                scan | {"PASS": digit},
                quantile_launch.NUM_WARPS,
            )
        yield Case(
            f"finish_kernel-{bits[1:]}",
            abs_quantile.finish_kernel,
            {"workspace_ptr": "*i64", "out_ptr": "*fp32", "index": "i64", "weight": "fp32"},
            kind,
            quantile_launch.NUM_WARPS,
        )
        yield Case(
            f"single_program_kernel-{bits[1:]}",
            abs_quantile.single_program_kernel,
            {
                "x_ptr": bits,
                "out_ptr": "*fp32",
                "n": "i32",
                "blocks": "i32",
                "index": "i32",
                "weight": "fp32",
            },
            kind | scan,
            quantile_launch.NUM_WARPS,
        )


_IMAGE_INTEGERS = {
    "plane": "i32",
    "pixels": "i32",
    "width": "i32",
    "channels": "i32",
    "all_channels": "i32",
    "out_channels": "i32",
    "first": "i32",
    "out_first": "i32",
    "chunk_pixels": "i32",
    "chunks": "i32",
    "channel_blocks": "i32",
}
_IMAGE_DIVISIBLE = (
    "plane",
    "pixels",
    "width",
    "channels",
    "all_channels",
    "out_channels",
    "first",
    "out_first",
)


def _image_case(name: str, kernel: Any, tensors: dict[str, str | None], ragged: bool, **options: Any) -> Case:
    """A kernel that walks 64 channels, or with `ragged` 15 and no multiple of anything."""
    block = image_launch.channel_block(15 if ragged else 64)
    tile = {"BLOCK_PIXELS": image_launch.TILE // block, "BLOCK_CHANNELS": block}
    numbers = {key: kind for key, kind in _IMAGE_INTEGERS.items() if key in kernel.arg_names}
    # A plane of more than 2^31 elements, and images beyond that, with the ragged sizes.
    if ragged and "plane" in numbers:
        numbers["plane"] = "i64"
    divisible = ("chunk_pixels",) if ragged else ("chunk_pixels", *_IMAGE_DIVISIBLE)
    types = tensors | numbers
    return Case(name, kernel, types, tile | options, image_launch.NUM_WARPS, divisible)


def norm_cases() -> Iterator[Case]:
    """channel_statistics, group_norm_silu, and what group_norm_silu_conv makes of them."""
    for dtype, ragged in (("fp32", False), ("bf16", False), ("fp16", True)):
        label = f"{dtype}-ragged" if ragged else dtype
        x, out, affine = {"x_ptr": f"*{dtype}"}, {"out_ptr": f"*{dtype}"}, {"affine_ptr": "*fp32"}
        sums = {"s1_ptr": "*fp32", "s2_ptr": "*fp32"}
        yield _image_case(
            f"chunk_statistics_kernel-{label}",
            channel_statistics.chunk_statistics_kernel,
            x | {"out_ptr": "*fp64"},
            ragged,
        )
        for upsample in (False, True):
            yield _image_case(
                f"activation_kernel-{label}{'-upsample' if upsample else ''}",
                group_norm_silu.activation_kernel,
                x | affine | out,
                ragged,
                UPSAMPLE=upsample,
            )
        yield _image_case(
            f"activation_kernel-{label}-plain",
            group_norm_silu.activation_kernel,
            {**x, "affine_ptr": None, **out},
            ragged,
            UPSAMPLE=False,
        )
        yield _image_case(
            f"gradient_sums_kernel-{label}",
            group_norm_silu_bwd.gradient_sums_kernel,
            {"dout_ptr": f"*{dtype}", **x, **affine, **sums},
            ragged,
        )
        yield _image_case(
            f"input_gradient_kernel-{label}",
            group_norm_silu_bwd.input_gradient_kernel,
            {
                "dout_ptr": f"*{dtype}",
                **x,
                **affine,
                "k1_ptr": "*fp32",
                "k2_ptr": "*fp32",
                "dx_ptr": f"*{dtype}",
            },
            ragged,
        )
        yield from _small_norm_cases(dtype, label, ragged)


def _small_norm_cases(dtype: str, label: str, ragged: bool) -> Iterator[Case]:
    """The kernels between the passes, at their largest blocks, or with `ragged` at their smallest."""
    divisible = () if ragged else (*_IMAGE_DIVISIBLE, "chunk_pixels")
    sums = {"s1_ptr": "*fp32", "s2_ptr": "*fp32"}
    terms = 2 if ragged else image_launch.MAX_CHUNKS
    tile = {"BLOCK_CHANNELS": image_launch.SUM_CHANNELS}

    def small(kernel: Any, types: dict[str, str | None], num_warps: int, **constexprs: Any) -> Case:
        numbers = {
            name: _IMAGE_INTEGERS.get(name, "i32")
            for name in kernel.arg_names
            if name not in types and name not in constexprs
        }
        name = f"{kernel.__name__}-{label}"
        return Case(name, kernel, types | numbers, constexprs, num_warps, divisible)

    yield small(
        channel_statistics.combine_statistics_kernel,
        {"partial_ptr": "*fp64", "out_ptr": "*fp64"},
        image_launch.NUM_WARPS,
        BLOCK_CHUNKS=terms,
        **tile,
    )
    block = 2 if ragged else 1024
    group = {"IMAGES": 1 if ragged else 16, "BLOCK": block}
    per_frame = {"SCALE_PER_FRAME": ragged, "SHIFT_PER_FRAME": not ragged}
    affine_types = {"weight_ptr": f"*{dtype}", "bias_ptr": f"*{dtype}", "scale_ptr": f"*{dtype}"}
    yield small(
        group_norm_silu.fold_kernel,
        {
            "statistics_ptr": "*fp64",
            **affine_types,
            "shift_ptr": f"*{dtype}",
            "out_ptr": "*fp32",
            "eps": "fp32",
        },
        max(1, block // 256),
        **group,
        **per_frame,
    )
    yield small(
        group_norm_silu_bwd.sum_terms_kernel,
        {"a_ptr": "*fp32", "b_ptr": "*fp32", "a_out_ptr": f"*{dtype}", "b_out_ptr": f"*{dtype}"},
        image_launch.NUM_WARPS,
        BLOCK_TERMS=terms,
        **tile,
    )
    yield small(
        group_norm_silu_bwd.group_means_kernel,
        {**sums, "affine_ptr": "*fp32", "k1_ptr": "*fp32", "k2_ptr": "*fp32", "per_element": "fp32"},
        max(1, block // 256),
        **group,
    )
    yield small(
        group_norm_silu_bwd.modulation_gradients_kernel,
        {
            **sums,
            **affine_types,
            "dweight_ptr": "*fp32",
            "dbias_ptr": "*fp32",
            "dscale_ptr": f"*{dtype}",
            "dshift_ptr": f"*{dtype}",
        },
        image_launch.NUM_WARPS,
        BLOCK_FRAMES=16,
        BLOCK_CHANNELS=32,
        **per_frame,
    )


_WIDTHS = {"bf16": 2, "fp16": 2, "fp32": 4}
# (dtype, frames, width) of the kernels that hold all frames, and (dtype, width, relative) of those that do not.
_PACKED = (
    ("bf16", 16, 32),
    ("bf16", 16, 64),
    ("bf16", 16, 128),
    ("bf16", 32, 64),
    ("bf16", 32, 128),
    ("bf16", 64, 32),
    ("bf16", 64, 64),
    ("bf16", 64, 128),
    ("fp32", 16, 32),
    ("fp32", 16, 64),
    ("fp32", 32, 32),
)
_FLASH = (
    ("bf16", 32, False),
    ("bf16", 64, False),
    ("bf16", 64, True),
    ("bf16", 128, True),
    ("bf16", 128, False),
    ("fp32", 32, False),
    ("fp32", 64, False),
    ("fp32", 64, True),
    ("fp32", 128, False),
    ("fp32", 128, True),
)


def attention_cases(wgmma: bool) -> Iterator[Case]:
    """temporal_attention and spatial_attention, with bias and, where there can be, segments; and ragged sizes."""
    for dtype, frames, width in _PACKED:
        if not packed_launch.is_packed(frames, width, _WIDTHS[dtype], wgmma):
            continue
        yield from _packed_cases(f"{dtype}-F{frames}-d{width}", dtype, frames, width, wgmma)
    yield from _packed_cases("fp16-ragged", "fp16", 5, 20, wgmma)
    for dtype, width, relative in _FLASH:
        yield from _flash_cases(dtype, width, relative, wgmma)
    for channels, width in ((64, 32), (64, 64), (128, 32), (128, 64)):
        yield _block_case("bf16", channels, width)
    yield _block_case("fp16", 96, 48)
    for dtype in ("fp32", "bf16"):
        yield _attention_case(
            f"sum_diagonals_kernel-{dtype}",
            spatial_attention.sum_diagonals_kernel,
            {"partial_ptr": "*fp32", "out_ptr": f"*{dtype}"},
            (),
            {"BLOCK_ROWS": 16, "BLOCK_COLUMNS": 64},
        )


def _attention_case(
    name: str,
    kernel: Any,
    tensors: dict[str, str | None],
    divisible: tuple[str, ...],
    constexprs: dict[str, Any],
    num_warps: int = 4,
    num_stages: int = 3,
) -> Case:
    constexprs = {key: value for key, value in constexprs.items() if key in kernel.arg_names}
    types = {key: tensors.get(key, "i32") for key in kernel.arg_names if key not in constexprs}
    return Case(name, kernel, types, constexprs, num_warps, divisible, num_stages)


def _attention_tensors(dtype: str) -> dict[str, str | None]:
    pointers = ("qkv_ptr", "bias_ptr", "out_ptr", "dout_ptr", "dqkv_ptr")
    single = {"partial_ptr": "*fp32", "log_sum_ptr": "*fp32", "delta_ptr": "*fp32", "scale": "fp32"}
    return {**dict.fromkeys(pointers, f"*{dtype}"), **single, "segment_ids_ptr": "*i64"}


def _packed_cases(label: str, dtype: str, frames: int, width: int, wgmma: bool) -> Iterator[Case]:
    plan = packed_launch.packed_launch(1, 4096, frames, 8, width, _WIDTHS[dtype], 1000, wgmma)
    constexprs = {
        "BIAS_PER_SAMPLE": False,
        "PIXELS": plan.pixels,
        "FRAMES": plan.frames,
        "WIDTH": triton_flash.width_block(width),
        "PRECISION": "tf32x3" if dtype == "fp32" else "ieee",
    }
    divisible = ("frames", "pixels", "group_pixels", "width") if width % 16 == 0 else ()
    tensors, sizes = _attention_tensors(dtype), (plan.num_warps, plan.num_stages)
    kernels = triton_packed.packed_kernel, triton_packed.packed_bwd_kernel
    yield _attention_case(f"packed_kernel-{label}", kernels[0], tensors, divisible, constexprs, *sizes)
    if plan.separate:
        for absent, part in (("partial_ptr", "dqkv"), ("dqkv_ptr", "dbias")):
            name = f"packed_bwd_kernel-{label}-{part}"
            yield _attention_case(name, kernels[1], {**tensors, absent: None}, divisible, constexprs, *sizes)
    else:
        name = f"packed_bwd_kernel-{label}"
        yield _attention_case(name, kernels[1], tensors, divisible, constexprs, *sizes)


def _block_case(dtype: str, channels: int, width: int) -> Case:
    heads = channels // width
    assert block_launch.is_fused(16, channels, heads, _WIDTHS[dtype])
    weights = ("norm_weight_ptr", "norm_bias_ptr", "qkv_weight_ptr", "out_weight_ptr", "out_bias_ptr")
    tensors = {**_attention_tensors(dtype), **dict.fromkeys(("x_ptr", *weights), f"*{dtype}"), "eps": "fp32"}
    constexprs = {
        "BIAS_PER_SAMPLE": False,
        "PIXELS": block_launch.block_launch(1, 4096, channels, 132).pixels,
        "FRAMES": block_launch.MAX_FRAMES,
        "WIDTH": triton_flash.width_block(width),
        "CHANNELS": triton_flash.width_block(channels),
        "PRECISION": "ieee",
    }
    name = f"block_kernel-{dtype}-C{channels}-d{width}"
    divisible = ("pixels", "group_pixels", "width")
    return _attention_case(
        name, triton_fused.block_kernel, tensors, divisible, constexprs, block_launch.NUM_WARPS, 1
    )


def _flash_cases(dtype: str, width: int, relative: bool, wgmma: bool) -> Iterator[Case]:
    label = f"{dtype}-d{width}-{'table' if relative else 'matrix'}"
    tensors = _attention_tensors(dtype) | ({"segment_ids_ptr": None} if relative else {})
    common = {
        "RELATIVE": relative,
        "BIAS_PER_SAMPLE": False,
        "WIDTH": width,
        "PRECISION": "tf32x3" if dtype == "fp32" else "ieee",
    }
    divisible = ("length", "width", "columns", *(() if relative else ("inner", "bias_columns")))
    for kernel in (
        triton_flash.flash_kernel,
        triton_flash.flash_bwd_queries_kernel,
        triton_flash.flash_bwd_keys_kernel,
    ):
        backward = kernel is not triton_flash.flash_kernel
        blocks = attention_launch.flash_blocks(width, _WIDTHS[dtype], wgmma, relative, backward)
        constexprs = common | {"QUERIES": blocks.queries, "KEYS": blocks.keys}
        sizes = (blocks.num_warps, blocks.num_stages)
        yield _attention_case(f"{kernel.__name__}-{label}", kernel, tensors, divisible, constexprs, *sizes)
    # The frames of a video are many, or were held at once; a row of an image may be short.
    for columns in (16, 32, 64) if relative else (128,):
        images = attention_launch.Sequences(16, 64 * columns, 1, 8, width, columns, 1, 1, 0)
        plan = attention_launch.bias_gradient_launch(images, 1, _WIDTHS[dtype], 132, wgmma)
        if plan.block == columns or not relative:
            yield _attention_case(
                f"bias_gradient_kernel-{label}-{plan.block}",
                triton_flash.bias_gradient_kernel,
                tensors,
                divisible,
                common | {"BLOCK": plan.block, "PART": min(plan.part, width)},
                plan.num_warps,
                plan.num_stages,
            )


def single_element_cases() -> Iterator[Case]:
    """Arguments that equal 1 become constants: one sample of one element."""
    ones = ("n", "groups", "blocks", "splits", "index", *_IMAGE_INTEGERS, "num_groups", "group_channels")
    ones = (*ones, "frames", "terms", "group_pixels", "heads", "length", "inner", "columns", "bias_columns")
    ones = (*ones, "bias_plane", "sequences", "groups", "tiles")
    attention = attention_cases(wgmma=True)
    for case in (*step_cases(), *noise_cases(), *quantile_cases(), *norm_cases(), *attention):
        if any(part in case.name for part in ("ragged", "single_program", "finish", "fp32-d32-matrix")):
            types = {name: kind for name, kind in case.types.items() if name not in ones}
            constants = {name: 1 for name in ones if name in case.types}
            yield replace(case, name=f"{case.name}-one", types=types, constexprs=case.constexprs | constants)


def compile_case(case: Case, capability: int) -> Result:
    """Compiles as the just-in-time compiler does for aligned tensors, of 16 k elements where VECTOR allows."""
    order = case.kernel.arg_names
    absent = {name: None for name, kind in case.types.items() if kind is None}
    constexprs = {**case.constexprs, **absent}
    signature = {name: "constexpr" if name in constexprs else case.types[name] for name in order}
    sizes = (*case.divisible, *(("groups", "n") if case.constexprs.get("VECTOR", True) else ()))
    divisible = [
        name
        for name in order
        if signature[name].startswith("*") or (name in sizes and name not in constexprs)
    ]
    attributes = {(order.index(name),): [["tt.divisibility", 16]] for name in divisible}
    source = ASTSource(fn=case.kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    compiled = triton.compile(source, target=target, options=options)
    ptx = compiled.asm["ptx"]
    return Result(
        case.name,
        **_resources(ptx),
        shared_bytes=compiled.metadata.shared,
        loads=_widths(ptx, "ld"),
        stores=_widths(ptx, "st"),
    )


def _resources(ptx: str) -> dict[str, int]:
    architecture = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={architecture}", str(path)]
        report = subprocess.run(
            [*command, "-o", str(path.with_suffix(".cubin"))], capture_output=True, text=True, check=True
        ).stderr
    return {
        "registers": int(re.findall(r"Used (\d+) registers", report)[0]),
        "spill_bytes": sum(int(count) for count in re.findall(r"(\d+) bytes spill", report)),
    }


def _widths(ptx: str, access: str) -> list[int]:
    found = re.findall(rf"\b{access}\.global(?:\.\w+::\w+)*(?:\.v(\d))?\.[bfsu](\d+)", ptx)
    return sorted(int(lanes or 1) * int(bits) // 8 for lanes, bits in found)


def main() -> None:
    """Compiles every case for the compute capability (as 90) given on the command line."""
    capability = int(sys.argv[1])
    every = (*step_cases(), *noise_cases(), *quantile_cases(), *norm_cases(), *single_element_cases())
    for case in (*every, *attention_cases(wgmma=capability == 90)):
        print(json.dumps(asdict(compile_case(case, capability))), flush=True)


if __name__ == "__main__":
    main()

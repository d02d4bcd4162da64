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
from vdm_kernels.ops.philox_normal import triton_kernels as philox_normal
from vdm_kernels.ops.q_sample import triton_kernels as q_sample
from vdm_kernels.ops.step import launch, triton_step


@dataclass(frozen=True)
class Case:
    """One specialization: `types` names the type of every argument that is no constexpr; None is an absent tensor."""

    name: str
    kernel: Any
    types: dict[str, str | None]
    constexprs: dict[str, Any]
    num_warps: int = launch.NUM_WARPS


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


def single_element_cases() -> Iterator[Case]:
    """Arguments that equal 1 become constants: one sample of one element."""
    ones = ("n", "groups", "blocks", "splits", "index")
    for case in (*step_cases(), *noise_cases(), *quantile_cases()):
        if any(part in case.name for part in ("ragged", "single_program", "finish")):
            types = {name: kind for name, kind in case.types.items() if name not in ones}
            constants = {name: 1 for name in ones if name in case.types}
            yield replace(case, name=f"{case.name}-one", types=types, constexprs=case.constexprs | constants)


def compile_case(case: Case, capability: int) -> Result:
    """Compiles as the just-in-time compiler does for aligned tensors, of 16 k elements where VECTOR allows."""
    order = case.kernel.arg_names
    absent = {name: None for name, kind in case.types.items() if kind is None}
    constexprs = {**case.constexprs, **absent}
    signature = {name: "constexpr" if name in constexprs else case.types[name] for name in order}
    sizes = ("groups", "n") if case.constexprs.get("VECTOR", True) else ()
    divisible = [
        name
        for name in order
        if signature[name].startswith("*") or (name in sizes and name not in constexprs)
    ]
    attributes = {(order.index(name),): [["tt.divisibility", 16]] for name in divisible}
    source = ASTSource(fn=case.kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": case.num_warps})
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
    for case in (*step_cases(), *noise_cases(), *quantile_cases(), *single_element_cases()):
        print(json.dumps(asdict(compile_case(case, int(sys.argv[1])))), flush=True)


if __name__ == "__main__":
    main()

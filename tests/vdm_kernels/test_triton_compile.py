"""Every Triton kernel compiles for sm_80 and sm_90, without a GPU, and into what its launch arithmetic assumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vdm_kernels
from vdm_kernels.ops.channel_statistics import launch as image_launch
from vdm_kernels.ops.step import launch
from vdm_kernels.ops.temporal_attention import launch as packed_launch

pytest.importorskip("triton", reason="Triton is published for Linux only")
pytestmark = pytest.mark.slow
CAPABILITIES = (80, 90)
SCRIPT = Path(__file__).with_name("triton_compile.py")
# A thread block's static limit; only attention, which multiplies tiles, asks for more: what a block may have on Hopper,
# and on the smallest of the GPUs that run code for sm_80.
SHARED_LIMIT = 48 * 1024
ATTENTION_SHARED_LIMIT = {80: 99 * 1024, 90: 227 * 1024}
REGISTERS = 65_536  # of a multiprocessor
SHARED_OF_MULTIPROCESSOR = 164 * 1024  # of an A100; an H100 has more
ATTENTION_KERNELS = ("packed_", "flash_", "bias_gradient_", "block_")
STEP_KERNELS = ("step_kernel", "step_bwd_kernel", "philox_normal_kernel", "q_sample_kernel")
IMAGE_KERNELS = {
    "chunk_statistics_kernel": image_launch.PROGRAMS_PER_SM,
    "activation_kernel": image_launch.PROGRAMS_PER_SM,
    "gradient_sums_kernel": image_launch.BACKWARD_PROGRAMS_PER_SM,
    "input_gradient_kernel": image_launch.BACKWARD_PROGRAMS_PER_SM,
}


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[str, Any]]]:
    """The reports of all kernels by compute capability, from one process for each."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(vdm_kernels.__file__).parents[1])  # the package under test
    processes = {
        capability: subprocess.Popen(
            [sys.executable, str(SCRIPT), str(capability)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for capability in CAPABILITIES
    }
    reports = {}
    for capability, process in processes.items():
        output, errors = process.communicate()
        assert process.returncode == 0, errors[-4000:]
        reports[capability] = [json.loads(line) for line in output.splitlines()]
    return reports


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_kernel_spills(results: dict[int, list[dict[str, Any]]], capability: int) -> None:
    assert {
        report["name"]: report["spill_bytes"] for report in results[capability] if report["spill_bytes"]
    } == {}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_shared_memory_fits(results: dict[int, list[dict[str, Any]]], capability: int) -> None:
    for report in results[capability]:
        attention = report["name"].startswith(ATTENTION_KERNELS)
        limit = ATTENTION_SHARED_LIMIT[capability] if attention else SHARED_LIMIT
        assert report["shared_bytes"] <= limit, report["name"]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_wave_of_attention_programs_is_resident(
    results: dict[int, list[dict[str, Any]]], capability: int
) -> None:
    reports = {report["name"]: report for report in results[capability]}
    for kernel, programs in (
        ("packed_kernel", packed_launch.FORWARD_PROGRAMS_PER_SM),
        ("packed_bwd_kernel", packed_launch.BACKWARD_PROGRAMS_PER_SM),
    ):
        report = reports[f"{kernel}-bf16-F16-d32"]
        assert programs * 128 * _allocated(report) <= REGISTERS, kernel
        # With a KiB to each program that the system keeps.
        assert programs * (report["shared_bytes"] + 1024) <= SHARED_OF_MULTIPROCESSOR, kernel


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_aligned_projections_move_16_bytes_a_thread(
    results: dict[int, list[dict[str, Any]]], capability: int
) -> None:
    for report in results[capability]:
        kernel, *labels = report["name"].split("-")
        if kernel == "packed_kernel" and "ragged" not in labels:
            assert set(report["stores"]) == {16}, report["name"]
            # The bias is read element by element, and once.
            assert 16 in report["loads"], report["name"]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_wave_of_step_programs_is_resident(
    results: dict[int, list[dict[str, Any]]], capability: int
) -> None:
    for report in results[capability]:
        if report["name"].split("-")[0] not in STEP_KERNELS:
            continue
        backward = "bwd" in report["name"]
        programs = launch.BACKWARD_PROGRAMS_PER_SM if backward else launch.PROGRAMS_PER_SM
        assert programs * 32 * launch.NUM_WARPS * _allocated(report) <= REGISTERS, report["name"]
        if "ragged" not in report["name"]:
            assert report["shared_bytes"] == 0, "the noise should not move between threads"


def _allocated(report: dict[str, Any]) -> int:
    """Registers of a thread, in the units in which they are given out."""
    return -(-report["registers"] // 8) * 8


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_wave_of_image_programs_is_resident(
    results: dict[int, list[dict[str, Any]]], capability: int
) -> None:
    checked = set()
    for report in results[capability]:
        kernel, dtype, *options = report["name"].split("-")
        # Upsampling writes four times what it reads: stores wait for memory, not the programs for registers.
        if kernel in IMAGE_KERNELS and "ragged" not in options and "upsample" not in options:
            threads = 32 * image_launch.NUM_WARPS
            assert IMAGE_KERNELS[kernel] * threads * _allocated(report) <= REGISTERS, report["name"]
            checked.add((kernel, dtype))
    assert checked == {(kernel, dtype) for kernel in IMAGE_KERNELS for dtype in ("fp32", "bf16")}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_aligned_videos_move_in_vectors(results: dict[int, list[dict[str, Any]]], capability: int) -> None:
    """16 bytes a thread for float32, 8 for a 16-bit type; never an element at a time."""
    widths = {report["name"]: (report["loads"], report["stores"]) for report in results[capability]}
    loads, stores = widths["step_kernel-fp32-fp32-ancestral-v"]
    assert loads.count(16) == 3  # z, prediction, uncond; the rest is per-sample scalars
    assert stores == [16]
    loads, stores = widths["step_kernel-bf16-bf16-ancestral-eps"]
    assert min(stores) == 8
    assert 2 not in loads
    assert widths["philox_normal_kernel-fp32"][1] == [16]
    assert widths["philox_normal_kernel-bf16"][1] == [8]
    assert widths["q_sample_kernel-fp32"][1] == [16, 16]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_channels_last_images_move_16_bytes_a_thread(
    results: dict[int, list[dict[str, Any]]], capability: int, dtype: str
) -> None:
    widths = {report["name"]: (report["loads"], report["stores"]) for report in results[capability]}
    for kernel in IMAGE_KERNELS:
        loads, stores = widths[f"{kernel}-{dtype}"]
        assert set(loads) == {16}, kernel
        sums = {"chunk_statistics_kernel": 8, "gradient_sums_kernel": 4}  # float64, float32
        assert set(stores) == {sums.get(kernel, 16)}, kernel
    assert set(widths[f"activation_kernel-{dtype}-upsample"][1]) == {16}

"""The benchmark harness on made workloads: what it times, what it refuses, what it skips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODULE = """
import torch
import vdm_kernels
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Work, Workload

TABLE = Table(
    op="abs_quantile",
    cpu=(),
    cuda=(),
    quick={"preset": "small", "B": 2, "guided": True, "off": False},
    directions=("fwd",),
    baselines=("eager", "reference"),
    libraries=("same", "wrong", "not finite", "raises", "absent"),
    ours={"cpu": ()},
)


def raises(x):
    raise RuntimeError("too many elements\\nsecond line")


def make(key: RowKey) -> Workload:
    x = torch.linspace(-1, 1, 64).view(2, 32)
    return Workload(
        call=lambda x: vdm_kernels.abs_quantile(x, 0.9),
        plain=lambda x: x.abs().quantile(0.9, dim=1),
        inputs=(x,),
        libraries={
            "same": lambda x: x.abs().double().quantile(0.9, dim=1).float(),
            "wrong": lambda x: x.quantile(0.9, dim=1),
            "not finite": lambda x: x.abs().quantile(0.9, dim=1) * float("nan"),
            "raises": raises,
            "absent": "pip install absent",
        },
        work={"fwd": Work(256, 1000)},
    )


def test_made(row: Row) -> None:
    row.measure(make)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def run(folder: Path, run_benchmarks: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """The output and the rows, by backend, of a quick run of `MODULE`."""
    done, rows = run_benchmarks(folder, MODULE, "--benchmark-min-rounds=4")
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout, {row["name"]: row for row in rows}


def test_a_wrong_result_fails_and_has_no_row(run: tuple[str, dict[str, Any]]) -> None:
    output, rows = run
    assert set(rows) == {"eager", "reference", "same"}
    assert "2 failed, 3 passed, 2 skipped" in output
    assert "result 0 is off by" in output
    assert "result 0 is off by inf" in output


def test_a_baseline_that_cannot_run_is_skipped_in_its_own_words(run: tuple[str, dict[str, Any]]) -> None:
    output, _ = run
    assert "raises: too many elements" in output
    assert "absent: pip install absent" in output


def test_every_row_has_the_documented_keys(run: tuple[str, dict[str, Any]]) -> None:
    for backend, row in run[1].items():
        info = row["extra_info"]
        assert (info["op"], info["case"], info["backend"]) == ("abs_quantile", "small-B2-guided", backend)
        assert (info["dtype"], info["direction"], info["device"]) == ("float32", "fwd", "cpu")
        assert {"python", "torch", "triton", "vdm", "native", "cuda", "cpu"} <= set(info["versions"])
    assert run[1]["reference"]["extra_info"]["served_by"] == {"abs_quantile": ["reference"]}


def test_share_of_limit_is_the_roofline_over_the_median(run: tuple[str, dict[str, Any]]) -> None:
    row = run[1]["eager"]
    info, median = row["extra_info"], row["stats"]["median"]
    assert info["gbps"] == pytest.approx(256 / median / 1e9)
    assert info["tflops"] == pytest.approx(1000 / median / 1e12)
    shortest = max(256 / info["limit"]["gbps"] / 1e9, 1000 / info["limit"]["tflops"] / 1e12)
    assert info["share_of_limit"] == pytest.approx(shortest / median)


def test_command_line_wins_over_the_defaults(run: tuple[str, dict[str, Any]]) -> None:
    options = run[1]["eager"]["options"]
    assert (options["min_rounds"], options["max_time"]) == (4, 0.1)


def test_results_do_not_name_the_host(run: tuple[str, dict[str, Any]], folder: Path) -> None:
    assert "node" not in json.loads((folder / "results.json").read_text())["machine_info"]

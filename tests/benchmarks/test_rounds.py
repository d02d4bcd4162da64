"""Rows of ours in turn with the fastest baseline, on made calls that take known times by a made clock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest

# In rows of ours the machine changes its pace after every turn of the baseline, and on the whole it is slower than
# for the rows before. In `alone` no baseline runs, in `memory` some, and peak memory is reported.
MODULE = """
import weakref

import torch
import vdm_kernels
from harness.rounds import CLOCKS
from harness.row import Row
from harness.table import RowKey, Table
from harness.workload import Workload
from vdm_kernels.testing import record_backends

TABLE = Table(
    op="abs_quantile",
    cpu=(),
    cuda=(),
    quick={"preset": "small"},
    directions=("short", "long", "memory", "alone"),
    baselines=("eager",),
    libraries=("fast", "slow", "another model"),
    ours={"cpu": ("vdm", "reference")},
)
MILLISECONDS = {
    "short": {"eager": 10, "fast": 8, "slow": 9, "another model": 2, "ours": 0.4},
    "long": {"eager": 500, "fast": 400, "slow": 450, "another model": 100, "ours": 20},
}
MILLISECONDS["alone"], MILLISECONDS["memory"] = MILLISECONDS["short"], MILLISECONDS["long"]
RUNS = {"alone": ("ours",), "memory": ("ours", "eager", "fast")}


class Machine:
    now = 0.0
    paces = 1, 2, 10
    row = ""
    calls = []  # of the row: who ran, on which backend
    fast = {}  # by direction, weak references to the call of that row


CLOCKS["cpu"] = lambda: Machine.now


def call_of(name, key):
    def call(x):
        if name not in RUNS.get(key.direction, name):
            raise RuntimeError("does not run here")
        with record_backends() as served:
            result = vdm_kernels.abs_quantile(x, 0.9)
        if Machine.row == "vdm" and name == "ours" and Machine.calls and Machine.calls[-1][0] == "fast":
            Machine.paces = (*Machine.paces[1:], Machine.paces[0])
        Machine.calls.append((name, served[0][1]))
        Machine.now += MILLISECONDS[key.direction][name] / 1e3 * Machine.paces[0]
        return result

    return call


def make(key: RowKey) -> Workload:
    calls = {name: call_of(name, key) for name in MILLISECONDS[key.direction]}
    if key.backend == "fast":
        Machine.fast[key.direction] = weakref.ref(calls["fast"])
    Machine.row, Machine.calls, Machine.paces = key.backend, [], (1, 2, 10)
    return Workload(
        call=calls.pop("ours"),
        plain=calls.pop("eager"),
        inputs=(torch.linspace(-1, 1, 64).view(2, 32),),
        libraries=calls,
        other_models=("another model",),
        memory=key.direction == "memory",
    )


def test_made(row: Row) -> None:
    row.measure(make)
    kept = [direction for direction, fast in Machine.fast.items() if fast() is not None]
    row.benchmark.extra_info.update(calls=Machine.calls, kept=kept)
"""


Rows = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, run_benchmarks: Callable[..., Any]) -> Rows:
    """The rows of a quick run of `MODULE` by direction and backend."""
    folder = tmp_path_factory.mktemp("benchmarks")
    done, rows = run_benchmarks(folder, MODULE, "--benchmark-max-time=0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    return {(row["extra_info"]["direction"], row["name"]): row for row in rows}


def turns(row: dict[str, Any]) -> list[tuple[str, int]]:
    """Who had how many calls, one after the other."""
    return [
        (name, len(list(calls))) for name, calls in groupby(row["extra_info"]["calls"], lambda call: call[0])
    ]


def test_only_rows_of_ours_have_a_baseline_beside_them(rows: Rows) -> None:
    backends = {"eager", "fast", "slow", "another model", "vdm", "reference"}
    assert {backend for direction, backend in rows if direction == "short"} == backends
    beside = [key for key, row in rows.items() if "beside" in row["extra_info"]]
    assert beside == [("short", "vdm"), ("long", "vdm"), ("memory", "vdm")]


def test_the_ratio_is_that_of_neighbouring_turns(rows: Rows) -> None:
    row = rows["short", "vdm"]
    assert rows["short", "fast"]["stats"]["median"] == pytest.approx(8e-3)
    assert row["stats"]["median"] == pytest.approx(
        0.4e-3 * 2
    )  # the middle pace: the rows' quotient would be 10
    beside = {"backend": "fast", "seconds": pytest.approx(8e-3 * 2), "ratio": pytest.approx(20)}
    assert row["extra_info"]["beside"] == beside


def test_a_turn_is_50_milliseconds_of_rounds_or_one_call(rows: Rows) -> None:
    # 3 calls a round, 42 rounds a turn; with the first, the checked call and those for the plan; at the end, an
    # untimed one of pytest-benchmark.
    first, *between, last = turns(rows["short", "vdm"])
    assert first == ("ours", 1 + 10 + 126)
    assert between == ([("fast", 7), ("ours", 126)] * 10)[:-1]
    assert last == ("ours", 1)
    assert turns(rows["long", "vdm"])[1:] == ([("fast", 1), ("ours", 3)] * 5)[:-1]


def test_both_sides_together_take_four_budgets_at_most(rows: Rows) -> None:
    assert rows["alone", "vdm"]["stats"]["rounds"] == 10 * 42  # 0.5 s / 50.4 ms
    assert rows["short", "vdm"]["stats"]["rounds"] == 10 * 42
    assert rows["long", "reference"]["stats"]["rounds"] == 9 * 3  # 0.5 s / 60 ms
    assert rows["long", "vdm"]["stats"]["rounds"] == 5 * 3  # 4 · 0.5 s / (60 ms + 400 ms)


def test_the_baseline_stays_on_the_reference(rows: Rows) -> None:
    for direction in ("short", "long"):
        calls = rows[direction, "vdm"]["extra_info"]["calls"]
        assert {backend for name, backend in calls if name == "fast"} == {"reference"}


def test_another_group_frees_the_baseline(rows: Rows) -> None:
    assert rows["short", "vdm"]["extra_info"]["kept"] == ["short"]
    assert rows["long", "vdm"]["extra_info"]["kept"] == ["long"]
    assert rows["alone", "vdm"]["extra_info"]["kept"] == []
    assert {name for name, _ in turns(rows["alone", "vdm"])} == {"ours"}


def test_the_baseline_is_freed_before_memory_is_measured(rows: Rows) -> None:
    info = rows["memory", "vdm"]["extra_info"]
    assert info["beside"]["backend"] == "fast"
    assert "peak_bytes" in info
    assert info["kept"] == []

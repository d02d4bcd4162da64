"""Options and fixtures of `pytest benchmarks/ --benchmark-only`. See docs/benchmarks.md."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

sys.path.insert(
    0, str(Path(__file__).parent)
)  # for `harness`: these are scripts beside the packages, not in one

from harness.environment import devices, set_policies
from harness.rounds import CLOCKS, Budget
from harness.row import Row, Shared
from harness.table import RowKey, Table, expand

HEADER = pytest.StashKey[list[str]]()
STARTED = pytest.StashKey[float]()

# pytest-benchmark's options for both kinds of run; what the command line says wins.
DEFAULTS = {"columns": ["min", "median", "stddev", "rounds"]}
FULL = {"max_time": "1.0", "min_rounds": 5}
QUICK = {"max_time": "0.1", "min_rounds": 3}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="one small case of each op, in about two minutes")
    parser.addoption(
        "--time-limit", type=float, metavar="SECONDS", help="skip the rows that have not begun by then"
    )
    parser.addoption(
        "--device", choices=("cpu", "cuda"), help="only the rows of this device; default: every device"
    )


def pytest_configure(config: pytest.Config) -> None:
    given = {argument.split("=")[0] for argument in config.invocation_params.args}
    for name, value in {**DEFAULTS, **(QUICK if config.option.quick else FULL)}.items():
        if f"--benchmark-{name.replace('_', '-')}" not in given:
            setattr(config.option, f"benchmark_{name}", value)
    config.stash[HEADER] = set_policies()
    config.stash[STARTED] = time.monotonic()


def pytest_report_header(config: pytest.Config) -> list[str]:
    return config.stash[HEADER]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case per row of the module's table; a device that is not here is one skipped case."""
    if "row" not in metafunc.fixturenames:
        return
    table: Table = metafunc.module.TABLE
    quick = metafunc.config.option.quick
    params = []
    asked = metafunc.config.option.device
    for device in (asked,) if asked else ("cpu", "cuda"):
        if device not in devices():
            skip = pytest.mark.skip(reason=f"no {device} device")
            params.append(pytest.param(None, id=device, marks=skip))
            continue
        for key in expand(table, device, quick=quick):
            marks = [pytest.mark.benchmark(timer=CLOCKS[device])]
            if quick and key.backend in table.slow:
                marks.append(pytest.mark.skip(reason=f"{key.backend} of a whole network takes minutes"))
            params.append(pytest.param(key, id=str(key), marks=marks))
    metafunc.parametrize("row", params, indirect=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.option.time_limit
    if limit is not None and time.monotonic() - item.config.stash[STARTED] > limit:
        pytest.skip(f"the time limit of {limit:g} s is over")


@pytest.fixture(scope="session")
def shared() -> Shared:
    return Shared()


@pytest.fixture
def row(request: pytest.FixtureRequest, benchmark: BenchmarkFixture, shared: Shared) -> Iterator[Row]:
    """The row to measure."""
    options = request.config.option
    budget = Budget(float(options.benchmark_max_time), options.benchmark_min_rounds)
    key: RowKey = request.param
    yield Row(key, benchmark, budget, shared, options.quick)
    if key.device == "cuda":
        torch.cuda.empty_cache()


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Results are published: a host's name is nobody's business, and a row says the rest."""
    machine_info.pop("node", None)
    machine_info["cpu"].pop("flags", None)


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """`extra_info` says what a row is; the parameters behind it are no data."""
    for row in output_json["benchmarks"]:
        row["params"] = None

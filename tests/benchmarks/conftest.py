"""Runs the benchmark harness on a made module of benchmarks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def run_benchmarks() -> Callable[..., tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]]:
    """(folder, text of a module, options) -> what a quick run in a process of its own said, and its rows."""

    def run(
        folder: Path, module: str, *options: str
    ) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
        shutil.copy(BENCHMARKS / "conftest.py", folder)
        shutil.copytree(BENCHMARKS / "harness", folder / "harness")
        (folder / "test_made.py").write_text(module)
        (folder / "pytest.ini").write_text(
            "[pytest]\naddopts = -ra --strict-markers --import-mode=importlib\n"
        )
        results = folder / "results.json"
        options = ("--benchmark-only", "--quick", "--device", "cpu", f"--benchmark-json={results}", *options)
        root = os.pathsep.join(path for path in sys.path if path)  # the packages that this test sees
        done = subprocess.run(
            [sys.executable, "-m", "pytest", str(folder), *options],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        return done, json.loads(results.read_text())["benchmarks"]

    return run

"""`benchmarks/report.py` on small made results."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "report.py"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_report", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def row(backend: str, seconds: float, **info: Any) -> dict[str, Any]:
    """One benchmark, as pytest-benchmark writes it."""
    extra = {
        "op": "ancestral_step",
        "case": "B8-C3-F16-H64",
        "dtype": "float32",
        "direction": "fwd",
        "backend": backend,
        "device": "cpu",
        "device_name": "a processor",
        "threads": 2,
        "versions": {"torch": "2.13.0"},
        **info,
    }
    stats = {"median": seconds, "min": seconds / 2}
    return {"fullname": f"test_ancestral_step[{backend}]", "extra_info": extra, "stats": stats}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"benchmarks": rows}))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write(
        tmp_path / "results.json",
        row(
            "native",
            0.001,
            gbps=18.87,
            share_of_limit=0.5,
            peak_bytes=3_400_000,
            limit={"gbps": 37.74, "tflops": 0.233},
        ),
        row("eager", 0.01, gbps=1.887, share_of_limit=0.05),
        row("reference", 0.1),
        row("a library", 0.002),
        row("compile", 0.004),
        row("eager", 2.0, direction="bwd"),
        row("native", 0.5, direction="bwd", tflops=0.25),
        row("native", 3e-5, op="philox_normal"),
    )


def cells(markdown: str, *parts: str) -> list[str]:
    """The one table line that has all parts, as cells."""
    lines = [
        line for line in markdown.splitlines() if line.startswith("|") and all(part in line for part in parts)
    ]
    assert len(lines) == 1, lines
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_speed_is_against_eager_and_against_the_best_row_that_is_not_ours(
    report: ModuleType, results: Path
) -> None:
    text = report.tables(report.load([results]))
    native = cells(text, "**native**", "fwd", "1 ms")
    assert native == [
        "B8-C3-F16-H64",
        "float32",
        "fwd",
        "**native**",
        "1 ms",
        "10.0×",
        "2.00×",
        "18.9",
        "",
        "50%",
        "3 MB",
    ]
    assert cells(text, "a library")[5:7] == ["5.00×", "1.00×"]
    assert cells(text, "| compile |")[5:7] == ["2.50×", "0.50×"]
    assert cells(text, "reference")[5:7] == ["0.10×", "0.02×"]
    assert cells(text, "**native**", "bwd")[5:9] == ["4.00×", "4.00×", "", "0.25"]


def test_rounds_side_by_side_give_the_ratio_to_the_baseline_that_had_them(
    report: ModuleType, tmp_path: Path
) -> None:
    native = row("native", 0.001, beside={"backend": "eager", "seconds": 0.0031, "ratio": 3.0})
    alone = report.load([write(tmp_path / "alone.json", row("eager", 0.004), native)])
    assert cells(report.tables(alone), "native")[5:7] == ["3.00×", "3.00×"]
    both = write(tmp_path / "both.json", row("eager", 0.004), row("compile", 0.002), native)
    assert cells(report.tables(report.load([both])), "native")[5:7] == ["3.00×", "2.00×"]
    # The quotient of the shortest rounds.
    assert cells(report.tables(report.load([both], "min")), "native")[5:7] == ["4.00×", "2.00×"]


def test_rows_without_a_baseline_have_a_time_and_no_ratio(report: ModuleType, results: Path) -> None:
    text = report.tables(report.load([results]))
    assert cells(text, "30 µs")[4:7] == ["30 µs", "", ""]


def test_baselines_stand_before_ours(report: ModuleType, results: Path) -> None:
    rows = next(iter(report.grouped(report.load([results]).results).values()))
    assert [row.backend for row in rows] == ["eager", "compile", "a library", "reference", "native"]


def test_header_names_the_machine_once(report: ModuleType, results: Path) -> None:
    text = report.tables(report.load([results]))
    assert text.count("cpu: a processor, 2 CPU threads; torch 2.13.0") == 1
    assert text.count("limits of cpu in float32: 37.7 GB/s copy, 0.233 TFLOP/s arithmetic") == 1


def test_minimum_instead_of_median(report: ModuleType, results: Path) -> None:
    run = report.load([results], "min")
    assert min(row.seconds for row in run.results if row.op == "ancestral_step") == pytest.approx(0.0005)


def test_later_file_wins(report: ModuleType, results: Path, tmp_path: Path) -> None:
    later = write(tmp_path / "later.json", row("native", 0.005))
    run = report.load([results, later])
    assert len(run.results) == 8
    assert report.row_of(report.grouped(run.results)[run.results[0].group], "native").seconds == 0.005


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.3456, "12.3 s"),
        (0.12345, "123 ms"),
        (1e-3, "1 ms"),
        (4.56e-5, "45.6 µs"),
        (3.2e-8, "32 ns"),
        (1234.0, "1234 s"),
    ],
)
def test_seconds_are_readable(report: ModuleType, seconds: float, text: str) -> None:
    assert report.format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.5, "0.50×"), (9.996, "10.0×"), (12.34, "12.3×"), (345.6, "346×")]
)
def test_ratios_have_three_digits(report: ModuleType, ratio: float, text: str) -> None:
    assert report.format_ratio(ratio) == text


def test_comparison_shows_the_change_per_row_and_its_geometric_mean(
    report: ModuleType, results: Path, tmp_path: Path
) -> None:
    after = write(
        tmp_path / "after.json",
        row("native", 0.0005),
        row("native", 1.0, direction="bwd"),
        row("triton", 0.1),
    )
    text = report.comparison(report.load([results]), report.load([after]))
    assert cells(text, "ancestral_step", "| native |", "fwd")[6:] == ["1 ms", "500 µs", "2.00×"]
    assert cells(text, "| native |", "bwd")[6:] == ["500 ms", "1 s", "0.50×"]
    assert cells(text, "| triton |")[6:] == ["–", "100 ms", ""]
    assert cells(text, "| compile |")[6:] == ["4 ms", "–", ""]
    assert cells(text, "ancestral_step", "native", "| 2 |")[-1] == "1.00×"


def test_command_line_writes_tables_plots_and_comparison(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), str(results), "--before", str(results), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "8 rows, 1 plots" in done.stdout
    assert (out / "comparison.md").read_text(encoding="utf-8").count("1.00×") >= 8
    assert "![ancestral_step-cpu-float32](ancestral_step-cpu-float32.png)" in (out / "report.md").read_text(
        encoding="utf-8"
    )
    with Image.open(out / "ancestral_step-cpu-float32.png") as image:
        assert min(image.size) > 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"benchmarks": []}', "must hold at least one benchmark, got none"),
        ('{"benchmarks": [{"fullname": "other", "extra_info": {}, "stats": {}}]}', "must have op"),
        ("not JSON", "results.json must be JSON"),
    ],
)
def test_unusable_input_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(path), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_roofline_has_a_picture_where_there_is_arithmetic(report: ModuleType, tmp_path: Path) -> None:
    limit = {"gbps": 40.0, "tflops": 0.4}
    rows = [
        row(backend, 0.001, op="conv", direction=direction, tflops=0.3, bytes=1e6, flops=3e8, limit=limit)
        for backend in ("eager", "native")
        for direction in ("fwd", "dx")
    ]
    plain = row("native", 0.001, gbps=18.87, bytes=1e6, flops=0, limit=limit)
    paths = report.rooflines(report.load([write(tmp_path / "results.json", *rows, plain)]), tmp_path)
    assert [path.name for path in paths] == ["conv-roofline-cpu-float32.png"]
    with Image.open(paths[0]) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 3

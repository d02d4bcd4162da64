"""Tables and plots from the JSON of `pytest benchmarks/ --benchmark-only --benchmark-json results.json`.

python benchmarks/report.py results.json --out report/             tables in report/report.md, PNGs of each op
python benchmarks/report.py after.json --before before.json --out report/      what changed between two runs
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OURS = ("vdm", "cuda", "triton", "native", "reference")
BASELINE_ORDER = ("eager", "compile")
COLOURS = {
    "vdm": "#0b5fa5",
    "cuda": "#0b5fa5",
    "native": "#0b5fa5",
    "triton": "#3f9bdc",
    "reference": "#b5d3ea",
    "eager": "#4d4d4d",
    "compile": "#8c8c8c",
}
LIBRARY_COLOURS = ("#d08a2e", "#b5582a", "#7d6b3d", "#c9b458")
BAR_HEIGHT = 0.22
COLUMNS = (
    *("case", "dtype", "direction", "backend", "time", "vs eager", "vs best baseline"),
    *("GB/s", "TFLOP/s", "share of limit", "peak memory"),
)


@dataclass(frozen=True)
class Result:
    """One row of a run."""

    op: str
    case: str
    dtype: str
    direction: str
    device: str
    backend: str
    seconds: float
    gbps: float | None
    tflops: float | None
    share_of_limit: float | None
    intensity: float | None = None  # FLOP per byte of the definition
    peak_bytes: int | None = None  # on top of what was there before the call
    beside: tuple[str, float] | None = None  # the baseline that took turns, and how many times its speed
    limit: tuple[float, float] | None = None  # GB/s and TFLOP/s of the machine

    @property
    def group(self) -> tuple[str, str, str, str, str]:
        """What rows that are compared with each other have in common."""
        return (self.op, self.device, self.dtype, self.direction, self.case)

    @property
    def key(self) -> tuple[str, ...]:
        """What the same row has in another run."""
        return (*self.group, self.backend)


@dataclass(frozen=True)
class Run:
    """All rows of one or more JSON files, and what they were measured with."""

    results: tuple[Result, ...]
    environment: tuple[str, ...]


def load(paths: Iterable[Path], statistic: str = "median") -> Run:
    """The rows of some files; a row that several files have is taken from the last.

    Args:
        paths: JSON files of pytest-benchmark.
        statistic: `median` or `min` of the rounds; of the minimum there are no ratios of turns.

    Raises:
        ValueError: a file is something else, has no rows, or rows that did not come from these benchmarks.
    """
    results: dict[tuple[str, ...], Result] = {}
    environment: dict[str, None] = {}
    for path in paths:
        try:
            rows = json.loads(path.read_text())["benchmarks"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"report: {path} must be JSON of pytest-benchmark, got {error}") from error
        if not rows:
            raise ValueError(f"report: {path} must hold at least one benchmark, got none")
        for row in rows:
            result = _result(row, path, statistic)
            results[result.key] = result
            lines = (_environment(row["extra_info"]), _limits(row["extra_info"]))
            environment.update(dict.fromkeys(line for line in lines if line is not None))
    return Run(tuple(results.values()), tuple(environment))


def _result(row: Mapping[str, Any], path: Path, statistic: str) -> Result:
    info = row["extra_info"]
    missing = [name for name in ("op", "case", "dtype", "direction", "device", "backend") if name not in info]
    if missing:
        raise ValueError(
            f"report: {path}: extra_info of {row.get('fullname')} must have {missing[0]}, got {sorted(info)}"
        )
    return Result(
        op=info["op"],
        case=info["case"],
        dtype=info["dtype"],
        direction=info["direction"],
        device=info["device"],
        backend=info["backend"],
        seconds=row["stats"][statistic],
        gbps=info.get("gbps"),
        tflops=info.get("tflops"),
        share_of_limit=info.get("share_of_limit"),
        intensity=info["flops"] / info["bytes"] if info.get("flops") else None,
        peak_bytes=info.get("peak_bytes"),
        limit=(info["limit"]["gbps"], info["limit"]["tflops"]) if "limit" in info else None,
        beside=(
            (info["beside"]["backend"], info["beside"]["ratio"])
            if "beside" in info and statistic == "median"
            else None
        ),
    )


def _environment(info: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in info.get("versions", {}).items())
    name, threads = info.get("device_name", "?"), info.get("threads", "?")
    return f"{info['device']}: {name}, {threads} CPU threads; {versions}"


def _limits(info: Mapping[str, Any]) -> str | None:
    if "limit" not in info:
        return None
    limit = info["limit"]
    copy, product = f"{limit['gbps']:.1f} GB/s copy", f"{limit['tflops']:.3g} TFLOP/s arithmetic"
    return f"limits of {info['device']} in {info['dtype']}: {copy}, {product}"


def grouped(results: Iterable[Result]) -> dict[tuple[str, ...], list[Result]]:
    """Results by what they are compared within, baselines first, then ours."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    return {group: sorted(rows, key=_backend_order) for group, rows in groups.items()}


def _backend_order(result: Result) -> tuple[int, int, str]:
    backend = result.backend
    if backend in BASELINE_ORDER:
        return (0, BASELINE_ORDER.index(backend), backend)
    return (2, -OURS.index(backend), backend) if backend in OURS else (1, 0, backend)


def row_of(rows: Iterable[Result], backend: str) -> Result | None:
    """The row of one backend in a group."""
    return next((row for row in rows if row.backend == backend), None)


def best_baseline(rows: Iterable[Result]) -> Result | None:
    """The fastest row in a group that is not ours."""
    return min((row for row in rows if row.backend not in OURS), key=lambda row: row.seconds, default=None)


def speed(row: Result, baseline: Result) -> float:
    """How many times as fast as a baseline: of turns where the row took them with it."""
    if row.beside is not None and row.beside[0] == baseline.backend:
        return row.beside[1]
    return baseline.seconds / row.seconds


def format_seconds(seconds: float) -> str:
    """Three digits and a unit: `1.23 ms`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return (
                f"{seconds / scale:.3g} {unit}" if seconds < 100 * scale else f"{seconds / scale:.0f} {unit}"
            )
    return f"{seconds / 1e-9:.3g} ns"


def format_ratio(ratio: float) -> str:
    """Three digits: `1.23×`, `12.3×`, `123×`."""
    digits = 2 if ratio < 9.995 else 1 if ratio < 99.95 else 0
    return f"{ratio:.{digits}f}×"


def _ratio(row: Result, baseline: Result | None) -> str:
    return "" if baseline is None else format_ratio(speed(row, baseline))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def tables(run: Run) -> str:
    """Markdown: one table per op and device."""
    lines = ["# Benchmarks", "", *(f"- {line}" for line in run.environment), ""]
    lines += [
        "`×` is how many times as fast as `eager`, or as the best row that is not ours, the row is: where the two were",
        "timed in turn, the median over pairs of turns, else the quotient of the two rows' times.",
        "",
    ]
    sections: dict[tuple[str, str], list[list[Result]]] = {}
    for (op, device, *_), rows in grouped(run.results).items():
        sections.setdefault((op, device), []).append(rows)
    for (op, device), groups in sections.items():
        lines += [
            f"## {op} ({device})",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [_table_line(row, rows) for rows in groups for row in rows]
        lines.append("")
    return "\n".join(lines)


def _table_line(row: Result, rows: Sequence[Result]) -> str:
    backend = f"**{row.backend}**" if row.backend in OURS and row.backend != "reference" else row.backend
    cells = [
        row.case,
        row.dtype,
        row.direction,
        backend,
        format_seconds(row.seconds),
        _ratio(row, row_of(rows, "eager")),
        _ratio(row, best_baseline(rows)),
        _number(row.gbps, ".1f"),
        _number(row.tflops, ".3g"),
        _number(row.share_of_limit, ".0%"),
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def comparison(before: Run, after: Run) -> str:
    """Markdown: the rows of both runs side by side, and the mean of the changes per op and backend."""
    old = {result.key: result for result in before.results}
    new = {result.key: result for result in after.results}
    lines = ["# Before and after", ""]
    lines += [f"- before: {line}" for line in before.environment] + [
        f"- after: {line}" for line in after.environment
    ]
    lines += ["", "`×` over 1 is faster than before.", ""]
    lines += ["| op | device | dtype | direction | case | backend | before | after | change |"]
    lines += ["|---|---|---|---|---|---|--:|--:|--:|"]
    changes: dict[tuple[str, str], list[float]] = {}
    for key in [*new, *(key for key in old if key not in new)]:
        first, second = (run[key].seconds if key in run else None for run in (old, new))
        change = ""
        if first is not None and second is not None:
            change = format_ratio(first / second)
            changes.setdefault((key[0], key[-1]), []).append(first / second)
        times = ["–" if seconds is None else format_seconds(seconds) for seconds in (first, second)]
        lines.append(f"| {' | '.join([*key, *times, change])} |")
    lines += ["", "| op | backend | rows | change, geometric mean |", "|---|---|--:|--:|"]
    for (op, backend), ratios in changes.items():
        lines.append(
            f"| {op} | {backend} | {len(ratios)} | {format_ratio(statistics.geometric_mean(ratios))} |"
        )
    return "\n".join(lines) + "\n"


def plot(run: Run, folder: Path) -> list[Path]:
    """One PNG per op, device and dtype: speed against `eager`, a panel per direction, bars per case."""
    matplotlib.use("Agg")
    figures: dict[tuple[str, str, str], dict[str, list[list[Result]]]] = {}
    for (op, device, dtype, direction, _), rows in grouped(run.results).items():
        if row_of(rows, "eager") is not None:
            figures.setdefault((op, device, dtype), {}).setdefault(direction, []).append(rows)
    paths = []
    for (op, device, dtype), directions in figures.items():
        backends = list(
            dict.fromkeys(row.backend for groups in directions.values() for rows in groups for row in rows)
        )
        colours = _colours(backends)
        most = max(sum(len(rows) + 1 for rows in groups) for groups in directions.values())
        size = (1.5 + 5.5 * len(directions), 1.4 + BAR_HEIGHT * most)
        figure, axes = plt.subplots(1, len(directions), figsize=size, squeeze=False, layout="constrained")
        for axis, (direction, groups) in zip(axes[0], directions.items()):
            _bars(axis, groups, colours)
            axis.set_title(direction)
        figure.suptitle(f"{op}, {device}, {dtype}: speed against eager (longer is faster)")
        path = folder / f"{op}-{device}-{dtype}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        paths.append(path)
    return paths


def rooflines(run: Run, folder: Path) -> list[Path]:
    """One PNG per op, device and dtype that has arithmetic to speak of: rate against FLOP per byte, under the roof.

    The rate counts the FLOP of the definition: a kernel that needs fewer of them, as Winograd convolution
    does, may stand above the roof.
    """
    figures: dict[tuple[str, str, str], list[Result]] = {}
    for row in run.results:
        if row.intensity is not None and row.limit is not None and row.tflops is not None:
            figures.setdefault((row.op, row.device, row.dtype), []).append(row)
    paths = []
    for (op, device, dtype), rows in figures.items():
        figure, axis = plt.subplots(figsize=(7.5, 5), layout="constrained")
        _roof(axis, rows)
        backends = list(dict.fromkeys(row.backend for row in sorted(rows, key=_backend_order)))
        for backend, colour in _colours(backends).items():
            for direction, marker in zip(("fwd", "dx", "bwd", "step"), "o^sD"):
                points = [row for row in rows if (row.backend, row.direction) == (backend, direction)]
                x = [row.intensity or math.nan for row in points]
                y = [row.tflops or math.nan for row in points]
                label = f"{backend} {direction}" if points else None
                axis.scatter(x, y, s=26, color=colour, marker=marker, label=label, alpha=0.85, linewidths=0)
        axis.set_xlabel("FLOP per byte that has to move")
        axis.set_ylabel("TFLOP/s of the definition")
        axis.legend(fontsize=7, ncols=2, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(f"{op}, {device}, {dtype}", fontsize=10)
        path = folder / f"{op}-roofline-{device}-{dtype}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        paths.append(path)
    return paths


def _roof(axis: Axes, rows: Sequence[Result]) -> None:
    """The machine's limits, in the units of the plot; the largest that any row was measured with."""
    gbps, tflops = (max(row.limit[i] for row in rows if row.limit is not None) for i in (0, 1))
    intensities = [row.intensity for row in rows if row.intensity is not None]
    low, high = min(intensities) / 3, max(intensities) * 3
    ridge = tflops * 1e3 / gbps
    corners = [low, ridge, high] if low < ridge < high else [low, high]
    roof = [min(tflops, gbps * x / 1e3) for x in corners]
    axis.loglog(corners, roof, color="black", linewidth=1.0)
    axis.annotate(
        f"{gbps:.0f} GB/s copy, {tflops:.3g} TFLOP/s arithmetic",
        (corners[0], roof[0]),
        fontsize=7,
        va="bottom",
    )


def _colours(backends: Iterable[str]) -> dict[str, str]:
    libraries = iter(LIBRARY_COLOURS * 3)
    return {backend: COLOURS.get(backend) or next(libraries) for backend in backends}


def _bars(axis: Axes, groups: Sequence[Sequence[Result]], colours: Mapping[str, str]) -> None:
    """Horizontal bars, the first case on top; each is labelled with its backend and its time."""
    position, ticks = 0.0, []
    longest = 1.0
    for rows in groups:
        eager = row_of(rows, "eager")
        assert eager is not None
        ticks.append((position + (len(rows) - 1) / 2, rows[0].case))
        for row in rows:
            length = speed(row, eager)
            longest = max(longest, length)
            axis.barh(position, length, height=0.85, color=colours[row.backend])
            label = f" {row.backend}, {format_seconds(row.seconds)} ({format_ratio(length)})"
            axis.text(length, position, label, va="center", fontsize=7)
            position += 1
        position += 1
    axis.axvline(1.0, color="black", linewidth=0.6, linestyle=":", zorder=0)
    axis.set_xlabel("speed / speed of eager", fontsize=8)
    axis.set_yticks([where for where, _ in ticks], [case for _, case in ticks], fontsize=8)
    axis.set_xlim(0, math.ceil(longest * 1.75))
    axis.set_ylim(position - 1.3, -0.7)
    axis.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 where the input is not usable."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of one machine")
    parser.add_argument("--before", type=Path, nargs="+", help="JSON files of an earlier run to compare with")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for report.md and the plots")
    parser.add_argument(
        "--statistic", choices=("median", "min"), default="median", help="which time of the rounds"
    )
    options = parser.parse_args(arguments)
    try:
        run = load(options.results, options.statistic)
        before = load(options.before, options.statistic) if options.before else None
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    text = tables(run)
    paths = [*plot(run, options.out), *rooflines(run, options.out)]
    text += "\n".join(f"![{path.stem}]({path.name})" for path in paths) + "\n"
    (options.out / "report.md").write_text(text, encoding="utf-8")
    if before is not None:
        (options.out / "comparison.md").write_text(comparison(before, run), encoding="utf-8")
    print(f"{options.out / 'report.md'}: {len(run.results)} rows, {len(paths)} plots")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

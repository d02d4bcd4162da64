"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vdm.data import atomic_file
from vdm.training.logs import read_log
from vdm.training.objective import LOGSNR_LOSSES


def smoothed(values: Sequence[float], *, window: int) -> np.ndarray:
    """Centred moving average that shortens at both ends; (len(values),) float64."""
    series = np.asarray(values, dtype=np.float64)
    half = max(0, window // 2)
    sums = np.concatenate([[0.0], np.cumsum(series)])
    index = np.arange(len(series))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(series))
    return (sums[high] - sums[low]) / (high - low)


def draw_loss_curve(log_path: Path, picture_path: Path) -> None:
    """Draw loss and loss per log-SNR range over steps from a `log.jsonl`; the picture is replaced atomically."""
    records = read_log(log_path)
    if not records:
        return
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    window = max(1, len(records) // 50)
    _draw_series(axes, records, "loss", window=window, label="loss", colour="C0", raw=True)
    for number, name in enumerate(LOGSNR_LOSSES):
        label = "λ " + name.removeprefix("loss_logsnr_").replace("_", " ")
        _draw_series(axes, records, name, window=window, label=label, colour=f"C{number + 1}", raw=False)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(loc="upper right", fontsize="small")
    with atomic_file(picture_path) as file:
        figure.savefig(file, format="png")


def _draw_series(
    axes: Any, records: list[dict[str, Any]], name: str, *, window: int, label: str, colour: str, raw: bool
) -> None:
    pairs = [(record["step"], record[name]) for record in records if name in record]
    if not pairs:
        return
    steps, values = [p[0] for p in pairs], [p[1] for p in pairs]
    if raw:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    width = 1.8 if raw else 0.9
    axes.plot(steps, smoothed(values, window=window), color=colour, linewidth=width, label=label)

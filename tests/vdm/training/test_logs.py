"""log.jsonl, its TensorBoard copy, and the curve."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from vdm.training.logs import RunLog, read_log, truncate_log
from vdm.training.plots import draw_loss_curve, smoothed


def no_warning(text: str) -> None:
    raise AssertionError(text)


def write_steps(folder: Path, steps: range, *, after: int) -> None:
    with RunLog(folder, step=after, warn=no_warning) as log:
        for step in steps:
            log.write(step, {"loss": step / 2})
        log.sync()


def test_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 8), after=0)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed in the middle
    write_steps(tmp_path, range(5, 10), after=4)
    records = read_log(tmp_path / "log.jsonl")
    assert [r["step"] for r in records] == list(range(1, 10))
    assert records[-1] == {"step": 9, "loss": 4.5}


def test_resume_before_the_first_record(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 3), after=0)
    write_steps(tmp_path, range(1, 3), after=0)
    assert [r["step"] for r in read_log(tmp_path / "log.jsonl")] == [1, 2]


def test_tensorboard_events(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4), after=0)
    write_steps(tmp_path, range(3, 5), after=2)
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert len(files) == 2
    events = [_events(file) for file in files]
    assert [e.step for e in events[0] if e.HasField("summary")] == [1, 2, 3]
    assert [e.summary.value[0].simple_value for e in events[1] if e.HasField("summary")] == [1.5, 2.0]
    assert [e.step for e in events[1] if e.HasField("session_log")] == [3]


def _events(path: Path) -> list[Event]:
    """Events of a TFRecord file: length (8 bytes), CRC (4), payload, CRC (4)."""
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_full_disk_is_told_once_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    real_write, full = os.write, False

    def write(descriptor: int, data: bytes) -> int:
        if full:
            if len(data) > 8:
                return real_write(descriptor, data[:8])  # a short write, then nothing more fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data)

    with RunLog(tmp_path, step=0, warn=warnings.append) as log:
        monkeypatch.setattr(os, "write", write)
        log.write(1, {"loss": 1.0})
        full = True
        log.write(2, {"loss": 2.0})
        log.write(3, {"loss": 3.0})
        log.sync()
        assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'
        full = False
        log.write(4, {"loss": 4.0})
    assert warnings == [
        "warning: could not write the log: No space left on device; training goes on without it"
    ]
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_reading_skips_what_is_not_a_record(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    truncate_log(path, 3)
    assert not path.exists()
    path.write_bytes(b'{"step": 1}\n[]\n\xff\xfe\n{"loss": 1}\n{"step": 2}\n{"st')
    assert [r["step"] for r in read_log(path)] == [1, 2]


def test_smoothing_is_a_centred_mean() -> None:
    values = [1.0, 2.0, 6.0, 2.0, 1.0]
    np.testing.assert_allclose(smoothed(values, window=3), [1.5, 3.0, 10 / 3, 3.0, 1.5])
    np.testing.assert_allclose(smoothed(values, window=1), values)
    np.testing.assert_allclose(smoothed([5.0] * 7, window=100), [5.0] * 7)
    assert smoothed([], window=5).shape == (0,)


def test_curve_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "loss.png"
    draw_loss_curve(tmp_path / "log.jsonl", picture)
    assert not picture.exists()
    with RunLog(tmp_path, step=0, warn=no_warning) as log:
        for step in range(1, 60):
            log.write(step, {"loss": 1 / step, "loss_logsnr_under_-2": 2 / step})
    draw_loss_curve(tmp_path / "log.jsonl", picture)
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    blue = (np.abs(pixels.astype(int) - [31, 119, 180]).sum(-1) < 30).sum()
    orange = (np.abs(pixels.astype(int) - [255, 127, 14]).sum(-1) < 30).sum()
    assert blue > 200
    assert orange > 200

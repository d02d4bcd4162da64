"""Videos in the making: what a kill leaves, and what is found again."""

from __future__ import annotations

import os
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vdm.data import VideoParts, read_video, write_video

ARGUMENTS: dict[str, Any] = {"seed": 3, "steps": 40, "box": (1, 2)}


def blocks(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 2 + number, 16, 16, generator=generator) * 2 - 1 for number in range(count)]


def parts(target: Path, **changes: Any) -> VideoParts:
    return VideoParts(target, {**ARGUMENTS, **changes}, fps=8)


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_blocks_are_found_again_and_become_the_file(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    target.write_bytes(b"good")
    for number, block in enumerate(blocks()):
        again = parts(target)
        assert len(again) == number
        again.append(block)
    assert target.read_bytes() == b"good"
    found = parts(target)
    assert found.num_frames == 9
    assert torch.equal(torch.cat(list(found), 1), torch.cat(blocks(), 1))
    assert found.finish() == target
    assert [path.name for path in tmp_path.iterdir()] == [name]
    write_video(tmp_path / f"whole-{name}", torch.cat(blocks(), 1), fps=8)
    assert target.read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


def test_frames_cross_blocks(tmp_path: Path) -> None:
    found, whole = parts(tmp_path / "a.gif"), torch.cat(blocks(), 1)
    for block in blocks():
        found.append(block)
    for start, stop in ((0, 9), (1, 2), (1, 6), (4, 5), (8, 9)):
        assert torch.equal(found.frames(start, stop), whole[:, start:stop])
    for start, stop in ((-1, 2), (3, 3), (5, 10)):
        with pytest.raises(ValueError, match="start < stop <= 9 is needed"):
            found.frames(start, stop)


def test_other_arguments_are_refused_by_name(tmp_path: Path) -> None:
    parts(tmp_path / "a.gif").append(blocks()[0])
    with pytest.raises(
        ValueError, match=r"with seed 3 \(now 4\), method None \(now x\); .*remove the folder"
    ):
        parts(tmp_path / "a.gif", seed=4, method="x")
    assert len(parts(tmp_path / "a.gif")) == 1
    (tmp_path / "a.gif.parts" / "arguments.json").write_text("{")
    with pytest.raises(ValueError, match="not readable"):
        parts(tmp_path / "a.gif")


def test_what_is_left_of_a_removal_is_not_taken_for_a_beginning(tmp_path: Path) -> None:
    first = parts(tmp_path / "a.gif")
    for block in blocks():
        first.append(block)
    folder = tmp_path / "a.gif.parts"
    (folder / "arguments.json").unlink()  # as a kill within `finish` leaves it
    (folder / ".vdm-0.tmp").write_bytes(b"half a block")
    second = parts(tmp_path / "a.gif", seed=4)
    assert len(second) == 0
    second.append(blocks()[1])
    assert sorted(path.name for path in folder.iterdir()) == ["arguments.json", "block-000000.safetensors"]
    second.finish()
    assert not folder.exists()


def test_a_failing_encoder_leaves_the_blocks_and_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.gif"
    target.write_bytes(b"good")
    first = parts(target)
    first.append(blocks()[0])
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises(OSError, match="No space left"):
        first.finish()
    with pytest.raises(OSError, match="No space left"):
        first.append(blocks()[1])
    monkeypatch.undo()
    assert target.read_bytes() == b"good"
    assert len(parts(target)) == 1
    parts(target).finish()
    assert read_video(target)[0].shape == (3, 2, 16, 16)


def test_a_broken_block_is_named(tmp_path: Path) -> None:
    parts(tmp_path / "a.gif").append(blocks()[0])
    (tmp_path / "a.gif.parts" / "block-000000.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"block-000000\.safetensors must be a readable block"):
        parts(tmp_path / "a.gif")


def test_files_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    for name in ("a.txt", "missing/a.gif"):
        with pytest.raises(ValueError, match="path must"):
            parts(tmp_path / name)
    with pytest.raises(ValueError, match="fps"):
        VideoParts(tmp_path / "a.gif", {}, fps=60)
    (tmp_path / "b.gif.parts").write_bytes(b"")
    with pytest.raises(ValueError, match="must be a folder"):
        parts(tmp_path / "b.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["b.gif.parts"]


def test_one_block_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = parts(tmp_path / "a.mp4")
    for number in range(40):
        long.append(torch.full((3, 8, 64, 64), number / 40))
    alive: list[weakref.ref[Tensor]] = []
    read = VideoParts._read

    def counted(self: VideoParts, number: int) -> Tensor:
        block = read(self, number)
        alive.append(weakref.ref(block))
        assert sum(ref() is not None for ref in alive) <= 2
        return block

    monkeypatch.setattr(VideoParts, "_read", counted)
    tracemalloc.start()
    long.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(alive) == 40
    assert peak < 0.2 * 40 * 8 * 3 * 64 * 64

"""How well extension keeps a digit moving: the shipped model, 16 frames to 64, by replacement and by guidance.

Every video begins with 16 frames of the data and goes on in blocks. A digit's position is the centre of its ink; its
jolt at a frame is |c_{f+1} - 2 c_f + c_{f-1}| in pixels, 0 in steady motion and large where it bounces or where a
block does not go on with the motion of the one before. Its change at a frame is the RMS difference to the frame
before, moved to where it fits best (whole pixels), and is large where one digit turns into another. The first two
frames of blocks are compared with the rest of them, and both with the data.

Usage: python examples/extend_moving_digits.py FOLDER [--videos 6] [--steps 24] [--context 4] [--weights 2,10]

Writes a contact sheet of every method, prints a table, and keeps what was drawn for the next call.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vdm.data import MovingDigits, write_contact_sheet, write_gif
from vdm.generation import ConditionalSampler, extend, plan_extension
from vdm.pretrained import MOVING_DIGITS
from vdm.samplers import SamplerStep
from vdm.training import load_model
from vdm.training.sampling import build_denoiser, build_sampler, build_threshold, tiled

GIVEN, TOTAL, BLOCK = 16, 64, 16
_SHIFTS = range(-4, 5)


def draw(
    clips: Sequence[Tensor], labels: Sequence[int], *, weight: float | None, steps: int, context: int
) -> Tensor:
    """Videos (N, 1, 64, 32, 32) that go on from clips; weight None is replacement."""
    model, config = load_model(MOVING_DIGITS)
    config = replace(config, sampling=replace(config.sampling, steps=steps))

    def show(step: SamplerStep) -> None:
        if step.index + 1 == step.num_steps:
            print("  a block is drawn", flush=True)

    how = ConditionalSampler(
        build_denoiser(model, config, count=len(clips), labels=labels, fps=config.sampling.fps),
        build_sampler(config),
        method="replacement" if weight is None else "reconstruction",
        weight=weight,
        threshold=build_threshold(config.sampling),
        callback=show,
    )
    return extend(
        how,
        torch.stack(list(clips)),
        num_frames=TOTAL - GIVEN,
        block_frames=BLOCK,
        context_frames=context,
        seeds=range(len(clips)),
    )


def jolts(videos: Tensor) -> Tensor:
    """|c_{f+1} - 2 c_f + c_{f-1}| of frames 1 .. F - 2, in pixels: (N, F - 2)."""
    ink = (videos[:, 0] + 1).clamp_min(0).square()
    height, width = ink.shape[-2:]
    total = ink.sum((-2, -1)).clamp_min(1e-6)
    rows = (ink.sum(-1) * torch.arange(height)).sum(-1) / total
    columns = (ink.sum(-2) * torch.arange(width)).sum(-1) / total
    centre = torch.stack([rows, columns], dim=-1)
    return (centre[:, 2:] - 2 * centre[:, 1:-1] + centre[:, :-2]).norm(dim=-1)


def changes(videos: Tensor) -> Tensor:
    """RMS difference of frames 1 .. F - 1 to the frame before, best aligned: (N, F - 1)."""
    frames = videos[:, 0]
    aligned = [
        (frames[:, 1:] - frames[:, :-1].roll((down, across), (-2, -1))).square().mean((-2, -1)).sqrt()
        for down, across in itertools.product(_SHIFTS, _SHIFTS)
    ]
    return torch.stack(aligned).amin(0)


def row(name: str, videos: Tensor, borders: Sequence[int]) -> str:
    """A line of the table; a border is the number of a block's first frame."""
    jolt, change = jolts(videos), changes(videos)
    # What breaks, breaks as a block begins or, where its first frame was held to the context, right after.
    crossing = sorted({frame - 2 + later for frame in borders for later in (0, 1, 2)})
    entering = sorted({frame - 1 + later for frame in borders for later in (0, 1)})
    drawn = range(GIVEN, TOTAL)
    jolt_inside = [frame - 1 for frame in drawn if 1 <= frame < TOTAL - 1 and frame - 1 not in crossing]
    change_inside = [frame - 1 for frame in drawn if frame - 1 not in entering]
    cells = [jolt[:, crossing], jolt[:, jolt_inside], change[:, entering], change[:, change_inside]]
    numbers = " | ".join(f"{cell.mean():.2f} ± {cell.std() / cell.numel() ** 0.5:.2f}" for cell in cells)
    return f"| {name} | {numbers} |"


def main() -> None:
    """Draw what is not there yet, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=6)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--context", type=int, default=4)
    parser.add_argument("--weights", default="2,10", help="w_r of reconstruction guidance")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    clips = [MovingDigits(num_frames=TOTAL, seed=5)[i] for i in range(options.videos)]
    borders = [
        GIVEN + block.first
        for block in plan_extension(TOTAL - GIVEN, block_frames=BLOCK, context_frames=options.context)
    ]
    data = torch.stack([MovingDigits(num_frames=TOTAL, seed=6)[i].video for i in range(200)])
    rows = [row("data", data, borders)]
    for weight in [None, *map(float, options.weights.split(","))]:
        name = "replacement" if weight is None else f"reconstruction, w_r = {weight:g}"
        stem = "replacement" if weight is None else f"reconstruction-{weight:g}"
        path = options.folder / f"{stem}-{options.videos}-{options.steps}-{options.context}.safetensors"
        if not path.is_file():
            print(name, flush=True)
            given = [clip.video[:, :GIVEN] for clip in clips]
            labels = [int(clip.label) for clip in clips]
            videos = draw(given, labels, weight=weight, steps=options.steps, context=options.context)
            save_file({"videos": videos}, path)
        videos = load_file(path)["videos"]
        rows.append(row(name, videos, borders))
        sheet = videos[:, :, 12:44]  # the last given frames, and two blocks and more
        write_contact_sheet(options.folder / f"{stem}.png", sheet, labels=[clip.label for clip in clips])
        write_gif(options.folder / f"{stem}.gif", tiled(videos), fps=8, scale=2)
    print("| | jolt at borders | jolt inside | change at borders | change inside |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

"""Bad input of conditional generation: one ValueError that names the argument, before the first step."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuzzing import JUNK, assert_fails_well
from torch import Tensor

from vdm import generation
from vdm.diffusion import Prediction
from vdm.generation import (
    Block,
    ConditionalSampler,
    Known,
    LazyVideo,
    block_seeds,
    complete,
    complete_blocks,
    extend,
    extend_blocks,
    inpaint,
    inpaint_blocks,
    interpolate,
    interpolate_blocks,
    plan_blocks,
    plan_extension,
    upscale,
    upscale_blocks,
)

VIDEO = torch.zeros(2, 3, 4, 5, 6)
MASK = torch.tensor([True, False, False, True]).reshape(1, 1, 4, 1, 1)


def half(z: Tensor, logsnr: Tensor) -> Prediction:
    return Prediction(0.5 * z, "v")


def sampler(
    denoiser: Any, shape: tuple[int, ...], *, seeds: Tensor, device: Any, dtype: Any, **_: Any
) -> Tensor:
    """One call of the denoiser in place of a sampler."""
    return denoiser(torch.zeros(shape, dtype=dtype), torch.zeros(shape[0])).x(
        torch.zeros(shape, dtype=dtype), torch.zeros(shape[0])
    )


def run(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Call, and draw every block of an iterator."""
    result = function(**arguments)
    if inspect.isgenerator(result):
        list(result)


HOW = ConditionalSampler(half, sampler, weight=1.0)
BLOCKS = {"block_frames": 2, "context_frames": 1}
CONDITIONAL = {"denoiser": half, "sampler": sampler}
START = {"first_block": 0, "completed": None}
EXTEND = {"how": HOW, "video": VIDEO, "num_frames": 3, **BLOCKS, "stride": 1, "seeds": 0}
INTERPOLATE = {"how": HOW, "video": VIDEO, "positions": [0, 2, 4, 6], "seeds": 0, "num_frames": 8, **BLOCKS}
UPSCALE = {"how": HOW, "low_resolution": VIDEO, "size": (10, 6), "seeds": 0, **BLOCKS}
INPAINT = {"how": HOW, "video": VIDEO, "mask": MASK, "seeds": 0, **BLOCKS}
CASES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (
        ConditionalSampler,
        {
            "denoiser": half,
            "sampler": sampler,
            "method": "reconstruction",
            "weight": 1.0,
            "threshold": None,
            "checkpoint": False,
            "variance_preserving": True,
            "callback": None,
        },
    ),
    (
        complete,
        {"how": HOW, "known": VIDEO, "mask": MASK, "seeds": 0, "low_resolution": torch.zeros(2, 3, 4, 1, 3)},
    ),
    (plan_extension, {"num_frames": 4, **BLOCKS, "stride": 1}),
    (plan_blocks, {"frames_known": [True, False, True, False], **BLOCKS, "stride": 1}),
    (
        complete_blocks,
        {
            "how": HOW,
            "blocks": [Block(1, 1, 2, 4, 4)],
            "known": lambda start, stop: Known(VIDEO[:, :, start:stop], MASK[:, :, :1]),
            "seeds": 0,
            "completed": VIDEO,
        },
    ),
    (block_seeds, {"seeds": 0, "block": 1, "batch_size": 2}),
    (LazyVideo, {"shape": (1, 1, 2, 2, 2), "read": print, "dtype": torch.float32, "device": "cpu"}),
    (extend, EXTEND),
    (extend_blocks, {**EXTEND, "first_block": 0}),
    (interpolate, INTERPOLATE),
    (interpolate_blocks, {**INTERPOLATE, **START}),
    (upscale, UPSCALE),
    (upscale_blocks, {**UPSCALE, **START}),
    (inpaint, INPAINT),
    (inpaint_blocks, {**INPAINT, **START}),
]

COMPLETED = {
    interpolate_blocks: VIDEO,
    upscale_blocks: torch.zeros(2, 3, 4, 10, 6),
    inpaint_blocks: VIDEO,
}


@pytest.mark.parametrize(("function", "arguments"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_junk_in_one_argument(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    assert set(inspect.signature(function).parameters) == set(arguments)

    def call(**changed: Any) -> None:
        run(function, changed)

    call(**arguments)
    for name, junk in itertools.product(arguments, JUNK):
        # Which blocks there are depends on the other arguments; what was completed on where drawing goes on.
        late = {"first_block": 1} if name == "completed" and "first_block" in arguments else {}
        if name == "first_block" and "completed" in arguments:
            late = {"completed": COMPLETED[function]}
        assert_fails_well(call, {**arguments, **late, name: junk}, name)


def test_every_public_function_is_tested() -> None:
    data = {"Block", "Known"}
    names = {name for name in generation.__all__ if isinstance(getattr(generation, name), type)} - data
    names |= {name for name in generation.__all__ if inspect.isroutine(getattr(generation, name))}
    assert names == {function.__name__ for function, _ in CASES}


def never(z: Tensor, logsnr: Tensor) -> Prediction:
    raise AssertionError("a step was taken")


def bad(message: str, function: Callable[..., Any], arguments: dict[str, Any], **changed: Any) -> Any:
    return pytest.param(
        message, function, {**arguments, **changed}, id=f"{function.__name__}: {message[:50]}"
    )


NAN = torch.where(torch.arange(4).reshape(4, 1, 1) == 0, torch.nan, VIDEO)
REPLACEMENT = ConditionalSampler(never, sampler, method="replacement")
COMPLETE = {"how": HOW, "known": VIDEO, "mask": MASK, "seeds": 0}
LOW = {**COMPLETE, "low_resolution": torch.zeros(2, 3, 4, 1, 3)}


@pytest.mark.parametrize(
    ("message", "function", "arguments"),
    [
        bad("known must be finite where mask is True, got 180 values", complete, COMPLETE, known=NAN),
        bad("video must be finite in its last frames", extend, EXTEND, video=NAN.flip(2)),
        bad("known must be finite where mask is True", inpaint, INPAINT, video=NAN),
        bad("known must be finite where mask is True", interpolate, INTERPOLATE, video=NAN),
        bad("low_resolution must be finite", upscale, UPSCALE, low_resolution=NAN),
        bad("mask must have five axes", complete, COMPLETE, mask=MASK[:, :, :3]),
        bad("mask must have five axes", inpaint, INPAINT, mask=MASK[0]),
        bad("torch.bool, got torch.float32", inpaint, INPAINT, mask=MASK.float()),
        bad("mask must leave something to draw, got all True", complete, COMPLETE, mask=MASK | True),
        bad("mask must be True somewhere without low_resolution", complete, COMPLETE, mask=MASK & False),
        bad("mask must be True somewhere and not everywhere", inpaint, INPAINT, mask=MASK & False),
        bad("positions must leave frames to draw", interpolate, INTERPOLATE, positions=range(4), num_frames=None),
        bad("positions must be strictly increasing", interpolate, INTERPOLATE, positions=[0, 2, 2, 3]),
        bad("positions must be one per frame of video, 4, got 3", interpolate, INTERPOLATE, positions=[0, 2, 4]),
        bad("num_frames must be at least 7, got 5", interpolate, INTERPOLATE, num_frames=5),
        bad("context_frames must be less than block_frames=2, got 2", extend, EXTEND, context_frames=2),
        bad("context_frames must be less than block_frames=2, got 2", upscale, UPSCALE, context_frames=2),
        bad("video must have at least context_frames=5 frames", extend, EXTEND, block_frames=6, context_frames=5),
        bad("block_frames must be at most 4, got 5", upscale, UPSCALE, block_frames=5),
        bad("seeds must be one per sample, 2 of them", extend, EXTEND, seeds=[1, 2, 3]),
        bad("seeds must be one per sample, 2 of them", complete, COMPLETE, seeds=[1]),
        bad("seeds must be one per sample, 2 of them", inpaint, INPAINT, seeds=[1]),
        bad("size must be multiples of low_resolution's (5, 6), got (8, 6)", upscale, UPSCALE, size=(8, 6)),
        bad("h and w divisors of H and W", complete, LOW, low_resolution=torch.zeros(2, 3, 4, 2, 3)),
        bad("known (B, C, F, H, W) of shape", complete, LOW, low_resolution=torch.zeros(2, 3, 3, 1, 3)),
        bad("low_resolution must come with method='reconstruction'", complete, LOW, how=REPLACEMENT),
        bad("how must have method='reconstruction'", upscale, UPSCALE, how=REPLACEMENT),
        bad("first_block must be at most 2, got 3", extend_blocks, EXTEND, first_block=3),
        bad("completed must hold the 1 frames", upscale_blocks, UPSCALE, first_block=1),
        bad("completed must have shape", upscale_blocks, UPSCALE, first_block=1, completed=VIDEO),
        bad("weight must be in [0, inf), got -1", ConditionalSampler, CONDITIONAL, weight=-1.0),
        bad("weight must be a finite number, got None", ConditionalSampler, CONDITIONAL),
        bad("weight must be None with method='replacement'", ConditionalSampler,
            CONDITIONAL, method="replacement", weight=1.0),
    ],
)  # fmt: skip
def test_before_the_first_step(message: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    if isinstance(arguments.get("how"), ConditionalSampler):
        how = arguments["how"]
        arguments = {**arguments, "how": ConditionalSampler(never, sampler, how.method, how.weight)}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        run(function, arguments)
    assert re.match(r"\w+: .+, got ", str(caught.value), flags=re.DOTALL)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda z: z, "denoiser must return a Prediction, got Tensor"),
        (lambda z: Prediction(z[:, :, :1], "x"), "denoiser's prediction must have z's shape"),
        (lambda z: Prediction(z.detach(), "x"), "denoiser must be differentiable in z"),
        (lambda z: Prediction(z, "x", variance_preserving=False), "variance_preserving=True, got False"),
    ],
    ids=["type", "shape", "no gradient", "process"],
)
def test_a_bad_denoiser(value: Callable[[Tensor], Any], message: str) -> None:
    how = ConditionalSampler(lambda z, logsnr: value(z), sampler, weight=1.0)
    with pytest.raises(ValueError, match=re.escape(message)):
        complete(how, VIDEO, MASK, seeds=0)


def test_what_is_read_is_checked() -> None:
    for frames, message in [
        (VIDEO[:, :, :1], "video must give (2, 3, 2, 5, 6) for frames 0 to 2, got (2, 3, 1, 5, 6)"),
        (VIDEO[:, :, :2].double(), "video must be torch.float32 on cpu, got torch.float64 on cpu"),
        (NAN[:, :, :2], "known must be finite where mask is True"),
        (None, "video must be a torch.Tensor, got NoneType"),
    ]:
        lazy = LazyVideo((2, 3, 4, 5, 6), lambda start, stop, frames=frames: frames)
        how = ConditionalSampler(never, sampler, weight=1.0)
        with pytest.raises(
            ValueError,
            match=re.escape("inpaint_blocks: " + message) + "|" + re.escape("complete_blocks: " + message),
        ):
            next(inpaint_blocks(how, lazy, MASK, seeds=0, **BLOCKS))

"""Completing, extending, interpolating, upscaling and inpainting: what is kept, what it depends on, what it costs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from vdm.diffusion import CosineSchedule, Prediction
from vdm.generation import (
    ConditionalSampler,
    LazyVideo,
    block_seeds,
    complete,
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
from vdm.guidance import downsample, reconstruction_guidance, replacement, static_threshold
from vdm.samplers import ddim

Make = Callable[..., ConditionalSampler]
VIDEO = torch.rand(2, 1, 9, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
SEEDS = [7, -3]


def frames_mask(*known: int, total: int = 9) -> Tensor:
    mask = torch.zeros(1, 1, total, 1, 1, dtype=torch.bool)
    mask[:, :, list(known)] = True
    return mask


def test_complete_is_the_papers_order_of_wrappers(how: Make) -> None:
    mask = frames_mask(0, 1)
    made = how(threshold=static_threshold)
    x = complete(made, VIDEO, mask, seeds=SEEDS, low_resolution=downsample(VIDEO, 2, 3))
    guided = reconstruction_guidance(
        made.denoiser, 1.0, known=VIDEO, mask=mask, low_resolution=downsample(VIDEO, 2, 3)
    )
    by_hand = replacement(static_threshold(guided), VIDEO, mask, seeds=SEEDS)
    expected = made.sampler(by_hand, VIDEO.shape, seeds=SEEDS)
    assert torch.equal(x, expected)
    assert torch.equal(x[:, :, :2], VIDEO[:, :, :2]), "known frames come back bit for bit"
    assert not torch.equal(x[:, :, 2:], VIDEO[:, :, 2:])


def test_weight_0_is_replacement(how: Make) -> None:
    mask = torch.rand(2, 1, 9, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.3
    x = complete(how(weight=0.0), VIDEO, mask, seeds=SEEDS)
    assert torch.equal(x, complete(how(method="replacement", weight=None), VIDEO, mask, seeds=SEEDS))
    assert not torch.equal(x, complete(how(weight=1.0), VIDEO, mask, seeds=SEEDS))


def test_what_is_not_known_is_not_read(how: Make) -> None:
    mask = frames_mask(0, 8)
    hidden = torch.where(mask, VIDEO, torch.nan)
    assert torch.equal(complete(how(), VIDEO, mask, seeds=SEEDS), complete(how(), hidden, mask, seeds=SEEDS))


def test_a_video_does_not_depend_on_its_batch(how: Make) -> None:
    arguments = {"num_frames": 11, "block_frames": 6, "context_frames": 3}
    both = extend(how(), VIDEO, seeds=SEEDS, **arguments)
    for i, seed in enumerate(SEEDS):
        torch.testing.assert_close(both[i : i + 1], extend(how(), VIDEO[i : i + 1], seeds=seed, **arguments))


def test_guidance_follows_the_known_frames(how: Make) -> None:
    """Frames that correlate by 0.9: the guided one nearest to the known ones is near them, the replaced one less so."""
    video = torch.full((64, 1, 4, 2, 2), 0.8)
    mask = frames_mask(0, 1, 2, total=4)
    sampler = partial(ddim, schedule=CosineSchedule(), num_steps=32, eta=1.0)
    replaced, guided = (
        complete(how(sampler=sampler, weight=weight), video, mask, seeds=0)[:, :, 3].mean()
        for weight in (0.0, 1.0)
    )
    truth = 0.9 * 0.8
    assert abs(guided - truth) < 0.5 * abs(replaced - truth)


def test_extend_appends_blocks(how: Make) -> None:
    arguments = {"block_frames": 6, "context_frames": 2, "stride": 3, "seeds": SEEDS}
    whole = extend(how(), VIDEO, num_frames=10, **arguments)
    assert whole.shape == (2, 1, 19, 4, 6)
    assert torch.equal(whole[:, :, :9], VIDEO)
    blocks = list(extend_blocks(how(), VIDEO, num_frames=10, **arguments))
    assert [block.shape[2] for block in blocks] == [3, 3, 3, 1]
    assert torch.equal(whole[:, :, 9:], torch.cat(blocks, dim=2))
    assert torch.equal(extend(how(), VIDEO, num_frames=7, **arguments), whole[:, :, :16]), "a prefix"

    known = torch.cat([VIDEO[:, :, -2:], torch.zeros(2, 1, 4, 4, 6)], dim=2)
    first = complete(how(), known, frames_mask(0, 1, total=6), seeds=SEEDS)
    assert torch.equal(blocks[0], first[:, :, 2:5]), "block 0 is one call with the samples' own seeds"
    second = complete(
        how(),
        torch.cat([blocks[0][:, :, -2:], torch.zeros(2, 1, 4, 4, 6)], dim=2),
        frames_mask(0, 1, total=6),
        seeds=block_seeds(SEEDS, 1, 2),
    )
    assert torch.equal(blocks[1], second[:, :, 2:5])


def test_extension_goes_on_from_any_block(how: Make) -> None:
    arguments = {"num_frames": 10, "block_frames": 6, "context_frames": 3, "seeds": SEEDS}
    whole = extend(how(), VIDEO, **arguments)
    plan = plan_extension(10, block_frames=6, context_frames=3)
    assert len(plan) == 4
    for block in plan:
        done = whole[:, :, : 9 + block.first]
        rest = list(extend_blocks(how(), done[:, :, -3:].clone(), first_block=block.index, **arguments))
        assert torch.equal(torch.cat([done, *rest], dim=2), whole)


def test_interpolate(how: Make) -> None:
    """Every third of 25 frames is given, 8 at once."""
    positions = range(0, 25, 3)
    arguments = {"block_frames": 8, "context_frames": 2, "seeds": SEEDS}
    x = interpolate(how(), VIDEO, positions, **arguments)
    assert x.shape == (2, 1, 25, 4, 6)
    assert torch.equal(x[:, :, ::3], VIDEO)
    for block in plan_blocks([frame % 3 == 0 for frame in range(25)], block_frames=8, context_frames=2):
        rest = interpolate_blocks(
            how(), VIDEO, positions, first_block=block.index, completed=x[:, :, : block.first] if block.first else None,
            **arguments,
        )  # fmt: skip
        assert torch.equal(torch.cat([x[:, :, : block.first], *rest], dim=2), x)

    known = torch.zeros(2, 1, 25, 4, 6)
    known[:, :, ::3] = VIDEO
    at_once = complete(how(), known, frames_mask(*positions, total=25), seeds=SEEDS)
    assert torch.equal(interpolate(how(), VIDEO, positions, seeds=SEEDS), at_once), "one block by default"


def test_interpolate_before_and_after_the_given_frames(how: Make) -> None:
    x = interpolate(how(), VIDEO[:, :, :3], [2, 3, 6], num_frames=9, seeds=SEEDS)
    assert x.shape[2] == 9
    assert torch.equal(x[:, :, [2, 3, 6]], VIDEO[:, :, :3])


def test_a_block_of_which_everything_is_known_costs_nothing(how: Make) -> None:
    calls = []

    def counted(z: Tensor, logsnr: Tensor) -> Prediction:
        calls.append(1)
        return Prediction(z, "v")

    positions = [0, 1, 2, 3, 4, 5, 6, 8, 9]
    made = how(denoiser=counted, weight=0.0)
    x = interpolate(made, VIDEO, positions, block_frames=5, context_frames=1, seeds=SEEDS)
    assert torch.equal(x[:, :, positions], VIDEO)
    plan = plan_blocks([frame != 7 for frame in range(10)], block_frames=5, context_frames=1)
    assert len(plan) == 3
    assert len(calls) == 6, "only the block that adds frame 7"


def test_upscale(how: Make) -> None:
    low = downsample(VIDEO, 2, 3)
    errors = []
    for weight in (0.0, 1.0, 4.0):
        x = upscale(how(weight=weight), low, size=(4, 6), seeds=SEEDS)
        assert x.shape == VIDEO.shape
        errors.append(float((downsample(x, 2, 3) - low).square().mean()))
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.5 * errors[0]

    made = how(weight=4.0)
    arguments = {"size": (4, 6), "seeds": SEEDS, "block_frames": 4, "context_frames": 2}
    blocks = list(upscale_blocks(made, low, **arguments))
    assert [block.shape[2] for block in blocks] == [4, 2, 2, 1]
    whole = torch.cat(blocks, dim=2)
    assert torch.equal(upscale(made, low, **arguments), whole)
    rest = list(upscale_blocks(made, low, first_block=1, completed=whole[:, :, 1:4], **arguments))
    assert torch.equal(torch.cat([whole[:, :, :4], *rest], dim=2), whole)
    again = complete(
        made,
        whole[:, :, 2:6],
        frames_mask(0, 1, total=4),
        seeds=block_seeds(SEEDS, 1, 2),
        low_resolution=low[:, :, 2:6],
    )
    assert torch.equal(again[:, :, 2:], blocks[1]), "later blocks are conditioned in time and in space"


def test_inpaint(how: Make) -> None:
    mask = torch.ones(1, 1, 9, 4, 6, dtype=torch.bool)
    mask[..., 1:3, 2:4] = False
    x = inpaint(how(), VIDEO, mask, seeds=SEEDS)
    assert torch.equal(x, complete(how(), VIDEO, mask, seeds=SEEDS))
    assert bool(((x == VIDEO) | ~mask).all())
    for still in (mask, mask[:, :, :1]):
        arguments = {"seeds": SEEDS, "block_frames": 5, "context_frames": 2}
        whole = inpaint(how(), VIDEO, still, **arguments)
        assert bool(((whole == VIDEO) | ~mask).all())
        rest = inpaint_blocks(how(), VIDEO, still, first_block=1, completed=whole[:, :, :5], **arguments)
        assert torch.equal(torch.cat([whole[:, :, :5], *rest], dim=2), whole)


def test_a_window_in_which_nothing_is_known_is_drawn_freely(how: Make) -> None:
    mask = frames_mask(8)
    x = inpaint(how(), VIDEO, mask, seeds=SEEDS, block_frames=4, context_frames=1)
    made = how()
    assert torch.equal(x[:, :, :4], made.sampler(made.denoiser, (2, 1, 4, 4, 6), seeds=SEEDS))
    assert torch.equal(x[:, :, 8], VIDEO[:, :, 8])


def lazily(video: Tensor, windows: list[int]) -> LazyVideo:
    def read(start: int, stop: int) -> Tensor:
        windows.append(stop - start)
        return video[:, :, start:stop].clone()

    return LazyVideo(tuple(video.shape), read)


def test_lazy_videos(how: Make) -> None:
    arguments = {"seeds": SEEDS, "block_frames": 4, "context_frames": 1}
    low, mask = downsample(VIDEO, 2, 3), torch.rand(2, 1, 9, 4, 6) < 0.5
    cases: list[tuple[Callable[[Tensor | LazyVideo], Iterator[Tensor]], Tensor]] = [
        (lambda v: interpolate_blocks(how(), v, range(0, 18, 2), **arguments), VIDEO),
        (lambda v: upscale_blocks(how(), v, size=(4, 6), **arguments), low),
        (lambda v: inpaint_blocks(how(), v, mask, **arguments), VIDEO),
    ]
    for draw, video in cases:
        windows: list[int] = []
        lazy = torch.cat(list(draw(lazily(video, windows))), dim=2)
        assert torch.equal(lazy, torch.cat(list(draw(video)), dim=2))
        assert max(windows) <= 4


def test_thousands_of_frames_in_the_memory_of_a_block(how: Make) -> None:
    """Nothing of a block is alive when the block after the next is drawn."""
    sizes: list[int] = []
    alive: set[int] = set()

    def sampler(denoiser: object, shape: tuple[int, ...], **_: object) -> Tensor:
        x = torch.zeros(shape)
        number = len(sizes)
        sizes.append(x.numel())
        alive.add(number)
        weakref.finalize(x, alive.discard, number)
        assert len(alive) <= 2
        return x

    made = how(sampler=sampler, weight=None, method="replacement")
    windows: list[int] = []
    video = torch.zeros(1, 1, 1, 2, 2).expand(1, 1, 1000, 2, 2)
    total = 0
    for frames in interpolate_blocks(
        made, lazily(video, windows), range(0, 4000, 4), seeds=0, block_frames=16, context_frames=4
    ):
        total += frames.shape[2]
    assert total == 3997
    assert len(sizes) > 300
    assert max(sizes) == 16 * 4
    assert max(windows) <= 4
    assert sum(f.shape[2] for f in extend_blocks(
        made, VIDEO[:1], num_frames=3000, block_frames=16, context_frames=8, seeds=0
    )) == 3000  # fmt: skip
    assert len(alive) <= 1


def test_block_seeds() -> None:
    """splitmix64, and no two of many blocks and samples alike."""
    assert torch.equal(block_seeds(5, 0, 3), torch.tensor([5, 6, 7]))
    # The published first output of splitmix64 seeded with 1234567, whose state is then 1234567 + golden.
    assert block_seeds([1234567], 1, 1).tolist() == [6457827717110365317]
    seeds = torch.cat([block_seeds(0, block, 64) for block in range(64)])
    assert len(set(seeds.tolist())) == 64 * 64


def test_noise_is_a_function_of_seed_and_block(how: Make) -> None:
    arguments = {"num_frames": 9, "block_frames": 6, "context_frames": 3}
    x = extend(how(), VIDEO, seeds=0, **arguments)
    assert torch.equal(x, extend(how(), VIDEO, seeds=[0, 1], **arguments))
    assert not torch.equal(x, extend(how(), VIDEO, seeds=1, **arguments))
    still = VIDEO[:, :, :1].expand(-1, -1, 3, -1, -1)
    first, second, _ = extend_blocks(
        how(denoiser=lambda z, logsnr: Prediction(z, "eps"), weight=0.0), still, seeds=0, **arguments
    )
    assert not torch.equal(first, second), "blocks that look alike are drawn from other noise"


def test_a_callback_sees_every_step_of_every_block(how: Make) -> None:
    steps: list[int] = []
    made = how(callback=lambda step: steps.append(step.index))
    extend(made, VIDEO, num_frames=9, block_frames=6, context_frames=3, seeds=0)
    assert steps == [*range(6)] * 3


def test_dtype_is_that_of_the_video(how: Make) -> None:
    x = extend(how(), VIDEO.double(), num_frames=3, block_frames=6, context_frames=3, seeds=0)
    assert x.dtype == torch.float64


def test_no_gradient_is_recorded(how: Make) -> None:
    video = VIDEO.clone().requires_grad_()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            assert not complete(how(), video, frames_mask(0), seeds=0).requires_grad


@pytest.mark.parametrize("method", ["reconstruction", "replacement"])
def test_the_model_that_ships(method: str) -> None:
    from vdm.diffusion import model_denoiser
    from vdm.models import Conditioning
    from vdm.pretrained import MOVING_DIGITS
    from vdm.training import load_model

    model, config = load_model(MOVING_DIGITS)
    denoiser = model_denoiser(
        model,
        parameterization=config.diffusion.parameterization,
        conditioning=Conditioning(labels=torch.tensor([3])),
    )
    how = ConditionalSampler(
        denoiser,
        partial(ddim, schedule=CosineSchedule(), num_steps=2),
        method=method,  # type: ignore[arg-type]
        weight=2.0 if method == "reconstruction" else None,
        threshold=static_threshold,
    )
    video = torch.zeros(1, 1, 4, 32, 32)
    x = extend(how, video, num_frames=4, block_frames=8, context_frames=4, seeds=0)
    assert x.shape == (1, 1, 8, 32, 32)
    assert bool(x.isfinite().all())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())

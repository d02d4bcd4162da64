"""Randomness that is a function of (seed, step, row) and nothing else."""

from __future__ import annotations

import torch

from vdm.training.randomness import (
    conditioning_drop,
    global_times,
    mix,
    noise_seeds,
    seed_torch,
    splitmix64,
    uniform,
)


def test_splitmix64_matches_published_outputs() -> None:
    """First outputs of the generator seeded with 1234567 (Vigna's splitmix64.c; Rosetta Code)."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    golden = 0x9E3779B97F4A7C15
    assert [splitmix64((1234567 + i * golden) & (2**64 - 1)) for i in range(4)] == expected


def test_mix_depends_on_every_value_and_the_order() -> None:
    values = {mix(1, 2, 3), mix(1, 3, 2), mix(1, 2), mix(1, 2, 3, 0), mix(2, 2, 3), mix(-1, 2, 3)}
    assert len(values) == 6
    assert all(0 <= v < 2**64 for v in values)


def test_noise_seeds_do_not_depend_on_the_division_of_the_batch() -> None:
    whole = noise_seeds(5, 7, range(8))
    assert torch.equal(torch.cat([noise_seeds(5, 7, range(3)), noise_seeds(5, 7, range(3, 8))]), whole)
    assert len(set(whole.tolist()) | set(noise_seeds(5, 8, range(8)).tolist())) == 16
    assert whole.dtype == torch.int64


def test_conditioning_is_dropped_with_the_probability_asked_for() -> None:
    dropped = torch.cat([conditioning_drop(0, step, range(100), probability=0.3) for step in range(100)])
    # 10,000 draws: the standard deviation of the mean is 0.0046.
    assert abs(dropped.float().mean().item() - 0.3) < 0.02
    assert not conditioning_drop(0, 0, range(1000), probability=0.0).any()
    assert conditioning_drop(0, 0, range(1000), probability=1.0).all()


def test_uniform_fills_the_interval() -> None:
    values = torch.tensor([uniform(1, i) for i in range(4000)])
    counts = torch.histc(values, bins=10, min=0.0, max=1.0)
    assert counts.sum() == 4000
    assert (counts - 400).abs().max() < 100  # five standard deviations


def test_times_are_stratified_and_change_with_the_step() -> None:
    t = global_times(0, 3, 10)
    assert torch.equal((t.sort().values * 10).floor(), torch.arange(10.0))
    assert torch.equal(t, global_times(0, 3, 10))
    assert not torch.equal(t, global_times(0, 4, 10))
    assert not torch.equal(t, global_times(1, 3, 10))


def test_torch_seed_changes_with_micro_step() -> None:
    draws = set()
    for arguments in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        seed_torch(*arguments)
        draws.add(torch.rand(()).item())
    assert len(draws) == 4

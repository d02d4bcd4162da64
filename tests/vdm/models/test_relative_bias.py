from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vdm.models import VideoUNetConfig
from vdm.models.relative_bias import (
    DistanceRelativeBias,
    NetworkRelativeBias,
    T5RelativeBias,
    encode_positions,
    frame_distances,
    relative_bias,
)


def t5_bucket(distance: int, num_buckets: int, max_distance: int) -> int:
    """The formula of Raffel et al. 2020, in exact comparisons: bucket k begins where its power says."""
    half = num_buckets // 2
    exact = half // 2
    bucket = half if distance > 0 else 0
    d = abs(distance)
    if d < exact:
        return bucket + d
    # floor(log(d/exact) / log(max/exact) * (half - exact)), with d^n compared as integers.
    steps = half - exact
    k = 0
    while k < steps - 1 and d**steps * exact ** (k + 1) >= max_distance ** (k + 1) * exact**steps:
        k += 1
    return bucket + exact + k


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (32, 64), (32, 32), (8, 20), (4, 2)])
def test_t5_buckets(num_buckets: int, max_distance: int) -> None:
    distance = torch.arange(-200, 201)
    got = T5RelativeBias.encode(distance, num_buckets=num_buckets, max_distance=max_distance)
    wanted = [t5_bucket(d, num_buckets, max_distance) for d in distance.tolist()]
    assert got.tolist() == wanted
    assert set(wanted) <= set(range(num_buckets))


def test_t5_buckets_by_hand() -> None:
    # 32 buckets to 128: 16 a sign, 8 exact, then 8 from 8 to 128 by factors of sqrt(2).
    distance = torch.tensor([0, -1, -7, -8, -11, -12, -15, -16, -127, -128, -9999, 1, 7, 8, 16, 9999])
    got = T5RelativeBias.encode(distance, num_buckets=32, max_distance=128)
    assert got.tolist() == [0, 1, 7, 8, 8, 9, 9, 10, 15, 15, 15, 17, 23, 24, 26, 31]


def test_distances_are_key_minus_query() -> None:
    assert frame_distances(torch.tensor([0, 3, 4])).tolist() == [[0, 3, 4], [-3, 0, 1], [-4, -1, 0]]
    assert frame_distances(torch.tensor([[0, 3], [5, 4]])).tolist() == [[[0, 3], [-3, 0]], [[0, -1], [1, 0]]]


def test_the_distance_table_gives_each_signed_distance_its_entry() -> None:
    bias = DistanceRelativeBias(2, max_distance=5)
    positions = torch.tensor([[0, 1, 2], [7, 2, 3]])
    out = bias(DistanceRelativeBias.encode(frame_distances(positions), max_distance=5))
    assert out.shape == (2, 2, 3, 3)
    for b in range(2):
        for h in range(2):
            for i in range(3):
                for j in range(3):
                    distance = int(positions[b, j] - positions[b, i])
                    assert out[b, h, i, j] == bias.table[5 + distance, h]


def test_a_distance_beyond_the_table_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="frame distances must be at most relative_bias_max_distance=5, got 6"
    ):
        DistanceRelativeBias.encode(frame_distances(torch.tensor([0, 6])), max_distance=5)


def test_the_network_reads_the_three_features() -> None:
    positions = torch.tensor([[10, 12, 700]])
    features = NetworkRelativeBias.encode(frame_distances(positions))
    assert features.shape == (1, 3, 3, 3)
    torch.testing.assert_close(features[0, 0, 1], torch.tensor([math.log(3.0), 0.0, 0.0]))
    torch.testing.assert_close(features[0, 2, 0], torch.tensor([0.0, math.log(691.0), 0.0]))
    torch.testing.assert_close(features[0, 1, 1], torch.tensor([0.0, 0.0, 1.0]))
    bias = NetworkRelativeBias(4, width=8)
    out = bias(features)
    assert out.shape == (1, 4, 3, 3)
    hidden = torch.nn.functional.silu(bias.hidden(features[0, 0, 1]))
    torch.testing.assert_close(out[0, :, 0, 1], bias.out(hidden))


@pytest.mark.parametrize("kind", ["t5", "distance", "network"])
def test_a_shift_of_all_positions_changes_nothing(kind: str) -> None:
    config = VideoUNetConfig(relative_bias=kind)  # type: ignore[arg-type]
    positions = torch.tensor([[0, 1, 5, 9]])
    torch.testing.assert_close(
        encode_positions(positions, config), encode_positions(positions + 1000, config)
    )


KINDS = {
    "t5": VideoUNetConfig(relative_bias="t5", relative_bias_buckets=8, relative_bias_max_distance=20),
    "distance": VideoUNetConfig(relative_bias="distance", relative_bias_max_distance=12),
    "network": VideoUNetConfig(relative_bias="network", relative_bias_width=5),
}
POSITIONS = torch.tensor([[3, 4, 5, 14], [9, 2, 2, 0]])


def bias_of(kind: str, positions: Tensor) -> tuple[nn.Module, Tensor]:
    """A module in float64 with weights of size one, and its bias of some frames."""
    torch.manual_seed(0)
    module = relative_bias(2, KINDS[kind]).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module, module(encode_positions(positions, KINDS[kind]))


def by_hand(module: nn.Module, distance: int) -> Tensor:
    """The bias of one distance, (heads,)."""
    if isinstance(module, T5RelativeBias):
        return module.table[t5_bucket(distance, 8, 20)]
    if isinstance(module, DistanceRelativeBias):
        return module.table[12 + distance]
    assert isinstance(module, NetworkRelativeBias)
    features = [math.log(1 + max(distance, 0)), math.log(1 + max(-distance, 0)), float(distance == 0)]
    hidden = module.hidden.weight @ torch.tensor(features, dtype=torch.float64) + module.hidden.bias
    return module.out.weight @ (hidden / (1 + (-hidden).exp())) + module.out.bias


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_has_the_bias_of_its_frames(kind: str) -> None:
    module, bias = bias_of(kind, POSITIONS)
    assert bias.shape == (2, 2, 4, 4)
    for b, frames in enumerate(POSITIONS.tolist()):
        for i, query in enumerate(frames):
            for j, key in enumerate(frames):
                expected = by_hand(module, key - query)
                # The features are float32.
                torch.testing.assert_close(bias[b, :, i, j], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_more_frames_do_not_change_the_bias_of_fewer(kind: str) -> None:
    _, few = bias_of(kind, torch.arange(5))
    _, many = bias_of(kind, torch.arange(12))
    torch.testing.assert_close(many[:, :5, :5], few, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(many[:, 7:, 7:], few, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["t5", "network"])
def test_distances_unseen_in_training_have_a_bias(kind: str) -> None:
    module, bias = bias_of(kind, torch.tensor([0, 25, 100_000]))
    assert bias.isfinite().all()
    torch.testing.assert_close(bias[:, 0, 2], by_hand(module, 100_000), rtol=1e-6, atol=1e-6)
    if kind == "t5":  # the last bucket has no end
        assert torch.equal(bias[:, 0, 2], bias[:, 0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str) -> None:
    module, bias = bias_of(kind, POSITIONS)
    code = encode_positions(POSITIONS, KINDS[kind])
    names, weights = zip(*module.named_parameters())

    def call(*weights: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(module, dict(zip(names, weights)), (code,))
        return out

    assert torch.autograd.gradcheck(call, weights)
    if kind != "network":
        # A row of the table has as much gradient as there are pairs of frames that read it.
        (gradient,) = torch.autograd.grad(bias.sum(), weights)
        pairs = torch.bincount(code.flatten(), minlength=gradient.shape[0]).double()
        assert torch.equal(gradient, pairs[:, None].expand(-1, 2))

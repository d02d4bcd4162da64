"""Which frames each block sees, draws and keeps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdm.generation import Block, plan_blocks, plan_extension


def every(factor: int, total: int) -> list[bool]:
    return [frame % factor == 0 for frame in range(total)]


def test_extension_by_hand() -> None:
    assert plan_extension(20, block_frames=16, context_frames=8) == [
        Block(0, -8, 0, 8, 8),
        Block(1, 0, 8, 16, 16),
        Block(2, 8, 16, 20, 24),
    ]
    assert plan_extension(5, block_frames=8, context_frames=2, stride=3) == [
        Block(0, -2, 0, 3, 6),
        Block(1, 1, 3, 5, 9),
    ]


def test_a_block_ends_where_the_next_one_sees_both_sides_of_the_gap() -> None:
    """Every fourth of 33 frames is known, 16 at once: frames 13..15 would not see frame 16."""
    blocks = plan_blocks(every(4, 33), block_frames=16, context_frames=4)
    assert blocks == [
        Block(0, 0, 0, 13, 16),
        Block(1, 9, 13, 25, 25),
        Block(2, 17, 25, 33, 33),
    ]


def test_a_gap_longer_than_a_block_is_drawn_from_its_left_side() -> None:
    known = [True] + [False] * 18 + [True]
    blocks = plan_blocks(known, block_frames=8, context_frames=2)
    assert [(block.first, block.end) for block in blocks] == [(0, 8), (8, 14), (14, 20)]


def test_without_known_frames_blocks_are_as_long_as_they_can_be() -> None:
    blocks = plan_blocks([False] * 20, block_frames=8, context_frames=3, stride=4)
    assert [(block.start, block.first, block.end) for block in blocks] == [
        (0, 0, 7),
        (4, 7, 11),
        (8, 11, 15),
        (12, 15, 20),
    ]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_blocks_cover_the_video_in_order(data: st.DataObject) -> None:
    known = data.draw(st.lists(st.booleans(), min_size=1, max_size=60))
    block_frames = data.draw(st.integers(1, len(known)))
    context = data.draw(st.integers(0, block_frames - 1))
    stride = data.draw(st.none() | st.integers(1, block_frames - context))
    blocks = plan_blocks(known, block_frames=block_frames, context_frames=context, stride=stride)
    assert blocks[0].first == 0
    assert blocks[-1].end == len(known)
    first = 0
    for index, block in enumerate(blocks):
        assert block.index == index
        assert block.stop - block.start == block_frames
        assert 0 <= block.start <= block.first < block.end <= block.stop <= len(known)
        assert block.first == first
        assert block.start == 0 or block.first - block.start >= context
        first = block.end
    for before, after in pairwise(blocks):
        assert after.start >= before.start, (
            "what a block needs of the past is in the window of the one before it"
        )


@settings(max_examples=200, deadline=None)
@given(
    factor=st.integers(1, 5),
    given_frames=st.integers(2, 12),
    extra=st.integers(0, 5),
    context=st.integers(1, 5),
)
def test_a_gap_is_drawn_in_one_block_that_sees_both_sides(
    factor: int, given_frames: int, extra: int, context: int
) -> None:
    total = factor * (given_frames - 1) + 1
    block_frames = factor + context + extra
    if block_frames > total:
        return
    blocks = plan_blocks(every(factor, total), block_frames=block_frames, context_frames=context)
    for block in blocks:
        for frame in range(block.first, block.end):
            left, right = frame - frame % factor, frame + -frame % factor
            assert block.start <= left
            assert right < block.stop


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"context_frames": 8}, "context_frames must be less than block_frames=8, got 8"),
        ({"context_frames": 9}, "context_frames must be less than block_frames=8, got 9"),
        ({"context_frames": 0}, "context_frames must be at least 1, got 0"),
        ({"stride": 7}, "stride must be at most block_frames - context_frames = 6, got 7"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"block_frames": 2.5}, "block_frames must be an integer, got 2.5"),
    ],
)
def test_errors_of_plan_extension(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"num_frames": 10, "block_frames": 8, "context_frames": 2, "stride": 6}
    with pytest.raises(ValueError, match="^plan_extension: " + message):
        plan_extension(**{**arguments, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frames_known": []}, "frames_known must have one value per frame, got none"),
        ({"frames_known": [1, 0]}, "frames_known must be a list of bool, got"),
        ({"block_frames": 11}, "block_frames must be at most 10, got 11"),
        ({"context_frames": -1}, "context_frames must be at least 0, got -1"),
        ({"context_frames": 8}, "context_frames must be less than block_frames=8, got 8"),
        ({"stride": 7}, "stride must be at most block_frames - context_frames = 6, got 7"),
    ],
)
def test_errors_of_plan_blocks(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"frames_known": [True] * 10, "block_frames": 8, "context_frames": 2}
    with pytest.raises(ValueError, match="^plan_blocks: " + message):
        plan_blocks(**{**arguments, **changed})  # type: ignore[arg-type]

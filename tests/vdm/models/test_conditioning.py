from __future__ import annotations

import pytest
import torch

from vdm.models import Conditioning


def test_null_drops_every_row_and_keeps_the_rest() -> None:
    conditioning = Conditioning(labels=torch.tensor([1, 2, 3]), fps=torch.ones(3), num_image_frames=2)
    null = conditioning.null()
    assert null.drop is not None
    assert null.drop.tolist() == [True, True, True]
    assert null.labels is conditioning.labels
    assert null.num_image_frames == 2
    assert Conditioning().null() == Conditioning()


def test_cat_batches_rows() -> None:
    a = Conditioning(labels=torch.tensor([1, 2]), fps=torch.tensor([1.0, 2.0]))
    b = Conditioning(labels=torch.tensor([3]), fps=torch.tensor([3.0]))
    both = Conditioning.cat(a, b)
    assert both.labels is not None
    assert both.fps is not None
    assert both.labels.tolist() == [1, 2, 3]
    assert both.fps.tolist() == [1.0, 2.0, 3.0]
    assert both.drop is None


def test_cat_fills_drop_and_text_mask_with_their_defaults() -> None:
    a = Conditioning(text_tokens=torch.zeros(2, 3, 4))
    mask = torch.tensor([[True, False, False]])
    b = Conditioning(text_tokens=torch.zeros(1, 3, 4), text_mask=mask).null()
    both = Conditioning.cat(a, b)
    assert both.drop is not None
    assert both.text_mask is not None
    assert both.drop.tolist() == [False, False, True]
    assert both.text_mask.tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    assert Conditioning.cat(b, a).drop.tolist() == [True, False, False]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (Conditioning(fps=torch.ones(1)), Conditioning(), "got one of: fps"),
        (Conditioning(num_image_frames=1), Conditioning(), "num_image_frames must be equal, got 1 and 0"),
        (
            Conditioning(labels=torch.ones(1)),
            Conditioning(labels=torch.ones(1, 4)),
            r"labels must have equal shapes after the batch, got \(1,\) and \(1, 4\)",
        ),
    ],
)
def test_cat_refuses_what_does_not_fit(a: Conditioning, b: Conditioning, message: str) -> None:
    with pytest.raises(ValueError, match=f"Conditioning.cat: .*{message}"):
        Conditioning.cat(a, b)


def test_to_moves_every_tensor() -> None:
    moved = Conditioning(labels=torch.ones(2), fps=torch.ones(2), num_image_frames=1).to("meta")
    assert {value.device.type for value in moved.tensors().values()} == {"meta"}
    assert len(moved.tensors()) == 2
    assert moved.num_image_frames == 1

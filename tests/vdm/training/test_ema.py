"""The moving average against its closed form."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from vdm.training.ema import EMA, ema_decay_at


def test_decay_warms_up() -> None:
    assert ema_decay_at(0.999, 0) == 1 / 10
    assert ema_decay_at(0.999, 90) == 91 / 100
    assert ema_decay_at(0.999, 10**6) == 0.999


def test_average_has_its_closed_form() -> None:
    """e_N = (Π d_n) w_0 + Σ_n (1 - d_n) (Π_{m>n} d_m) w_n in float64."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.6)
    expected = model.weight.detach().double()
    for n in range(20):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(model)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert ema.num_updates == 20
    torch.testing.assert_close(ema.state_dict()["weight"].double(), expected, rtol=0, atol=2e-6)


def test_constant_weights_stay() -> None:
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.99)
    for _ in range(5):
        ema.update(model)
    torch.testing.assert_close(ema.state_dict()["weight"], model.weight.detach(), rtol=0, atol=1e-6)


def test_swapped_puts_the_average_in_and_the_weights_back() -> None:
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(7.0)
    average = ema.state_dict()["weight"].clone()
    parameter, storage = model.weight, model.weight.data_ptr()
    with contextlib.suppress(KeyboardInterrupt), ema.swapped(model):
        assert torch.equal(model.weight, average)
        assert model.weight is parameter
        raise KeyboardInterrupt
    assert (model.weight == 7.0).all()
    assert model.weight.data_ptr() == storage


def test_low_precision_models_are_averaged_in_float32() -> None:
    model = nn.Linear(3, 2).to(torch.bfloat16)
    ema = EMA(model, decay=0.9)
    ema.update(model)
    assert ema.state_dict()["weight"].dtype == torch.float32
    with ema.swapped(model):
        assert model.weight.dtype == torch.bfloat16


def test_buffers_are_copied_and_only_persistent_ones_saved() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("scratch", torch.zeros(1), persistent=False)
    ema = EMA(model)
    model.running_mean.fill_(3.0)  # type: ignore[union-attr]
    ema.update(model)
    state = ema.state_dict()
    assert (state["running_mean"] == 3.0).all()
    assert state.keys() == model.state_dict().keys()
    model.load_state_dict(state)


def test_state_round_trip_and_errors() -> None:
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.9)
    ema.update(model)
    other = EMA(nn.Linear(3, 2), decay=0.9)
    other.load_state_dict(ema.state_dict(), num_updates=1)
    assert other.num_updates == 1
    assert torch.equal(other.state_dict()["weight"], ema.state_dict()["weight"])
    with pytest.raises(ValueError, match=r"names must be the model's, differing: \['bias'\]"):
        other.load_state_dict({"weight": torch.zeros(2, 3)}, num_updates=0)
    with pytest.raises(ValueError, match=r"weight must have shape \(2, 3\), got \(3, 2\)"):
        other.load_state_dict({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, num_updates=0)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        EMA(model, decay=1.0)

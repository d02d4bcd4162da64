"""A network as a denoiser: what it is called with, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vdm.diffusion import ModelDenoiser, Prediction, input_gradients, model_denoiser, predict

Z = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
LOGSNR = torch.tensor([-1.0, 1.0])


class Labels:
    """The smallest conditioning."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def null(self) -> Labels:
        return Labels(torch.full_like(self.labels, -1))

    @staticmethod
    def cat(first: Labels, second: Labels) -> Labels:
        return Labels(torch.cat([first.labels, second.labels]))


def test_calls_the_model() -> None:
    calls = []
    labels = Labels(torch.tensor([3, 4]))

    def model(z: Tensor, logsnr: Tensor, conditioning: Labels) -> Tensor:
        calls.append((z, logsnr, conditioning))
        return z * 2

    prediction = model_denoiser(model, parameterization="v", conditioning=labels)(Z, LOGSNR)
    assert calls == [(Z, LOGSNR, labels)]
    assert torch.equal(prediction.value, Z * 2)
    assert prediction.parameterization == "v"
    assert prediction.variance_preserving
    assert prediction.uncond is prediction.threshold is None


def test_carries_the_process() -> None:
    denoiser = model_denoiser(lambda z, *_: z, parameterization="eps", variance_preserving=False)
    assert isinstance(denoiser, ModelDenoiser)
    assert not denoiser(Z, LOGSNR).variance_preserving
    with pytest.raises(ValueError, match=r"ModelDenoiser: parameterization must be eps or x"):
        model_denoiser(lambda z, *_: z, parameterization="v", variance_preserving=False)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda z: z[:, :2], r"must return z's shape \(2, 3, 4, 5, 6\), got \(2, 2, 4, 5, 6\)"),
        (lambda z: z[:1], r"got \(1, 3, 4, 5, 6\)"),
        (lambda z: (z, z), "must return a torch.Tensor, got tuple"),
        (lambda z: None, "must return a torch.Tensor, got NoneType"),
        (lambda z: z.int(), "floating-point tensor, got torch.int32"),
    ],
)
def test_refuses_a_wrong_output(output, message: str) -> None:
    with pytest.raises(ValueError, match=f"ModelDenoiser: model .*{message}"):
        model_denoiser(lambda z, *_: output(z), parameterization="eps")(Z, LOGSNR)


@pytest.mark.parametrize(
    ("z_dtype", "output_dtype", "expected"),
    [
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.bfloat16),
        (torch.float16, torch.bfloat16, torch.float16),
        (torch.float32, torch.float64, torch.float32),
    ],
)
def test_output_is_never_wider_than_z(
    z_dtype: torch.dtype, output_dtype: torch.dtype, expected: torch.dtype
) -> None:
    denoiser = model_denoiser(lambda z, *_: z.to(output_dtype), parameterization="eps")
    assert denoiser(Z.to(z_dtype), LOGSNR).value.dtype == expected


def test_predict_checks_what_a_denoiser_returns() -> None:
    fine = Prediction(Z, "eps")
    assert predict("here", lambda z, logsnr: fine, Z, LOGSNR) is fine
    with pytest.raises(ValueError, match="here: denoiser must return a Prediction, got Tensor"):
        predict("here", lambda z, logsnr: z, Z, LOGSNR)
    with pytest.raises(ValueError, match=r"here: denoiser's prediction must have z's shape"):
        predict("here", lambda z, logsnr: Prediction(z[:1], "eps"), Z, LOGSNR)
    with pytest.raises(ValueError, match="variance_preserving=False, got True"):
        predict("here", lambda z, logsnr: fine, Z, LOGSNR, variance_preserving=False)


class Scale(nn.Module):
    """z times a parameter, with a switch as the blocks of a U-Net have it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Parameter(torch.tensor(3.0), requires_grad=False)
        self.gradient_checkpointing = False

    def forward(self, z: Tensor, logsnr: Tensor, conditioning: object) -> Tensor:
        return z * self.scale * self.frozen


def test_input_gradients_reach_z_alone() -> None:
    model = Scale()
    denoiser = model_denoiser(model, parameterization="x")
    for checkpoint in (False, True):
        with torch.no_grad():
            with input_gradients(checkpoint=checkpoint):
                z = Z.clone().requires_grad_()
                value = denoiser(z, LOGSNR).value
                assert not model.scale.requires_grad
                assert model.gradient_checkpointing is checkpoint
                with input_gradients():
                    denoiser(z, LOGSNR)
                assert not model.scale.requires_grad, "the outer one still holds"
                (gradient,) = torch.autograd.grad(value.sum(), z)
            assert not torch.is_grad_enabled()
        assert torch.equal(gradient, torch.full_like(Z, 6.0))
        assert model.scale.requires_grad
        assert not model.frozen.requires_grad
        assert not model.gradient_checkpointing
    assert denoiser(Z, LOGSNR).value.requires_grad, "outside, everything is as ever"

"""Denoisers: what samplers call and guidance wraps.

A denoiser maps (z, λ) to a `Prediction`. Everything that changes a prediction (guidance, thresholding,
conditioning on known frames) takes a denoiser and gives a denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from vdm.diffusion.checks import check_batched, check_bool, check_callable, check_like, check_logsnr
from vdm.diffusion.parameterization import Parameterization, Prediction, check_parameterization

Denoiser: TypeAlias = Callable[[Tensor, Tensor], Prediction]
"""(z (B, ...), logsnr (B,)) -> Prediction."""


class SupportsGuidance(Protocol):
    """What the diffusion code asks of a model's conditioning: a null version, and two batches made one."""

    def null(self) -> Any:
        """The conditioning with everything that guidance drops replaced by its null."""
        ...

    @staticmethod
    def cat(first: Any, second: Any, /) -> Any:
        """The rows of `first` followed by those of `second`."""
        ...


Model: TypeAlias = Callable[[Tensor, Tensor, Any], Tensor]
"""(z (B, ...), logsnr (B,), conditioning) -> output of z's shape."""


@dataclass(frozen=True)
class ModelDenoiser:
    """A network as a denoiser: `model(z, logsnr, conditioning)`, read as `parameterization`.

    Attributes:
        model: the network.
        parameterization: what it predicts.
        conditioning: what it is conditioned on, one row per sample; None for nothing.
        variance_preserving: which process it was trained for.
    """

    model: Model
    parameterization: Parameterization
    conditioning: SupportsGuidance | None = None
    variance_preserving: bool = True

    def __post_init__(self) -> None:
        check_callable("ModelDenoiser", "model", self.model)
        check_parameterization("ModelDenoiser", self.parameterization, self.variance_preserving)

    def __call__(self, z: Tensor, logsnr: Tensor) -> Prediction:
        """The network's prediction.

        Args:
            z: (B, ...).
            logsnr: λ, (B,).

        Returns:
            The prediction, of z's shape.

        Raises:
            ValueError: z and logsnr do not fit, or the network returns something of another shape.
        """
        output = self.output(z, logsnr, self.conditioning)
        return Prediction(output, self.parameterization, variance_preserving=self.variance_preserving)

    def output(self, z: Tensor, logsnr: Tensor, conditioning: SupportsGuidance | None) -> Tensor:
        """The network's output under another conditioning, checked; in z's dtype or a narrower one."""
        where = "ModelDenoiser"
        check_batched(where, "z", z)
        check_logsnr(where, "logsnr", logsnr, "z", z)
        output = self.model(z, logsnr, conditioning)
        if not isinstance(output, Tensor):
            raise ValueError(f"{where}: model must return a torch.Tensor, got {type(output).__name__}")
        if output.shape != z.shape:
            raise ValueError(
                f"{where}: model must return z's shape {tuple(z.shape)}, got {tuple(output.shape)}"
            )
        if not output.is_floating_point():
            raise ValueError(f"{where}: model must return a floating-point tensor, got {output.dtype}")
        narrower = output.element_size() < z.element_size()
        return output if narrower else output.to(z.dtype)


def model_denoiser(
    model: Model,
    *,
    parameterization: Parameterization,
    conditioning: SupportsGuidance | None = None,
    variance_preserving: bool = True,
) -> ModelDenoiser:
    """A network as a denoiser, see `ModelDenoiser`.

    Raises:
        ValueError: model is not callable, or the parameterization is not known.
    """
    return ModelDenoiser(model, parameterization, conditioning, variance_preserving)


def predict(
    where: str, denoiser: Denoiser, z: Tensor, logsnr: Tensor, *, variance_preserving: bool | None = None
) -> Prediction:
    """`denoiser(z, logsnr)`, checked to be a Prediction for this z.

    Args:
        where: the caller, for the error message.
        denoiser: what to call.
        z: (B, ...).
        logsnr: λ, (B,).
        variance_preserving: the process the prediction has to be of; None for either.

    Returns:
        The prediction.

    Raises:
        ValueError: the denoiser returned something else, or a prediction of another shape, device or process.
    """
    check_callable(where, "denoiser", denoiser)
    check_batched(where, "z", z)
    check_logsnr(where, "logsnr", logsnr, "z", z)
    if variance_preserving is not None:
        check_bool(where, "variance_preserving", variance_preserving)
    prediction = denoiser(z, logsnr)
    if not isinstance(prediction, Prediction):
        raise ValueError(f"{where}: denoiser must return a Prediction, got {type(prediction).__name__}")
    check_like(where, "denoiser's prediction", prediction.value, "z", z)
    if variance_preserving is not None and prediction.variance_preserving != variance_preserving:
        raise ValueError(
            f"{where}: denoiser's prediction must have the schedule's"
            f" variance_preserving={variance_preserving}, got {prediction.variance_preserving}"
        )
    return prediction

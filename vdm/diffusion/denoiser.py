"""Denoisers: what samplers call and guidance wraps.

A denoiser maps (z, λ) to a `Prediction`. Everything that changes a prediction (guidance, thresholding,
conditioning on known frames) takes a denoiser and gives a denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

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


_ON_CALL: ContextVar[Callable[[Any], None] | None] = ContextVar("vdm_diffusion_on_call", default=None)


@contextmanager
def input_gradients(*, checkpoint: bool = False) -> Iterator[None]:
    """Within it gradients are recorded, through the network of any `ModelDenoiser` to z and to nothing else.

    Grad mode is on, whatever the caller has set. The parameters of a network that is called are constants until
    the end, so that backward passes neither compute their gradients nor keep what those would need.

    Args:
        checkpoint: switch on gradient checkpointing in the modules that have it (`gradient_checkpointing`).

    Raises:
        ValueError: checkpoint is no bool.
    """
    check_bool("input_gradients", "checkpoint", checkpoint)
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        token = _ON_CALL.set(lambda model: stack.enter_context(_constant_parameters(model, checkpoint)))
        try:
            yield
        finally:
            _ON_CALL.reset(token)


@contextmanager
def _constant_parameters(model: object, checkpoint: bool) -> Iterator[None]:
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    switched = [m for m in modules if checkpoint and getattr(m, "gradient_checkpointing", None) is False]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for module in switched:
            module.gradient_checkpointing = True  # type: ignore[assignment]
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for module in switched:
            module.gradient_checkpointing = False  # type: ignore[assignment]


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
        on_call = _ON_CALL.get()
        if on_call is not None:
            on_call(self.model)
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

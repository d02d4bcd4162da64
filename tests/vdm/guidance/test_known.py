"""Replacement and reconstruction guidance against closed forms of linear denoisers, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vdm.diffusion import (
    CosineSchedule,
    Denoiser,
    GeometricVESchedule,
    Prediction,
    alpha_sigma,
    model_denoiser,
)
from vdm.guidance import (
    classifier_free_guidance,
    downsample,
    dynamic_threshold,
    oscillating_guidance,
    reconstruction_guidance,
    replacement,
    static_threshold,
)
from vdm.models import Conditioning, VideoUNet
from vdm.samplers import (
    ancestral,
    annealed_langevin,
    ddim,
    distilled,
    dpm_solver_pp,
    predictor_corrector,
)
from vdm_kernels import philox_normal, use_backend

SHAPE = (3, 2, 4, 4, 6)
RANDOM = torch.Generator().manual_seed(0)
Z, KNOWN = torch.randn(2, *SHAPE, generator=RANDOM, dtype=torch.float64)
LOGSNR = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)
ALPHA, SIGMA = (part.reshape(-1, 1, 1, 1, 1) for part in alpha_sigma(LOGSNR))
FRAMES = torch.tensor([True, False, False, True]).reshape(1, 1, 4, 1, 1)
PIXELS = torch.rand(SHAPE, generator=RANDOM) < 0.4
N = math.prod(SHAPE[1:])
GAIN = 0.3 * torch.randn(N, N, generator=RANDOM, dtype=torch.float64)  # couples everything with everything


def linear(z: Tensor, logsnr: Tensor) -> Prediction:
    """x̂ = G z with one matrix over all values of a sample."""
    return Prediction((z.flatten(1) @ GAIN.to(z.dtype).T).view(z.shape), "x")


def as_eps(z: Tensor, logsnr: Tensor) -> Prediction:
    """The same x̂ as an ε-prediction."""
    alpha, sigma = (part.reshape(-1, 1, 1, 1, 1) for part in alpha_sigma(logsnr))
    return Prediction((z - alpha * linear(z, logsnr).value) / sigma, "eps")


def down_matrix() -> Tensor:
    """D of 4x6 to 2x3 as a matrix: the triangle filter 1/8, 3/8, 3/8, 1/8, cut and normalised at the border."""

    def axis(length: int) -> Tensor:
        rows = torch.zeros(length // 2, length, dtype=torch.float64)
        for i in range(length // 2):
            for j, tap in zip(range(2 * i - 1, 2 * i + 3), (1, 3, 3, 1)):
                if 0 <= j < length:
                    rows[i, j] = tap
        return rows / rows.sum(1, keepdim=True)

    return torch.kron(torch.eye(2 * 4, dtype=torch.float64), torch.kron(axis(4), axis(6)))


def test_downsampling_is_the_triangle_filter() -> None:
    expected = (Z.flatten(1) @ down_matrix().T).view(3, 2, 4, 2, 3)
    torch.testing.assert_close(downsample(Z, 2, 3), expected)
    assert torch.equal(downsample(Z, 4, 6), Z)


@pytest.mark.parametrize("mask", [FRAMES, PIXELS], ids=["frames", "pixels"])
@pytest.mark.parametrize("denoiser", [linear, as_eps], ids=["x", "eps"])
@pytest.mark.parametrize("space", [False, True], ids=["", "and space"])
def test_the_gradient_of_a_linear_denoiser(mask: Tensor, denoiser: Denoiser, space: bool) -> None:
    """x̃^b = G_b z + w α [G^T (M (x^a - G z) + D^T (x_low - D G z))]_b: the factor 2 of the square cancels the 1/2."""
    w = 2.5
    low = downsample(KNOWN.flip(0), 2, 3)
    x = Z.flatten(1) @ GAIN.T
    m = mask.expand(SHAPE).flatten(1)
    residual = torch.where(m, KNOWN.flatten(1) - x, 0.0)
    if space:
        residual = residual + (low.flatten(1) - x @ down_matrix().T) @ down_matrix()
    expected = x + torch.where(m, 0.0, w * ALPHA.flatten(1) * (residual @ GAIN))
    guided = reconstruction_guidance(
        denoiser, w, known=KNOWN, mask=mask, low_resolution=low if space else None
    )
    prediction = guided(Z, LOGSNR)
    torch.testing.assert_close(prediction.x(Z, LOGSNR).flatten(1), expected)
    assert not prediction.value.requires_grad


def test_guidance_in_space_alone() -> None:
    low = downsample(KNOWN, 2, 3)
    x = Z.flatten(1) @ GAIN.T
    residual = (low.flatten(1) - x @ down_matrix().T) @ down_matrix()
    expected = x + 0.7 * ALPHA.flatten(1) * (residual @ GAIN)
    guided = reconstruction_guidance(linear, 0.7, low_resolution=low)
    torch.testing.assert_close(guided(Z, LOGSNR).x(Z, LOGSNR).flatten(1), expected)


def test_the_two_gradients_add() -> None:
    low = downsample(KNOWN.flip(0), 2, 3)
    known: dict[str, Any] = {"known": KNOWN, "mask": FRAMES}
    plain = linear(Z, LOGSNR).value

    def added(**given: Any) -> Tensor:
        change = reconstruction_guidance(linear, 1.5, **given)(Z, LOGSNR).value - plain
        return torch.where(FRAMES, 0.0, change)

    torch.testing.assert_close(added(**known, low_resolution=low), added(**known) + added(low_resolution=low))


@pytest.mark.parametrize(
    "weight",
    [2.0, torch.tensor(2.0), torch.tensor([0.0, 1.0, 3.0]), lambda logsnr: (logsnr > 0).float()],
    ids=["number", "scalar", "per sample", "function"],
)
def test_weights(weight: Any) -> None:
    unit = reconstruction_guidance(linear, 1.0, known=KNOWN, mask=FRAMES)(Z, LOGSNR).value
    plain = linear(Z, LOGSNR).value
    w = weight(LOGSNR) if callable(weight) else weight
    w = torch.as_tensor(w, dtype=torch.float64).expand(3).reshape(-1, 1, 1, 1, 1)
    guided = reconstruction_guidance(linear, weight, known=KNOWN, mask=FRAMES)(Z, LOGSNR)
    torch.testing.assert_close(guided.value, plain + w * (unit - plain))
    zero = reconstruction_guidance(linear, 0, known=KNOWN, mask=FRAMES)
    assert zero is linear


def test_variance_exploding() -> None:
    """α = 1 at every λ."""

    def exploding(z: Tensor, logsnr: Tensor) -> Prediction:
        return Prediction(linear(z, logsnr).value, "x", variance_preserving=False)

    x = Z.flatten(1) @ GAIN.T
    m = FRAMES.expand(SHAPE).flatten(1)
    expected = x + torch.where(m, 0.0, 2.0 * torch.where(m, KNOWN.flatten(1) - x, 0.0) @ GAIN)
    guided = reconstruction_guidance(exploding, 2.0, known=KNOWN, mask=FRAMES)
    torch.testing.assert_close(guided(Z, LOGSNR).value.flatten(1), expected)

    seen: list[Tensor] = []

    def watched(z: Tensor, logsnr: Tensor) -> Prediction:
        seen.append(z)
        return exploding(z, logsnr)

    replacement(watched, KNOWN, FRAMES, seeds=0, variance_preserving=False)(Z, LOGSNR)
    spread = (seen[0] - KNOWN)[:, :, ::3] / torch.exp(-0.5 * LOGSNR).reshape(-1, 1, 1, 1, 1)
    assert spread.std() == pytest.approx(1.0, abs=0.15)


def test_replacement_has_the_marginals_of_the_process() -> None:
    """z^a ~ N(α x^a, σ² I), independent from level to level, the same at the same level; z^b is left alone."""
    known = torch.full((4000, 1, 2, 1, 1), 0.6)
    mask = torch.tensor([True, False]).reshape(1, 1, 2, 1, 1)
    z = torch.full_like(known, 9.0)
    seen: list[Tensor] = []

    def watched(z: Tensor, logsnr: Tensor) -> Prediction:
        seen.append(z)
        return Prediction(z, "v")

    denoiser = replacement(watched, known, mask, seeds=0)
    noises = []
    for level in (-2.0, 0.0, 1e-6, 3.0, 0.0):
        prediction = denoiser(z, torch.full((4000,), level))
        alpha, sigma = alpha_sigma(torch.tensor(level))
        a, b = seen[-1][:, 0, 0, 0, 0], seen[-1][:, 0, 1, 0, 0]
        assert bool((b == 9.0).all())
        assert float(a.mean()) == pytest.approx(0.6 * float(alpha), abs=4 * float(sigma) / 4000**0.5)
        assert float(a.std()) == pytest.approx(float(sigma), rel=0.05)
        noises.append((a - alpha * 0.6) / sigma)
        assert torch.equal(prediction.x(z, torch.full((4000,), level))[:, 0, 0, 0, 0], known[:, 0, 0, 0, 0])
    assert torch.equal(seen[1], seen[4]), "a function of λ"
    correlations = torch.corrcoef(torch.stack(noises[:4])) - torch.eye(4)
    assert correlations.abs().max() < 5 / 4000**0.5


def test_the_noise_is_that_of_each_sample() -> None:
    """Philox of (seed, 2^40 + the bits of λ), for every row its own λ, away from the draws of samplers."""
    seen: list[Tensor] = []

    def watched(z: Tensor, logsnr: Tensor) -> Prediction:
        seen.append(z)
        return Prediction(z, "v")

    replacement(watched, KNOWN, FRAMES, seeds=[5, 6, -7])(Z, LOGSNR)
    for row, seed in enumerate([5, 6, -7]):
        bits = int(LOGSNR[row].float().view(torch.int32)) + 2**40
        eps = philox_normal((1, *SHAPE[1:]), torch.tensor([seed]), bits, dtype=torch.float64)[0]
        expected = torch.where(FRAMES[0], ALPHA[row] * KNOWN[row] + SIGMA[row] * eps, Z[row])
        torch.testing.assert_close(seen[0][row], expected)
        replacement(watched, KNOWN[row : row + 1], FRAMES, seeds=seed)(
            Z[row : row + 1], LOGSNR[row : row + 1]
        )
        assert torch.equal(seen[-1][0], seen[0][row])
    assert bits > 2**39


def test_replacing_nothing_changes_nothing() -> None:
    nothing = torch.zeros(1, 1, 1, 1, 1, dtype=torch.bool)
    prediction = replacement(as_eps, torch.full_like(KNOWN, torch.nan), nothing, seeds=0)(Z, LOGSNR)
    assert torch.equal(prediction.x(Z, LOGSNR), as_eps(Z, LOGSNR).x(Z, LOGSNR))


def test_what_is_not_known_is_not_read() -> None:
    hidden = torch.where(PIXELS, KNOWN, torch.inf)
    for wrap in (
        lambda known: reconstruction_guidance(linear, 1.0, known=known, mask=PIXELS),
        lambda known: replacement(linear, known, PIXELS, seeds=0),
    ):
        assert torch.equal(wrap(hidden)(Z, LOGSNR).value, wrap(KNOWN)(Z, LOGSNR).value)


@pytest.mark.parametrize("sampler", [ancestral, ddim])
def test_a_sampler_step_by_step(sampler: Callable[..., Tensor]) -> None:
    """The whole loop written out: replace z^a, predict, guide, replace x̂^a, step."""
    schedule, seeds, w = CosineSchedule(), torch.tensor([3, 4, 5]), 1.5
    guided = reconstruction_guidance(linear, w, known=KNOWN, mask=FRAMES)
    x = sampler(
        replacement(guided, KNOWN, FRAMES, seeds=seeds),
        SHAPE,
        schedule=schedule,
        seeds=seeds,
        num_steps=4,
        dtype=torch.float64,
    )
    levels = schedule(torch.linspace(1, 0, 5, dtype=torch.float64)).float()
    z = philox_normal(SHAPE, seeds, 0, dtype=torch.float64)
    m = FRAMES.expand(SHAPE)
    for i in range(4):
        (alpha, sigma), (alpha_s, sigma_s) = (alpha_sigma(level.double()) for level in levels[i : i + 2])
        eps = philox_normal(SHAPE, seeds, int(levels[i].view(torch.int32)) + 2**40, dtype=torch.float64)
        replaced = torch.where(m, alpha * KNOWN + sigma * eps, z)
        x_hat = replaced.flatten(1) @ GAIN.T
        residual = torch.where(m.flatten(1), KNOWN.flatten(1) - x_hat, 0.0)
        x_hat = torch.where(m, KNOWN, (x_hat + w * alpha * residual @ GAIN).view(SHAPE))
        if i == 3:
            break
        gain = -torch.expm1(levels[i].double() - levels[i + 1].double())
        if sampler is ancestral:
            noise = philox_normal(SHAPE, seeds, i + 1, dtype=torch.float64)
            z = (1 - gain) * (alpha_s / alpha) * z + gain * alpha_s * x_hat + gain.sqrt() * sigma_s * noise
        else:
            z = alpha_s * x_hat + sigma_s * (z - alpha * x_hat) / sigma
    torch.testing.assert_close(x, x_hat, rtol=1e-5, atol=1e-5)
    assert torch.equal(x[:, :, ::3], KNOWN[:, :, ::3])


class Network(nn.Module):
    """A conditional linear network with a parameter, which notes of what gradients are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.ones(()))
        self.wanted: list[tuple[bool, ...]] = []

    def forward(self, z: Tensor, logsnr: Tensor, conditioning: object) -> Tensor:
        wanted = self.wanted

        class Times(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, z: Tensor, weight: Tensor) -> Tensor:
                ctx.save_for_backward(z, weight)
                return z * weight

            @staticmethod
            def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor]:
                wanted.append(ctx.needs_input_grad)
                z, weight = ctx.saved_tensors
                return dout * weight, (dout * z).sum()

        return Times.apply(z.cumsum(2), self.weight)


class Nothing:
    def null(self) -> Nothing:
        return self

    @staticmethod
    def cat(first: Nothing, second: Nothing) -> Nothing:
        return first


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_only_z_gets_a_gradient_in_any_grad_mode(mode: Callable[[], Any]) -> None:
    network = Network()
    guided = classifier_free_guidance(
        model_denoiser(network, parameterization="v", conditioning=Nothing()), 1.0
    )
    with mode():
        known, mask = KNOWN.float().clone(), FRAMES.clone()
        low = downsample(known, 2, 3)
        denoiser = reconstruction_guidance(guided, 1.0, known=known, mask=mask, low_resolution=low)
        value = denoiser(Z.float().clone(), LOGSNR.float().clone()).value
    assert network.wanted == [(True, False)]
    assert network.weight.grad is None
    assert network.weight.requires_grad, "as before"
    outside = reconstruction_guidance(
        guided, 1.0, known=KNOWN.float(), mask=FRAMES, low_resolution=downsample(KNOWN.float(), 2, 3)
    )
    torch.testing.assert_close(value, outside(Z.float(), LOGSNR.float()).value)


def test_parameters_are_as_before_after_an_error() -> None:
    network = Network()

    def broken(z: Tensor, logsnr: Tensor, conditioning: object) -> Tensor:
        network(z, logsnr, conditioning)
        raise KeyboardInterrupt

    wrapped = nn.Module()
    wrapped.network = network  # type: ignore[assignment]
    wrapped.forward = broken  # type: ignore[method-assign]
    guided = reconstruction_guidance(
        model_denoiser(wrapped, parameterization="v"), 1.0, known=KNOWN, mask=FRAMES
    )
    with pytest.raises(KeyboardInterrupt):
        guided(Z, LOGSNR)
    assert network.weight.requires_grad


def unet() -> VideoUNet:
    torch.manual_seed(0)
    model = VideoUNet(
        in_channels=1, base_channels=16, channel_multipliers=(1, 2), num_blocks=1, num_groups=4, head_dim=8,
        attention_levels=(1,), embedding_dim=32, num_classes=3,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model


def saved_bytes(denoiser: Denoiser, z: Tensor, logsnr: Tensor) -> tuple[Tensor, int]:
    """x̂, and how many bytes its graph held."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return denoiser(z, logsnr).value, sum(storages.values())


def test_a_network_through_its_fused_backward_passes() -> None:
    """The gradient agrees with finite differences; checkpointing gives the same, and holds less."""
    model = unet()
    network = model_denoiser(
        model, parameterization="v", conditioning=Conditioning(labels=torch.tensor([1, 2]))
    )
    z, known = torch.randn(2, 2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    logsnr = torch.tensor([0.0, 1.0])
    mask = torch.tensor([True, True, False, False]).reshape(1, 1, 4, 1, 1)
    guide = partial(
        reconstruction_guidance, classifier_free_guidance(network, 1.0), 4.0, known=known, mask=mask
    )
    (plain, held), (checkpointed, held_less) = (
        saved_bytes(guide(checkpoint=checkpoint), z, logsnr) for checkpoint in (False, True)
    )
    torch.testing.assert_close(checkpointed, plain)
    assert held_less < 0.5 * held
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())

    unguided = classifier_free_guidance(network, 1.0)
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(3)).masked_fill(mask, 0.0)

    def error(step: float) -> Tensor:
        with torch.no_grad():
            x = unguided(z + step * direction, logsnr).x(z + step * direction, logsnr)
            return torch.where(mask, known - x, 0.0).double().square().sum(dim=(1, 2, 3, 4))

    slope = (error(1e-2) - error(-1e-2)) / 2e-2
    with torch.no_grad():
        x = unguided(z, logsnr).x(z, logsnr)
    along = ((plain - x) * direction).double().sum(dim=(1, 2, 3, 4))
    alpha, _ = alpha_sigma(logsnr.double())
    assert float(along.abs().min()) > 1e-3
    torch.testing.assert_close(along, -4.0 * alpha / 2 * slope, rtol=0.02, atol=1e-4)


SAMPLERS = [
    partial(ancestral, gamma=0.3),
    partial(ddim, eta=0.5),
    predictor_corrector,
    dpm_solver_pp,
    distilled,
]
each_sampler = pytest.mark.parametrize(
    "sampler", SAMPLERS, ids=lambda sampler: getattr(sampler, "func", sampler).__name__
)


@pytest.mark.parametrize("order", ["papers", "threshold inside", "guidance outside"])
@each_sampler
def test_wrappers_compose_in_any_sensible_order(order: str, sampler: Callable[..., Tensor]) -> None:
    network = model_denoiser(Network(), parameterization="v", conditioning=Nothing())
    known = KNOWN.float().clamp(-1, 1)
    guide = partial(
        reconstruction_guidance, weight=1.0, known=known, mask=FRAMES, low_resolution=downsample(known, 2, 3)
    )
    replace = partial(replacement, known=known, mask=FRAMES, seeds=0)
    denoiser = {
        "papers": lambda: replace(static_threshold(guide(classifier_free_guidance(network, 2.0)))),
        "threshold inside": lambda: replace(guide(dynamic_threshold(classifier_free_guidance(network, 2.0)))),
        "guidance outside": lambda: static_threshold(guide(replace(classifier_free_guidance(network, 2.0)))),
    }[order]()
    x = sampler(denoiser, SHAPE, schedule=CosineSchedule(), seeds=0, num_steps=5)
    assert torch.equal(x[:, :, ::3], known[:, :, ::3])
    assert bool(x.isfinite().all())
    if order != "threshold inside":
        assert x.abs().max() <= 1.0


def test_annealed_langevin_given_frames() -> None:
    def exploding(z: Tensor, logsnr: Tensor) -> Prediction:
        return Prediction(z * torch.sigmoid(logsnr).reshape(-1, 1, 1, 1, 1), "x", variance_preserving=False)

    known = KNOWN.float()
    guided = reconstruction_guidance(exploding, 1.0, known=known, mask=FRAMES)
    denoiser = replacement(guided, known, FRAMES, seeds=0, variance_preserving=False)
    x = annealed_langevin(denoiser, SHAPE, schedule=GeometricVESchedule(), seeds=0, num_steps=3)
    assert torch.equal(x[:, :, ::3], known[:, :, ::3])
    assert bool(x.isfinite().all())


def test_a_corrector_sees_what_its_predictor_left() -> None:
    """All calls at one λ have the same known values in z."""
    seen: dict[float, list[Tensor]] = {}

    def watched(z: Tensor, logsnr: Tensor) -> Prediction:
        seen.setdefault(float(logsnr[0]), []).append(z[:, :, ::3])
        return Prediction(0.5 * z, "v")

    denoiser = replacement(watched, KNOWN.float(), FRAMES, seeds=0)
    predictor_corrector(denoiser, SHAPE, schedule=CosineSchedule(), seeds=0, num_steps=3, corrector_steps=2)
    counts = [len(calls) for calls in seen.values()]
    assert max(counts) == 3
    for calls in seen.values():
        assert all(torch.equal(call, calls[0]) for call in calls)


class NothingFromTheHost(TorchDispatchMode):
    """Refuses what the capture of a CUDA graph would: reading a value, and tensors made of Python numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default)
        return func(*args, **(kwargs or {}))


def conditioned(network: Denoiser, known: Tensor) -> Denoiser:
    """In time and in space, guided by an oscillating weight."""
    mask = FRAMES.to(known.device)
    oscillating = oscillating_guidance(
        network, high=2.0, low=1.0, num_high_steps=1, schedule=CosineSchedule(), num_steps=4
    )
    guided = reconstruction_guidance(
        oscillating, 1.0, known=known, mask=mask, low_resolution=downsample(known, 2, 3)
    )
    return replacement(dynamic_threshold(guided), known, mask, seeds=0)


def test_a_cuda_graph_could_record_it() -> None:
    z, logsnr = Z.float(), LOGSNR.float()
    network = model_denoiser(Network(), parameterization="v", conditioning=Nothing())
    denoiser = conditioned(network, KNOWN.float())
    with torch.no_grad(), use_backend("reference"):
        denoiser(z, logsnr)  # tables are moved to the device at the first call, which is not recorded
        with NothingFromTheHost():
            x = denoiser(z, logsnr).x(z, logsnr)
    assert torch.equal(x[:, :, ::3], KNOWN.float()[:, :, ::3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_conditional_sampling_as_cuda_graphs_on_a_gpu() -> None:
    network = model_denoiser(Network().to("cuda"), parameterization="v", conditioning=Nothing())
    known = KNOWN.float().to("cuda")
    arguments: dict[str, Any] = {"schedule": CosineSchedule(), "num_steps": 4, "seeds": 0, "device": "cuda"}
    captured, called = (
        ddim(conditioned(network, known), SHAPE, cuda_graph=graph, **arguments) for graph in (True, False)
    )
    torch.testing.assert_close(captured, called)
    torch.testing.assert_close(captured[:, :, ::3], known[:, :, ::3], rtol=0, atol=0)


def test_low_precision() -> None:
    low = reconstruction_guidance(linear, 1.0, known=KNOWN.bfloat16(), mask=FRAMES)(
        Z.bfloat16(), LOGSNR.float()
    )
    high = reconstruction_guidance(linear, 1.0, known=KNOWN, mask=FRAMES)(Z, LOGSNR)
    assert low.value.dtype == torch.bfloat16
    scale = float(high.value.abs().max())
    # The denoiser's own matrix products in bfloat16, forward and backward.
    torch.testing.assert_close(low.value.double(), high.value, rtol=0, atol=2**-6 * scale)


def test_errors() -> None:
    known: dict[str, Any] = {"known": KNOWN, "mask": FRAMES}
    guide = partial(reconstruction_guidance, linear, 1.0)
    for call, message in [
        (lambda: guide(), "known with mask, or low_resolution, must be given, got neither"),
        (lambda: guide(known=KNOWN), "known and mask must be given together, got only known"),
        (lambda: guide(mask=FRAMES), "known and mask must be given together, got only mask"),
        (lambda: reconstruction_guidance(linear, -1.0, **known), r"weight must be in \[0, inf\), got -1.0"),
        (lambda: guide(known=KNOWN / 0, mask=FRAMES), "known must be finite where mask is True, got 288 values"),
        (lambda: guide(known=KNOWN, mask=FRAMES[:, :, :3]), "mask must have five axes, each 1 or as in"),
        (lambda: guide(known=KNOWN, mask=FRAMES.int()), "mask must be a torch.Tensor of torch.bool, got torch.int32"),
        (lambda: guide(**known, low_resolution=torch.zeros(3, 2, 4, 3, 3)), "low_resolution must be .*divisors"),
        (lambda: guide(**known)(Z[:, :, :2], LOGSNR), "z must have known's shape"),
        (lambda: guide(low_resolution=KNOWN)(Z[..., :3], LOGSNR), r"low_resolution must be .* for z"),
        (lambda: replacement(linear, **known, seeds=0)(Z[:, :, :2], LOGSNR), "z must have known's shape"),
        (lambda: replacement(linear, **known, seeds=[1, 2]), "seeds must be one per sample, 3 of them"),
        (lambda: replacement(linear, **known, seeds=0, variance_preserving=False)(Z, LOGSNR),
         "denoiser's prediction must have .*variance_preserving=False, got True"),
        (lambda: guide(**known)(Z, LOGSNR[:2]), r"logsnr must have shape \(3,\)"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=r"^(reconstruction_guidance|replacement): " + message):
            call()
    constant = reconstruction_guidance(lambda z, logsnr: Prediction(Z, "x"), 1.0, **known)
    with pytest.raises(
        ValueError, match="denoiser must be differentiable in z, got a prediction without a gradient"
    ):
        constant(Z, LOGSNR)

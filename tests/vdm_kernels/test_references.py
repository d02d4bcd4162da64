"""The references against closed forms and other code: what every kernel is measured by must itself be right."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vdm_kernels as vk
from vdm_kernels.ops.step.coefficients import (
    ancestral_coefficients,
    ddim_coefficients,
    langevin_coefficients,
)
from vdm_kernels.ops.temporal_attention import reference as temporal_reference

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _reference() -> object:
    with vk.use_backend("reference"):
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def alpha_sigma(logsnr: float, variance_preserving: bool) -> tuple[float, float]:
    """alpha and sigma of the process, straight from their definition."""
    if variance_preserving:
        return math.sqrt(1.0 / (1.0 + math.exp(-logsnr))), math.sqrt(1.0 / (1.0 + math.exp(logsnr)))
    return 1.0, math.exp(-0.5 * logsnr)


def predict(parameterization: str, x: Tensor, eps: Tensor, alpha: float, sigma: float) -> Tensor:
    """What an exact network predicts."""
    return {"x": x, "eps": eps, "v": alpha * eps - sigma * x}[parameterization]


@pytest.mark.parametrize("variance_preserving", [True, False])
@pytest.mark.parametrize("parameterization", ["eps", "x", "v"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_ancestral_step_samples_the_posterior(
    parameterization: str, gamma: float, variance_preserving: bool
) -> None:
    lt, ls = -1.5, 0.75
    (at, st), (a_s, s_s) = alpha_sigma(lt, variance_preserving), alpha_sigma(ls, variance_preserving)
    x, eps = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    z = at * x + st * eps
    seed, t, s = torch.tensor([1, 2]), torch.tensor([lt, lt]), torch.tensor([ls, ls])
    actual = vk.ancestral_step(
        z,
        predict(parameterization, x, eps, at, st),
        t,
        s,
        seed,
        5,
        parameterization=parameterization,  # type: ignore[arg-type]
        gamma=gamma,
        variance_preserving=variance_preserving,
    )
    # q(z_s | z_t, x) by the product of the Gaussians q(z_t | z_s) and q(z_s | x).
    ratio = at / a_s
    variance_ts = st**2 - ratio**2 * s_s**2
    variance = 1.0 / (1.0 / s_s**2 + ratio**2 / variance_ts)
    mean = variance * (a_s * x / s_s**2 + ratio * z / variance_ts)
    std = math.sqrt(variance ** (1.0 - gamma) * variance_ts**gamma)
    noise = vk.philox_normal((2, 3, 4), seed, 5, dtype=DOUBLE)
    torch.testing.assert_close(actual, mean + std * noise, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variance_preserving", [True, False])
@pytest.mark.parametrize("parameterization", ["eps", "x", "v"])
@pytest.mark.parametrize("delta", [0.0, 0.1, 1.0])
def test_langevin_step_follows_the_score(
    parameterization: str, delta: float, variance_preserving: bool
) -> None:
    """Of N(alpha x, sigma^2): the step of annealed Langevin dynamics with eta = delta sigma^2 / 2."""
    logsnr = 0.75
    alpha, sigma = alpha_sigma(logsnr, variance_preserving)
    x, eps = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    z = alpha * x + sigma * eps
    seed = torch.tensor([1, 2])
    actual = vk.langevin_step(
        z,
        predict(parameterization, x, eps, alpha, sigma),
        torch.full((2,), logsnr),
        seed,
        5,
        parameterization=parameterization,  # type: ignore[arg-type]
        delta=delta,
        variance_preserving=variance_preserving,
    )
    score, eta = -(z - alpha * x) / sigma**2, 0.5 * delta * sigma**2
    noise = vk.philox_normal((2, 3, 4), seed, 5, dtype=DOUBLE)
    torch.testing.assert_close(actual, z + eta * score + math.sqrt(2 * eta) * noise, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("variance_preserving", [True, False])
def test_an_ancestral_step_to_infinite_logsnr_is_x_hat(variance_preserving: bool, backend: str) -> None:
    z, x = normal(2, 8).float(), normal(2, 8, seed=1).float()
    if vk.backends()["ancestral_step"].get(backend) is not None:
        pytest.skip("no native extension")
    with vk.use_backend(backend):  # type: ignore[arg-type]
        actual = vk.ancestral_step(
            z,
            x,
            torch.tensor([-20.0, 3.0]),
            torch.full((2,), math.inf),
            torch.arange(2),
            0,
            parameterization="x",
            add_noise=False,
            variance_preserving=variance_preserving,
        )
    assert torch.equal(actual, x)


def test_last_step_has_no_noise() -> None:
    z, p, t = normal(1, 8), normal(1, 8, seed=1), torch.tensor([1.0])
    kwargs = {"parameterization": "x", "gamma": 0.5}
    still = vk.ancestral_step(z, p, t, t + 1, torch.tensor([1]), 0, add_noise=False, **kwargs)
    other = vk.ancestral_step(z, p, t, t + 1, torch.tensor([2]), 7, add_noise=False, **kwargs)
    assert torch.equal(still, other)


@pytest.mark.parametrize("variance_preserving", [True, False])
def test_ddim_without_eta_keeps_the_noise(variance_preserving: bool) -> None:
    lt, ls = -2.0, 1.0
    (at, st), (a_s, s_s) = alpha_sigma(lt, variance_preserving), alpha_sigma(ls, variance_preserving)
    x, eps = normal(2, 9), normal(2, 9, seed=1)
    actual = vk.ddim_step(
        at * x + st * eps,
        eps,
        torch.full((2,), lt),
        torch.full((2,), ls),
        torch.tensor([1, 2]),
        0,
        parameterization="eps",
        variance_preserving=variance_preserving,
    )
    torch.testing.assert_close(actual, a_s * x + s_s * eps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variance_preserving", [True, False])
@pytest.mark.parametrize(("lt", "ls"), [(-20.0, -19.9), (-1.0, 2.0), (19.0, 20.0), (0.0, 1e-3)])
def test_ddim_with_eta_one_is_ancestral_with_gamma_zero(
    lt: float, ls: float, variance_preserving: bool
) -> None:
    t, s = torch.tensor([lt]), torch.tensor([ls])
    ancestral = ancestral_coefficients(t, s, 0.0, variance_preserving)
    ddim = ddim_coefficients(t, s, 1.0, variance_preserving)
    for a, d in zip(ancestral, ddim):
        torch.testing.assert_close(a, d, rtol=1e-9, atol=1e-12)


def test_noise_keeps_the_marginal() -> None:
    # With the exact x, z_s has variance sigma_s^2 around alpha_s x, for every eta and for gamma = 0.
    t, s = torch.tensor([-1.0]), torch.tensor([0.5])
    (at, st), (_, s_s) = alpha_sigma(-1.0, True), alpha_sigma(0.5, True)
    for eta in (0.0, 0.4, 1.0):
        a, b, c = ddim_coefficients(t, s, eta, True)
        torch.testing.assert_close((a * st) ** 2 + c**2, torch.tensor([s_s**2], dtype=DOUBLE))
        torch.testing.assert_close(a * at + b, torch.tensor([alpha_sigma(0.5, True)[0]], dtype=DOUBLE))


def test_guidance_and_threshold_by_hand() -> None:
    z, cond, uncond = (
        torch.zeros(1, 4, dtype=DOUBLE),
        torch.tensor([[1.0, -2.0, 0.5, 3.0]]),
        torch.zeros(1, 4),
    )
    t, s = torch.tensor([0.0]), torch.tensor([2.0])
    # (1 + 1) cond = [2, -4, 1, 6], clipped to 5 and divided by it; less than 1 does not scale up.
    for threshold, expected in ((5.0, [0.4, -0.8, 0.2, 1.0]), (0.5, [1.0, -1.0, 1.0, 1.0])):
        out = vk.ancestral_step(
            z,
            cond.double(),
            t,
            s,
            torch.tensor([0]),
            0,
            parameterization="x",
            uncond=uncond.double(),
            guidance_weight=1.0,
            threshold=threshold,
            add_noise=False,
        )
        b = -math.expm1(-2.0) * alpha_sigma(2.0, True)[0]
        torch.testing.assert_close(out, b * torch.tensor([expected], dtype=DOUBLE))


def test_step_coefficients_stay_finite_at_the_ends() -> None:
    for variance_preserving in (True, False):
        for lt, ls in ((-20.0, -19.9999), (-20.0, 20.0), (19.9999, 20.0)):
            t, s = torch.tensor([lt]), torch.tensor([ls])
            for values in (
                ancestral_coefficients(t, s, 0.3, variance_preserving),
                ddim_coefficients(t, s, 0.3, variance_preserving),
                langevin_coefficients(s, 0.3, variance_preserving),
            ):
                assert all(value.isfinite().all() for value in values)


@pytest.mark.parametrize("variance_preserving", [True, False])
def test_q_sample_is_alpha_x_plus_sigma_eps(variance_preserving: bool) -> None:
    x, logsnr, seed = normal(3, 2, 5), torch.tensor([-20.0, 0.3, 20.0]), torch.tensor([4, 5, 6])
    z, eps = vk.q_sample(x, logsnr, seed, 2, variance_preserving=variance_preserving)
    assert torch.equal(eps, vk.philox_normal((3, 2, 5), seed, 2, dtype=DOUBLE))
    for i, value in enumerate(logsnr.tolist()):
        alpha, sigma = alpha_sigma(value, variance_preserving)
        torch.testing.assert_close(z[i], alpha * x[i] + sigma * eps[i], rtol=1e-12, atol=1e-12)


def test_eps_of_q_sample_is_a_constant() -> None:
    x = normal(2, 5).requires_grad_()
    z, eps = vk.q_sample(x, torch.zeros(2), torch.arange(2), 0)
    assert z.requires_grad
    assert not eps.requires_grad


@pytest.mark.parametrize("op", ["ancestral_step", "ddim_step", "langevin_step"])
def test_closed_form_gradients_are_those_of_autograd(op: str) -> None:
    z, p, u = (normal(2, 11, seed=i).requires_grad_() for i in range(3))
    t = torch.tensor([-1.0, 0.5])
    backward = vk.op.OPS[op].backward
    assert backward is not None
    for threshold in (None, torch.tensor([1.0, 1.4])):
        options = (0.3, True, True) if op == "ancestral_step" else (0.3, True)
        args = (
            z,
            p,
            u,
            *((t,) if op == "langevin_step" else (t, t + 1)),
            torch.tensor([0.5, 2.0]),
            threshold,
            torch.arange(2),
            torch.tensor(0),
            "v",
            *options,
        )
        out = vk.op.OPS[op].reference(*args)
        dout = normal(2, 11, seed=9)
        expected = torch.autograd.grad(out, (z, p, u), dout)
        with torch.no_grad():
            actual = backward.reference(dout, *args, [True, True, True])
        for a, e in zip(actual, expected):
            torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


def plain_group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, scope: str) -> Tensor:
    """By loops and means."""
    out = torch.empty_like(x)
    frames = [slice(f, f + 1) for f in range(x.shape[2])] if scope == "frame" else [slice(None)]
    size = x.shape[1] // num_groups
    for b in range(x.shape[0]):
        for f in frames:
            for g in range(0, x.shape[1], size):
                part = x[b, g : g + size, f]
                mean = part.mean()
                out[b, g : g + size, f] = (part - mean) / ((part - mean).square().mean() + 1e-5).sqrt()
    return out * weight[:, None, None, None] + bias[:, None, None, None]


@pytest.mark.parametrize("scope", ["frame", "video"])
def test_group_norm_silu_by_hand(scope: str) -> None:
    x, weight, bias = normal(2, 6, 3, 4, 5), normal(6, seed=1), normal(6, seed=2)
    scale, shift = normal(2, 3, 6, seed=3), normal(2, 6, seed=4)
    expected = plain_group_norm(x, 3, weight, bias, scope)
    expected = expected * (1.0 + scale.mT[..., None, None]) + shift[:, :, None, None, None]
    actual = vk.group_norm_silu(x, weight, bias, num_groups=3, scale=scale, shift=shift, norm_scope=scope)  # type: ignore[arg-type]
    torch.testing.assert_close(actual, expected * torch.sigmoid(expected), rtol=1e-10, atol=1e-10)
    assert actual.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("scope", ["frame", "video"])
@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_group_norm_is_accurate_where_mean_is_far_from_zero(scope: str, offset: float) -> None:
    # Against the float64 result for the same float32 numbers; PyTorch's own kernel is off by 5e-3 at offset 100.
    x = (normal(2, 32, 2, 16, 16) + offset).float().contiguous(memory_format=torch.channels_last_3d)
    one, zero = torch.ones(32), torch.zeros(32)
    actual = vk.group_norm_silu(x, one, zero, num_groups=8, norm_scope=scope)  # type: ignore[arg-type]
    exact = vk.group_norm_silu(x.double(), one.double(), zero.double(), num_groups=8, norm_scope=scope)  # type: ignore[arg-type]
    assert (actual - exact).abs().max() < 2e-5


def test_frames_do_not_see_each_other() -> None:
    x = normal(1, 4, 3, 5, 5)
    arguments = {
        "norm_weight": torch.ones(4, dtype=DOUBLE),
        "norm_bias": torch.zeros(4, dtype=DOUBLE),
        "num_groups": 2,
    }
    weight = normal(6, 4, 3, 3, seed=1)
    whole = vk.group_norm_silu_conv(x, weight, **arguments)
    for f in range(3):
        alone = vk.group_norm_silu_conv(x[:, :, f : f + 1], weight, **arguments)
        torch.testing.assert_close(alone, whole[:, :, f : f + 1])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_is_conv3d_of_one_frame(kernel: int, upsample: bool, stride: int) -> None:
    if upsample and stride == 2:
        pytest.skip("not an operation")
    x, x2 = normal(2, 3, 4, 5, 6), normal(2, 2, 4, 5, 6, seed=1)
    weight, bias = normal(7, 5, kernel, kernel, seed=2), normal(7, seed=3)
    norm_weight, norm_bias = normal(5, seed=4), normal(5, seed=5)
    h = plain_group_norm(torch.cat([x, x2], 1), 1, norm_weight, norm_bias, "frame")
    h = h * torch.sigmoid(h)
    if upsample:
        h = h.repeat_interleave(2, 3).repeat_interleave(2, 4)
    pad = kernel // 2
    expected = F.conv3d(h, weight[:, :, None], bias, stride=(1, stride, stride), padding=(0, pad, pad))
    residual = torch.randn_like(expected)
    actual = vk.group_norm_silu_conv(
        x,
        weight,
        bias,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        num_groups=1,
        x2=x2,
        residual=residual,
        upsample=upsample,
        stride=stride,
    )
    torch.testing.assert_close(actual, expected + residual, rtol=1e-9, atol=1e-9)
    assert actual.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("segments", [False, True])
def test_temporal_attention_by_einsum(per_sample: bool, segments: bool) -> None:
    qkv = normal(2, 5, 3, 3, 2, 4)
    bias = normal(*((2,) if per_sample else ()), 2, 5, 5, seed=1)
    ids = torch.tensor([[0, 0, 0, 1, 2], [3, 1, 3, 1, 3]]) if segments else None
    q, k, v = qkv.unbind(3)
    scores = torch.einsum("bishd,bjshd->bshij", q, k) / 2.0
    scores = scores + (bias[:, None] if per_sample else bias)
    if ids is not None:
        apart = (ids[:, :, None] != ids[:, None, :])[:, None, None]
        scores = scores.masked_fill(apart, -math.inf)
    expected = torch.einsum("bshij,bjshd->bishd", scores.softmax(-1), v)
    torch.testing.assert_close(vk.temporal_attention(qkv, bias, ids), expected, rtol=1e-10, atol=1e-10)


def test_temporal_attention_of_an_image_is_its_value() -> None:
    qkv = normal(1, 4, 3, 3, 2, 8)
    out = vk.temporal_attention(qkv, normal(2, 4, 4, seed=1), torch.tensor([[0, 0, 1, 2]]))
    assert torch.equal(out[:, 2:], qkv[:, 2:, :, 2])


def test_temporal_attention_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, ids = normal(2, 5, 7, 3, 2, 4), torch.tensor([[0, 0, 0, 1, 2], [3, 1, 3, 1, 3]])
    bias = normal(2, 5, 5, seed=1)
    whole = [vk.temporal_attention(qkv, bias, s) for s in (None, ids)]
    monkeypatch.setattr(temporal_reference, "_MAX_SEQUENCES", 6)
    for s, expected in zip((None, ids), whole):
        torch.testing.assert_close(vk.temporal_attention(qkv, bias, s), expected)


def test_spatial_attention_by_loops() -> None:
    height, width = 3, 4
    qkv, table = normal(2, height, width, 3, 2, 4), normal(2, 9, 7, seed=1)
    flat = qkv.flatten(1, 2)
    scores = torch.einsum("nihd,njhd->nhij", flat[:, :, 0], flat[:, :, 1]) / 2.0
    for i in range(height * width):
        for j in range(height * width):
            dy, dx = i // width - j // width, i % width - j % width
            scores[:, :, i, j] += table[:, dy + 4, dx + 3]
    expected = torch.einsum("nhij,njhd->nihd", scores.softmax(-1), flat[:, :, 2])
    actual = vk.spatial_attention(qkv, table)
    torch.testing.assert_close(actual.flatten(1, 2), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "op",
    [
        "group_norm_silu",
        "group_norm_silu_conv",
        "temporal_attention",
        "spatial_attention",
        "spatial_attention_block",
    ],
)
def test_autocast_computes_in_its_dtype(op: str) -> None:
    x, w = torch.randn(2, 8, 3, 4, 4), torch.randn(8, 8, 3, 3)
    one, zero = torch.ones(8), torch.zeros(8)
    qkv = torch.randn(2, 3, 4, 3, 2, 8)
    calls = {
        "group_norm_silu": lambda: vk.group_norm_silu(x, one, zero, num_groups=2),
        "group_norm_silu_conv": lambda: vk.group_norm_silu_conv(
            x, w, zero, norm_weight=one, norm_bias=zero, num_groups=2, residual=x
        ),
        "temporal_attention": lambda: vk.temporal_attention(qkv, torch.randn(2, 3, 3)),
        "spatial_attention": lambda: vk.spatial_attention(qkv, torch.randn(2, 5, 7)),
        "spatial_attention_block": lambda: vk.spatial_attention_block(
            x, one, zero, torch.randn(24, 8), torch.randn(8, 8), zero, torch.randn(2, 7, 7), heads=2
        ),
    }
    torch.manual_seed(0)
    full = calls[op]()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = calls[op]()
    assert low.dtype == torch.bfloat16
    assert (low - full).abs().max() < 0.05 * full.abs().max()

"""Sampling by CUDA graphs: the loop around a capture that replays into the same memory, and on a GPU the real one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vdm.diffusion import CosineSchedule, GeometricVESchedule, Prediction, Schedule, model_denoiser
from vdm.guidance import combine, dynamic_threshold
from vdm.models import VideoUNet, VideoUNetConfig
from vdm.samplers import (
    SamplerStep,
    ancestral,
    annealed_langevin,
    cuda_graph,
    ddim,
    distilled,
    dpm_solver_pp,
    predictor_corrector,
)
from vdm.samplers import loop as sampler_loop
from vdm.samplers.cuda_graph import CudaGraphed
from vdm_kernels import use_backend

SHAPE = (2, 1, 2, 4, 4)
SAMPLERS: list[tuple[Callable[..., Tensor], dict[str, Any]]] = [
    (ancestral, {"gamma": 0.3}),
    (ddim, {"eta": 0.5}),
    (predictor_corrector, {"corrector_steps": 2}),
    (dpm_solver_pp, {}),
    (distilled, {}),
    (annealed_langevin, {}),
]
each_sampler = pytest.mark.parametrize(
    ("sampler", "option"), SAMPLERS, ids=lambda v: getattr(v, "__name__", str(v))
)


def guided(schedule: Schedule, layer: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Prediction]:
    """A guided and thresholded denoiser, so that all of a prediction's tensors take part."""
    preserving = schedule.variance_preserving
    first = model_denoiser(
        lambda z, logsnr, _: layer(z), parameterization="eps", variance_preserving=preserving
    )
    second = model_denoiser(
        lambda z, logsnr, _: 0.9 * layer(z) + logsnr.reshape(-1, 1, 1, 1, 1) * 0.01,
        parameterization="eps",
        variance_preserving=preserving,
    )
    return dynamic_threshold(combine(first, second, 1.5), 0.9)


def schedule_of(sampler: Callable[..., Tensor]) -> Schedule:
    return GeometricVESchedule() if sampler is annealed_langevin else CosineSchedule()


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A stand-in for CUDA graphs on the CPU: recording gives memory of NaN that every replay writes to.

    Grows by one for each capture and counts its replays.
    """
    replays: list[int] = []

    def tensors(result: Any) -> list[Tensor]:
        _, prediction, state = result  # z is the graph's own copy
        fields = (prediction.value, prediction.uncond, prediction.guidance_weight, prediction.threshold)
        return [*(field for field in fields if isinstance(field, Tensor)), *state]

    def capture(function: Callable[[], Any], device: torch.device) -> tuple[Any, Callable[[], object]]:
        result, number = function(), len(replays)
        replays.append(0)
        for tensor in tensors(result):
            tensor.fill_(math.nan)

        def replay() -> None:
            replays[number] += 1
            for kept, value in zip(tensors(result), tensors(function()), strict=True):
                kept.copy_(value)

        return result, replay

    monkeypatch.setattr(cuda_graph, "capture_cuda_graph", capture)
    monkeypatch.setattr(sampler_loop, "check_cuda_graph", lambda where, device: None)
    return replays


def recorded(sampler: Callable[..., Tensor], **arguments: Any) -> tuple[Tensor, list[tuple[Any, ...]]]:
    """The result, and what a callback sees at every step."""
    seen: list[tuple[Any, ...]] = []

    def callback(step: SamplerStep) -> None:
        seen.append((step.index, step.num_steps, step.t, step.logsnr.clone(), step.z.clone(), step.x()))

    return sampler(shape=SHAPE, seeds=3, callback=callback, **arguments), seen


def assert_same(actual: tuple[Tensor, Any], expected: tuple[Tensor, Any]) -> None:
    assert torch.equal(actual[0], expected[0])
    assert len(actual[1]) == len(expected[1])
    for a, e in zip(actual[1], expected[1]):
        assert a[:3] == e[:3]
        assert all(torch.equal(x, y) for x, y in zip(a[3:], e[3:]))


@each_sampler
def test_replays_give_what_calls_give(
    sampler: Callable[..., Tensor], option: dict[str, Any], captures: list[int]
) -> None:
    schedule = schedule_of(sampler)
    arguments = {
        "denoiser": guided(schedule, torch.tanh),
        "schedule": schedule,
        "num_steps": 6,
        **option,
    }
    expected = recorded(sampler, **arguments)
    assert captures == []
    actual = recorded(sampler, cuda_graph=True, **arguments)
    assert_same(actual, expected)
    # One graph for each kind of move; its first move and the very last one run as they are.
    kinds = 2 if sampler is predictor_corrector else 1
    assert len(captures) == kinds
    assert sum(captures) == len(actual[1]) - kinds - 1


@each_sampler
def test_needs_a_cuda_device(sampler: Callable[..., Tensor], option: dict[str, Any]) -> None:
    def never(z: Tensor, logsnr: Tensor) -> Prediction:
        raise AssertionError("called")

    name = sampler.__name__
    with pytest.raises(
        ValueError, match=f"^{name}: cuda_graph must be False without a CUDA device, got True on"
    ):
        sampler(never, SHAPE, schedule=schedule_of(sampler), num_steps=3, seeds=0, cuda_graph=True, **option)


def test_a_function_that_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Callable[[], Any], device: torch.device) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda_graph, "capture_cuda_graph", refuse)
    function = CudaGraphed("ddim", lambda z: z + 1)
    assert function(torch.ones(2)).tolist() == [2.0, 2.0]
    with pytest.raises(
        ValueError, match=r"^ddim: cuda_graph=True needs .*, got: operation not .* capturing$"
    ):
        function(torch.ones(2))


def test_arguments_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call is given may be written to afterwards, and may be what the call before returned."""

    def capture(function: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], object]]:
        result = function()
        return result, lambda: result.copy_(function())

    monkeypatch.setattr(cuda_graph, "capture_cuda_graph", capture)
    double = CudaGraphed("test", lambda z: 2 * z)
    z = torch.ones(2)
    for _ in range(5):
        z = double(z)
    assert z.tolist() == [32.0, 32.0]


def network(kind: Literal["t5", "distance", "network"]) -> VideoUNet:
    torch.manual_seed(0)
    config = VideoUNetConfig(
        in_channels=1,
        base_channels=8,
        channel_multipliers=(1, 2),
        attention_levels=(0, 1),
        num_blocks=1,
        head_dim=8,
        embedding_dim=16,
        num_groups=4,
        relative_bias=kind,
    )
    model = VideoUNet.from_config(config).eval()
    nn.init.normal_(model.output_conv.weight)
    return model


class NothingFromTheHost(TorchDispatchMode):
    """Refuses what a capture would: reading a value, and tensors made of Python numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default), (
            func
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["t5", "network"])
def test_the_network_and_guidance_read_nothing_on_the_host(kind: Literal["t5", "network"]) -> None:
    model = network(kind)
    denoiser = guided(CosineSchedule(), lambda z: model(z, torch.zeros(len(z))))
    z, logsnr = torch.randn(SHAPE), torch.zeros(SHAPE[0])
    with torch.no_grad(), use_backend("reference"):
        with NothingFromTheHost():
            x = denoiser(z, logsnr).x(z, logsnr)
        assert x.abs().max() <= 1.0
        with NothingFromTheHost(), pytest.raises(AssertionError):
            denoiser(z * float(logsnr[0]), logsnr)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["t5", "distance", "network"])
def test_a_video_unet_can_be_captured_on_a_gpu(kind: Literal["t5", "distance", "network"]) -> None:
    model = network(kind).to("cuda")
    arguments = {
        "denoiser": dynamic_threshold(model_denoiser(model, parameterization="v")),
        "schedule": CosineSchedule(),
        "num_steps": 4,
        "device": "cuda",
    }
    captured, called = (recorded(ancestral, cuda_graph=graph, **arguments) for graph in (True, False))
    torch.testing.assert_close(captured[0], called[0], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_sampler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_give_what_calls_give_on_a_gpu(
    sampler: Callable[..., Tensor], option: dict[str, Any], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv3d(8, 1, 1)).to("cuda", dtype)
    schedule = schedule_of(sampler)
    arguments = {
        "denoiser": guided(schedule, layer),
        "schedule": schedule,
        "num_steps": 6,
        "device": "cuda",
        "dtype": dtype,
        **option,
    }
    assert_same(recorded(sampler, cuda_graph=True, **arguments), recorded(sampler, **arguments))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_denoiser_that_reads_a_tensor_is_refused_on_a_gpu() -> None:
    def reads(z: Tensor, logsnr: Tensor) -> Prediction:
        return Prediction(z * float(logsnr[0]), "eps")

    arguments: dict[str, Any] = {"schedule": CosineSchedule(), "num_steps": 4, "seeds": 0, "device": "cuda"}
    with pytest.raises(ValueError, match="ddim: cuda_graph=True needs a denoiser that never reads a tensor"):
        ddim(reads, SHAPE, cuda_graph=True, **arguments)

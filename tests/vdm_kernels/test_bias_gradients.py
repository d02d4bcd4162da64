"""A learned bias always gets its gradient, on every backend: the contract tests call an operator, these train a layer.

What it meets in a model: other layers before and behind, graph breaks beside it, compilation and checkpointing around
it, and frozen weights, so that nothing before the bias needs a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vdm_kernels import spatial_attention, temporal_attention, use_backend
from vdm_kernels.op import OPS
from vdm_kernels.testing import record_backends, tensors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, FRAMES, SIZE, HEADS, WIDTH = 2, 3, (3, 2), 1, 8
CHANNELS = HEADS * WIDTH


class Attention(nn.Module):
    """Every kind of learned bias, each between two projections."""

    def __init__(self, *, only_biases: bool) -> None:
        super().__init__()
        self.graph_breaks = False
        torch.manual_seed(0)
        self.projections = nn.ModuleList(nn.Linear(CHANNELS, 3 * CHANNELS) for _ in range(3))
        self.requires_grad_(not only_biases)
        self.shared = nn.Parameter(torch.randn(HEADS, FRAMES, FRAMES))
        self.per_sample = nn.Parameter(torch.randn(BATCH, HEADS, FRAMES, FRAMES))
        self.table = nn.Parameter(torch.randn(HEADS, 2 * SIZE[0] - 1, 2 * SIZE[1] + 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, H, W, C) in and out."""
        for kind, project in enumerate(self.projections):
            qkv = project(x).unflatten(-1, (3, HEADS, WIDTH))
            if self.graph_breaks:
                torch._dynamo.graph_break()
            if kind == 2:
                out = spatial_attention(qkv.flatten(0, 1), self.table).unflatten(0, (BATCH, FRAMES))
            else:
                bias = self.per_sample if kind else self.shared
                out = temporal_attention(qkv.flatten(2, 3), bias).unflatten(2, SIZE)
            if self.graph_breaks:
                torch._dynamo.graph_break()
            x = x + out.flatten(-2)
        return x


def eager(module: Attention, x: Tensor) -> Tensor:
    y: Tensor = module(x)
    return y


def compiled(module: Attention, x: Tensor) -> Tensor:
    y: Tensor = torch.compile(module, backend="aot_eager", fullgraph=True)(x)
    return y


def compiled_in_parts(module: Attention, x: Tensor) -> Tensor:
    module.graph_breaks = True
    y: Tensor = torch.compile(module, backend="aot_eager")(x)
    return y


def checkpointed(module: Attention, x: Tensor) -> Tensor:
    y: Tensor = checkpoint(module, x, use_reentrant=False)
    return y


def compiled_around_a_checkpoint(module: Attention, x: Tensor) -> Tensor:
    y: Tensor = torch.compile(lambda x: checkpointed(module, x), backend="aot_eager", fullgraph=True)(x)
    return y


def gradients(module: Attention, y: Tensor) -> dict[str, Tensor]:
    weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    return dict(zip(weights, torch.autograd.grad(y.square().sum(), list(weights.values()))))


@pytest.mark.parametrize("backend", ["reference", "native", "triton"])
@pytest.mark.parametrize("only_biases", [False, True], ids=["all_weights", "only_biases"])
@pytest.mark.parametrize(
    "way", [eager, compiled, compiled_in_parts, checkpointed, compiled_around_a_checkpoint]
)
def test_biases_have_their_gradients(
    backend: str, only_biases: bool, way: Callable[[Attention, Tensor], Tensor]
) -> None:
    reason = OPS["temporal_attention"].why_not(backend)
    if backend == "native" and DEVICE == "cuda":
        reason = "the native kernels of attention run on the CPU"
    if reason is not None:
        pytest.skip(reason)
    x = tensors(torch.float32, DEVICE)(BATCH, FRAMES, *SIZE, CHANNELS)
    double = Attention(only_biases=only_biases).double().to(DEVICE)
    module = Attention(only_biases=only_biases).to(DEVICE)
    with use_backend("reference"):
        expected = gradients(double, double(x.double()))
    torch._dynamo.reset()
    with use_backend(backend), record_backends() as record:
        actual = gradients(module, way(module, x))
    assert set(actual) >= {"shared", "per_sample", "table"}
    assert len(actual) == (3 if only_biases else 9)
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient.double(), expected[name], rtol=1e-4, atol=1e-5)
    passes = {"temporal_attention", "temporal_attention_bwd", "spatial_attention", "spatial_attention_bwd"}
    assert backend == "reference" or {(name, backend) for name in passes} <= set(record)

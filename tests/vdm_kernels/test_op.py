"""The mechanism: which backend runs, when, and what happens where none can. With an op made up for the purpose."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import vdm_kernels
from vdm_kernels import op as mechanism
from vdm_kernels.op import OPS, Implementation, Op, backends, use_backend
from vdm_kernels.testing import poisoned_empty, record_backends


def scaled_cube(x: Tensor, scale: float) -> Tensor:
    """scale x^3."""
    return scale * x**3


def scaled_cube_bwd(dout: Tensor, x: Tensor, scale: float, needs: Sequence[bool]) -> list[Tensor]:
    """3 scale x^2 dout."""
    return [3.0 * scale * x**2 * dout]


PACKAGE = "vdm_kernels.ops"  # has no modules of backends
SCALED_CUBE_BWD = Op(
    scaled_cube_bwd, fake=lambda dout, x, scale, needs: [torch.empty_like(x)], package=PACKAGE
)
SCALED_CUBE = Op(
    scaled_cube,
    fake=lambda x, scale: torch.empty_like(x),
    package=PACKAGE,
    backward=SCALED_CUBE_BWD,
    differentiable=("x",),
)


# The report and the tests of the real ops do not see it.
for made_up in (SCALED_CUBE, SCALED_CUBE_BWD):
    del OPS[made_up.name]


def _supports(x: Tensor, *rest: Any) -> str | None:
    return None if x.dtype == torch.float32 else f"takes float32, not {x.dtype}"


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    # Plain code stands for the kernels; what is under test is who is called.
    forward = {
        "native": Implementation(scaled_cube, _supports),
        "triton": Implementation(scaled_cube, _supports),
    }
    backward = {"native": Implementation(scaled_cube_bwd, _supports)}
    monkeypatch.setattr(SCALED_CUBE, "_implementations", {**SCALED_CUBE._implementations, **forward})
    monkeypatch.setattr(SCALED_CUBE_BWD, "_implementations", {**SCALED_CUBE_BWD._implementations, **backward})
    monkeypatch.setattr(mechanism, "_INTERPRETING", True)
    monkeypatch.setattr(mechanism, "_LOGGED", set())


def test_first_backend_that_supports_the_call_runs(caplog: pytest.LogCaptureFixture) -> None:
    with record_backends() as record:
        SCALED_CUBE(torch.ones(2), 2.0)
        with caplog.at_level(logging.WARNING):
            SCALED_CUBE(torch.ones(2).double(), 2.0)
            SCALED_CUBE(torch.ones(3).double(), 2.0)
    assert record == [("scaled_cube", "native"), ("scaled_cube", "reference"), ("scaled_cube", "reference")]
    assert [r.message for r in caplog.records] == [
        "the native backend is not used: takes float32, not torch.float64"
    ]


def test_forced_backend_raises_the_reason() -> None:
    reason = "scaled_cube: the native backend cannot run this call: takes float32, not torch.float64"
    with use_backend("native"), pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        SCALED_CUBE(torch.ones(2).double(), 2.0)
    with pytest.raises(
        ValueError, match=r"^use_backend: name must be one of native, triton, reference, got 'gpu'$"
    ):
        use_backend("gpu")


def test_contexts_nest_and_are_left_after_errors() -> None:
    def fail() -> None:
        with use_backend("triton"):
            assert mechanism.forced_backend() == "triton"
            raise RuntimeError

    assert mechanism.forced_backend() is None
    with use_backend("native"):
        with pytest.raises(RuntimeError):
            fail()
        assert mechanism.forced_backend() == "native"
    assert mechanism.forced_backend() is None


def test_one_object_holds_a_context_once_at_a_time() -> None:
    held = use_backend("native")
    for _ in range(2):
        with held, pytest.raises(RuntimeError, match="once at a time"), held:
            pass
        assert mechanism.forced_backend() is None

    @held
    def nested(depth: int) -> str | None:
        return nested(depth - 1) if depth else mechanism.forced_backend()

    assert nested(2) == "native"
    assert mechanism.forced_backend() is None


def test_threads_do_not_see_each_others_context() -> None:
    barrier = threading.Barrier(3)

    def choose(name: str) -> str:
        with use_backend(name):
            barrier.wait()
            return SCALED_CUBE.select((torch.ones(2), 2.0))

    with ThreadPoolExecutor(3) as pool:
        names = ["native", "triton", "reference"]
        assert list(pool.map(choose, names)) == names


def test_a_kernel_that_fails_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: Tensor, scale: float) -> Tensor:
        raise RuntimeError("launch failed")

    monkeypatch.setitem(SCALED_CUBE._implementations, "native", Implementation(broken, _supports))
    with pytest.raises(RuntimeError, match="launch failed"):
        SCALED_CUBE(torch.ones(2), 2.0)


@pytest.mark.parametrize(
    ("forward", "backward"), [("native", "native"), ("triton", "native"), ("reference", None)]
)
def test_backward_runs_where_forward_did_if_it_can(forward: str, backward: str | None) -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    with record_backends() as record:
        with use_backend(forward):
            out = SCALED_CUBE(x, 2.0)
        out.sum().backward()
    assert record[0] == ("scaled_cube", forward)
    assert record[1:] == ([] if backward is None else [("scaled_cube_bwd", backward)])
    assert x.grad is not None
    assert x.grad.tolist() == [6.0, 24.0]


@pytest.mark.parametrize("backend", ["native", "triton", "reference"])
def test_gradients_of_gradients(backend: str) -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    with use_backend(backend):
        (first,) = torch.autograd.grad(SCALED_CUBE(x, 2.0).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [12.0, -24.0]


class GradientCut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None


@pytest.mark.parametrize("backend", ["native", "triton", "reference"])
def test_no_backward_pass_where_no_gradient_arrives(backend: str) -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    with use_backend(backend):
        y = SCALED_CUBE(x, 2.0)
    with record_backends() as record:
        GradientCut.apply(y).sum().backward()
    assert record == []
    assert x.grad is None


def test_functional_transforms_go_through_the_reference() -> None:
    def loss(x: Tensor) -> Tensor:
        result: Tensor = SCALED_CUBE(x, 2.0).sum()
        return result

    x = torch.tensor([1.0, -2.0])
    assert torch.func.grad(loss)(x).tolist() == [6.0, 24.0]
    assert torch.func.vmap(lambda x: SCALED_CUBE(x, 2.0))(x).tolist() == [2.0, -16.0]
    with use_backend("native"), pytest.raises(ValueError, match=r"torch\.func"):
        torch.func.grad(loss)(x)


def test_dispatch_modes_see_the_op() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Recorder(), use_backend("native"):
        SCALED_CUBE(torch.ones(2), 2.0)
    assert "vdm_kernels.scaled_cube.default" in seen


def test_compiled_code_follows_use_backend() -> None:
    torch._dynamo.reset()
    x = torch.ones(2)
    compiled = torch.compile(lambda x: SCALED_CUBE(x, 2.0), fullgraph=True, backend="aot_eager")
    for backend, expected in (
        ("native", [("scaled_cube", "native")]),
        ("reference", []),
        ("triton", [("scaled_cube", "triton")]),
        ("native", [("scaled_cube", "native")]),
    ):
        with record_backends() as record, use_backend(backend):
            compiled(x)
        assert record == expected
    with record_backends() as record:
        compiled(x)
    assert record == [("scaled_cube", "native")]


def test_compiled_code_logs_a_fallback(caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: SCALED_CUBE(x, 2.0), fullgraph=True, backend="eager")
    with caplog.at_level(logging.WARNING):
        compiled(torch.ones(2).double())
    assert [r.message for r in caplog.records if r.name == "vdm_kernels"] == [
        "the native backend is not used: takes float32, not torch.float64"
    ]


def test_compiled_code_takes_new_sizes() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(vdm_kernels.ancestral_step, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, size in ((2, 5), (3, 9), (4, 6)):
        z, logsnr = torch.randn(batch, 3, 2, size, size), torch.linspace(-2.0, 1.0, batch)
        arguments = (z, torch.randn_like(z), logsnr, logsnr + 1.0, torch.arange(batch), size)
        actual = compiled(*arguments, parameterization="v", threshold=1.0)
        expected = vdm_kernels.ancestral_step(*arguments, parameterization="v", threshold=1.0)
        torch.testing.assert_close(actual, expected)


def test_exports_to_a_graph_with_the_op() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = SCALED_CUBE(x, 2.0)
            return result

    with use_backend("native"):
        program = torch.export.export(Module(), (torch.ones(2),))
    assert any("scaled_cube" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 16.0]))


def test_backends_names_every_op_and_reason() -> None:
    report = backends()
    assert {"ancestral_step", "group_norm_silu_conv", "temporal_attention_bwd"} <= set(report)
    for reasons in report.values():
        assert set(reasons) == {"native", "triton", "reference"}
        assert reasons["reference"] is None
        assert all(reason is None or reason for reason in reasons.values())


def test_poisoned_empty_is_nan() -> None:
    with poisoned_empty():
        assert torch.empty(3).isnan().all()
        assert torch.empty_like(torch.ones(3, dtype=torch.bfloat16)).isnan().all()
        assert torch.ones(2).new_empty(3).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_without_the_extension_everything_runs_on_the_reference() -> None:
    program = """
import logging, sys
logging.basicConfig(format="%(message)s")
sys.modules["vdm_kernels._C"] = None
import torch, vdm_kernels
vdm_kernels.philox_normal((1, 4), torch.tensor([0]), 0)
vdm_kernels.abs_quantile(torch.ones(1, 4), 0.5)
print(vdm_kernels.backends()["philox_normal"]["native"])
try:
    with vdm_kernels.use_backend("native"):
        vdm_kernels.abs_quantile(torch.ones(1, 4), 0.5)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    reason = done.stdout.splitlines()[0]
    assert reason.startswith("vdm_kernels._C did not load (")
    assert done.stdout.splitlines()[1] == f"abs_quantile: the native backend cannot run this call: {reason}"
    assert done.stderr.count(reason) == 1

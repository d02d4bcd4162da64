"""How a row is measured: pick the function, check its result, time it, say what the time means."""

import contextlib
import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch._functorch import config as functorch_config

import vdm_kernels
from harness.ceilings import measure_ceiling
from harness.environment import device_name, versions
from harness.memory import peak_bytes
from harness.rounds import Budget, Rival, seconds_of, turn_of
from harness.table import RowKey
from harness.workload import RELATIVE_ERROR, CompileOptions, Function, Workload, relative_error, spread_error
from vdm_kernels.testing import record_backends

# What `use_backend` is given for a row of ours; every other row runs under "reference", except "vdm": the
# backend that a user gets without asking.
FORCED = {"native": "native", "cuda": "native", "triton": "triton"}
OURS = (*FORCED, "reference", "vdm")
SPREAD_ERROR = 0.03


@dataclass
class Shared:
    """What the rows of a group share: the reference's result, computed once, and the fastest baseline so far.

    Where rows report their peak memory, `rival` is not held during that: it is the row before, if a baseline.
    """

    group: str = ""
    expected: list[Tensor] | None = None
    rival: Rival | None = None

    def enter(self, group: str) -> None:
        """Free what another group left."""
        if group != self.group:
            self.group, self.expected, self.rival = group, None, None


@dataclass(frozen=True)
class Row:
    """One row of the results: `measure` runs a workload the way `key` says and records it."""

    key: RowKey
    benchmark: BenchmarkFixture
    budget: Budget
    shared: Shared
    quick: bool

    def measure(self, make: Callable[[RowKey], Workload]) -> None:
        """Check, then time; skips with the reason where this machine or this call cannot serve the row.

        Args:
            make: builds the workload of a row: the same one at every call, on fresh tensors.

        Raises:
            AssertionError: the result is not the reference's: no time is reported for a wrong result.
        """
        self.shared.enter(self.key.group)
        workload = make(self.key)
        function = self._function(workload)
        if self.shared.expected is None:
            self.shared.expected = expected_result(make(self.key), self.key)
        with self._backend(), functorch_config.patch(donated_buffer=False):
            run, result = self._first_run(function, workload)
            self._check(result, self.shared.expected, workload)
            del result
            self._time(run)
            if workload.memory:
                self.shared.rival = None  # with what it holds, a call's resident memory was up to 12 % more
                self.benchmark.extra_info["peak_bytes"] = peak_bytes(run, self.key.device)
            self._compete(run, workload)
        self._describe(workload)

    def _function(self, workload: Workload) -> Function:
        """What the row calls."""
        backend = self.key.backend
        if backend in OURS:
            return workload.call
        if backend == "eager":
            return workload.plain
        if backend == "compile":
            if (reason := why_no_compiler(self.key.device)) is not None:
                pytest.skip(f"torch.compile: {reason}")
            torch.compiler.reset()
            options: CompileOptions = {} if self.quick else dict(workload.compile_options)
            if workload.random and self.key.device == "cpu":
                options["fallback_random"] = True  # the compiler's own noise is much slower there
            self.benchmark.extra_info["compile_options"] = options
            if workload.compiled is not None:
                return workload.compiled(options)
            return torch.compile(workload.plain, options=options, dynamic=False)
        library = workload.libraries[backend]
        if isinstance(library, str):
            pytest.skip(f"{backend}: {library}")
        return library

    @contextlib.contextmanager
    def _backend(self) -> Iterator[None]:
        """Force the backend that the row names."""
        if self.key.backend == "vdm":
            yield
            return
        name = FORCED.get(self.key.backend, "reference")
        if (reason := vdm_kernels.backends().get(self.key.op, {}).get(name)) is not None:
            pytest.skip(f"{name}: {reason}")
        with vdm_kernels.use_backend(name):
            yield

    def _first_run(self, function: Function, workload: Workload) -> tuple[Callable[[], object], list[Tensor]]:
        """The call to time and its result; skips, with the reason, a row that its backend does not serve."""
        backend = self.key.backend
        try:
            with record_backends() as served:
                run = bind(function, workload, self.key.direction)
                result = tensors_of(run())
        except Exception as error:
            refused = isinstance(error, ValueError) and "backend cannot run this call" in str(error)
            if backend in OURS and not refused:
                raise
            pytest.skip(f"{backend}: {first_line(error)}")
        for op, name in served:
            if backend in FORCED and name != FORCED[backend]:
                pytest.skip(f"{backend}: {op} has no kernel of its own here, {name} runs it")
        self.benchmark.extra_info["served_by"] = {
            op: sorted({name for served_op, name in served if served_op == op}) for op, _ in sorted(served)
        }
        return run, result

    def _check(self, result: list[Tensor], expected: list[Tensor], workload: Workload) -> None:
        if self.key.backend in workload.other_models:
            assert [tensor.shape for tensor in result] == [truth.shape for truth in expected]
            return
        own_noise = workload.random and self.key.direction == "fwd" and self.key.backend not in OURS
        measure, limit = (
            (spread_error, SPREAD_ERROR) if own_noise else (relative_error, RELATIVE_ERROR[self.key.dtype])
        )
        assert len(result) == len(expected), (
            f"{self.key}: {len(result)} results, the reference has {len(expected)}"
        )
        for index, (tensor, truth) in enumerate(zip(result, expected)):
            assert tensor.shape == truth.shape, (
                f"{self.key}: result {index} is {tensor.shape}, expected {truth.shape}"
            )
            error = measure(tensor, truth)
            assert error <= limit, (
                f"{self.key}: result {index} is off by {error:.2e}, at most {limit:.0e} is accepted"
            )

    def _time(self, run: Callable[[], object]) -> None:
        """Time `run`: a row of ours in turn with the fastest baseline that the group has had, any other alone.

        What slows the machine for some seconds then hits both sides alike and leaves their ratio alone.
        """
        rival = self.shared.rival if self.key.backend in (*FORCED, "vdm") else None
        seconds = seconds_of(run, self.key.device)
        rounds, calls = turn_of(seconds)
        turns = self.budget.turns(seconds, rival)
        pairs: list[tuple[float, float]] = []  # turn by turn, seconds per call of the rival and of this row

        def end_round() -> None:
            if rival is None or self.benchmark.stats is None:
                return
            data = self.benchmark.stats.stats.data
            if len(data) == (len(pairs) + 1) * rounds:
                pairs.append((rival.take_turn(self.key.device), statistics.median(data[-rounds:])))

        self.benchmark.group, self.benchmark.name = self.key.group, self.key.backend
        self.benchmark.pedantic(run, rounds=turns * rounds, iterations=calls, teardown=end_round)
        if rival is not None and pairs:
            self.benchmark.extra_info["beside"] = {
                "backend": rival.backend,
                "seconds": statistics.median(theirs for theirs, _ in pairs),
                "ratio": statistics.median(theirs / ours for theirs, ours in pairs),
            }

    def _compete(self, run: Callable[[], object], workload: Workload) -> None:
        """Keep the call of a baseline for the rows of ours if it is the fastest so far."""
        stats = self.benchmark.stats  # None: --benchmark-disable
        if self.key.backend in (*OURS, *workload.other_models) or stats is None:
            return
        if self.shared.rival is None or stats.stats.median < self.shared.rival.seconds:
            self.shared.rival = Rival(self.key.backend, run, stats.stats.median)

    def _describe(self, workload: Workload) -> None:
        """Everything that a reader of the JSON needs to know about the row."""
        info = self.benchmark.extra_info
        info.update(
            op=self.key.op,
            case=self.key.case,
            dtype=self.key.dtype_name,
            direction=self.key.direction,
            backend=self.key.backend,
            device=self.key.device,
            device_name=device_name(self.key.device),
            threads=torch.get_num_threads(),
            versions=versions(),
        )
        work = workload.work.get(self.key.direction)
        if work is None or self.benchmark.stats is None:
            return
        seconds = self.benchmark.stats.stats.median
        ceiling = measure_ceiling(self.key.device, self.key.dtype)
        info["bytes"], info["flops"] = work.num_bytes, work.flops
        info["gbps"] = work.num_bytes / seconds / 1e9
        if work.flops:
            info["tflops"] = work.flops / seconds / 1e12
        info["share_of_limit"] = ceiling.seconds(work.num_bytes, work.flops) / seconds
        info["limit"] = {"gbps": ceiling.bytes_per_second / 1e9, "tflops": ceiling.flops_per_second / 1e12}


def bind(function: Function, workload: Workload, direction: str) -> Callable[[], object]:
    """The call to time: `fwd` without a graph; `bwd`, `dx` alone, over a graph that is kept; `step` as it is."""
    inputs = workload.inputs
    if direction == "dx":
        inputs = tuple(x if i in workload.activations else x.detach() for i, x in enumerate(inputs))
    if direction == "fwd":

        def forward() -> object:
            with torch.no_grad():
                return function(*inputs)

        return forward
    if direction in ("bwd", "dx"):
        outputs = [tensor for tensor in tensors_of(function(*inputs)) if tensor.requires_grad]
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        generator = torch.Generator(outputs[0].device).manual_seed(1)
        # In the layout of the output, as they arrive from the layer behind.
        gradients = [
            torch.empty_like(out).copy_(torch.randn(out.shape, generator=generator, device=out.device))
            for out in outputs
        ]
        return lambda: torch.autograd.grad(outputs, leaves, gradients, retain_graph=True)
    return functools.partial(function, *inputs)


def tensors_of(result: object) -> list[Tensor]:
    """A function's results as a list."""
    return [result] if isinstance(result, Tensor) else list(result)  # type: ignore[call-overload]


def expected_result(workload: Workload, key: RowKey) -> list[Tensor]:
    """The reference's result on the row's own inputs, computed in float32."""
    inputs = tuple(
        tensor.detach().float().requires_grad_(tensor.requires_grad) if tensor.is_floating_point() else tensor
        for tensor in workload.inputs
    )
    workload = replace(workload, inputs=inputs)
    with vdm_kernels.use_backend("reference"):
        return [
            tensor.detach().clone() for tensor in tensors_of(bind(workload.call, workload, key.direction)())
        ]


@functools.cache
def why_no_compiler(device: str) -> str | None:
    """None where `torch.compile` works on `device`, else the first line of what it says."""
    try:
        torch.compile(lambda x: torch.sin(x) + 1, dynamic=False)(torch.zeros(64, device=device))
    except Exception as error:
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """What an error says, short enough for a reason."""
    return (str(error) or type(error).__name__).splitlines()[0]

"""The one mechanism by which every op is defined, registered with PyTorch, and sent to a backend.

An op is a reference: a plain PyTorch function whose signature is the schema and whose result is the definition.
Beside it, in the op's folder, a backend is a module with a function of the op's name and signature, and a function
`supports_<op>` of the same arguments that returns None or the reason why not:

    vdm_kernels/ops/<op>/native.py           <op>, supports_<op>      C++ on the CPU, CUDA C++ on a GPU
    vdm_kernels/ops/<op>/triton_kernels.py   <op>, supports_<op>      Triton

A backward pass is an op too, `<op>_bwd(dout, *arguments of <op>, needs) -> [gradient, ...]`: one gradient per
differentiable argument, an empty tensor where `needs` is False, for which a backend may give None. Of several outputs
the first is differentiable, the others are constants; channel statistics that nobody asked for are empty, or None. A
forward pass saves its arguments and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch.compiler import is_dynamo_compiling

from vdm_kernels import native
from vdm_kernels.setting import Held, Setting

BACKENDS = ("native", "triton", "reference")
_MODULES = {"native": "native", "triton": "triton_kernels"}
_ORDER = {"cuda": ("native", "triton", "reference"), "cpu": ("native", "reference", "triton")}
# Types of arguments that do not look at the calls which take them, as a tensor's subclass may.
_PLAIN = frozenset(
    (Tensor, torch.nn.Parameter, type(None), bool, int, float, str, list, tuple, torch.Size, torch.dtype)
)
_LIBRARY = torch.library.Library("vdm_kernels", "DEF")
_LOGGER = logging.getLogger("vdm_kernels")
_LOGGED: set[str] = set()

OPS: dict[str, Op] = {}
RECORDERS: list[list[tuple[str, str]]] = []  # see testing.record_backends

_FORCED: Setting[str | None] = Setting("vdm_kernels_backend", None)


class Implementation(NamedTuple):
    """One backend of one op."""

    run: Callable[..., Any]
    supports: Callable[..., str | None]


def _load(package: str, name: str, backend: str) -> Implementation | str:
    """The implementation of op `name` in a backend's module of `package`, or why there is none."""
    if backend == "native" and native.WHY_NOT is not None:
        return native.WHY_NOT
    if backend == "triton" and _NO_TRITON is not None:
        return _NO_TRITON
    module_name = f"{package}.{_MODULES[backend]}"
    if importlib.util.find_spec(module_name) is None:
        return _no_kernel(name, backend)
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        return _no_kernel(name, backend)
    return Implementation(getattr(module, name), getattr(module, f"supports_{name}", _anything))


def _no_kernel(name: str, backend: str) -> str:
    return f"there is no {backend} kernel of {name}"


def _why_no_triton() -> str | None:
    # Without a look at the device: that would start CUDA, which a process that forks later must not do.
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not _INTERPRETING and torch.version.cuda is None and torch.version.hip is None:
        return "Triton needs PyTorch for a GPU, or TRITON_INTERPRET=1 to interpret its kernels"
    return None


def _anything(*args: Any) -> None:
    return None


def _log_fallback(name: str, backend: str, reason: str) -> None:
    # That a kernel does not exist is no news; that one is not used is, once.
    message = f"the {backend} backend is not used: {reason}"
    if message not in _LOGGED and reason != _no_kernel(name, backend):
        _LOGGED.add(message)
        _LOGGER.warning(message)


# What torch.compiler.assume_constant_result sets, without importing the compiler: Dynamo calls the function
# while it traces, instead of tracing into it.
_log_fallback._dynamo_marked_constant = True  # type: ignore[attr-defined]


# Triton decides when it is imported whether it interprets.
_INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
_NO_TRITON = _why_no_triton()


def forced_backend() -> str | None:
    """The backend that the innermost `use_backend` of this context asks for."""
    return _FORCED.get()


def use_backend(name: str) -> Held[str | None]:
    """Runs every op inside on one backend: "reference", "native" or "triton".

    An op that this backend cannot run raises ValueError with the reason. A backward pass runs on the
    backend of its forward pass, also where it is called outside. Compiled functions are compiled again
    for another backend.

    Raises:
        ValueError: `name` is no backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"use_backend: name must be one of {', '.join(BACKENDS)}, got {name!r}")
    return _FORCED.set(name)


def backends() -> dict[str, dict[str, str | None]]:
    """For every op and backend: None where it is available on this machine, else the reason why not."""
    return {name: {backend: op.why_not(backend) for backend in BACKENDS} for name, op in OPS.items()}


class Op:
    """An operator: its reference, and whatever runs it faster.

    Args:
        reference: the definition. Its type hints give the schema; its name is the op's.
        fake: the same arguments -> empty outputs of the right shape, dtype, strides and device.
        package: where the modules of the backends are: `__name__` of the op's package.
        backward: the op of the gradient; None for an op that has none.
        differentiable: the names of the arguments that `backward` gives gradients for, in its order.
        addends: the names of further arguments, whose gradient is that of the output itself.
        memory_format: of the gradient that arrives at `backward`.
        prepare: the arguments -> the arguments with what `backward` will read of them filled in. It is called where
            a kernel runs and a gradient may be asked for.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        *,
        fake: Callable[..., Any],
        package: str,
        backward: Op | None = None,
        differentiable: Sequence[str] = (),
        addends: Sequence[str] = (),
        memory_format: torch.memory_format = torch.contiguous_format,
        prepare: Callable[..., Sequence[Any]] | None = None,
    ) -> None:
        self.name = reference.__name__
        self.reference = reference
        self.backward = backward
        self.memory_format = memory_format
        self.prepare = prepare
        self._implementations: dict[str, Implementation | str] = {
            "native": _load(package, self.name, "native"),
            "triton": _load(package, self.name, "triton"),
            "reference": Implementation(reference, _anything),
        }
        # The last argument of the registered operator is the backend: what was chosen is in the graph.
        arguments, returns = torch.library.infer_schema(reference, mutates_args=()).rsplit(") -> ", 1)
        types, names = zip(*(argument.split() for argument in arguments[1:].split(", ")))
        self._tensors = tuple(i for i, kind in enumerate(types) if kind.startswith("Tensor"))
        self.differentiable = (*differentiable, *addends)
        self.positions = tuple(names.index(name) for name in differentiable)
        self._addends = tuple(names.index(name) for name in addends)
        _LIBRARY.define(
            f"{self.name}{arguments}, str backend) -> {returns}", tags=(torch.Tag.pt2_compliant_tag,)
        )
        _LIBRARY.impl(self.name, torch.no_grad()(self._run_registered), "CompositeExplicitAutograd")
        qualified = f"vdm_kernels::{self.name}"
        torch.library.register_fake(qualified, lambda *args: fake(*args[:-1]), lib=_LIBRARY)
        torch.library.register_autograd(
            qualified, self._run_backward, setup_context=self._setup_context, lib=_LIBRARY
        )
        self.overload = getattr(torch.ops.vdm_kernels, self.name).default
        OPS[self.name] = self

    def __call__(self, *args: Any) -> Any:
        """Runs the op on the backend that `select` gives."""
        backend = self.select(args)
        if backend == "reference":
            # It is traced into, so that it can be fused and differentiated like any other code.
            return self.reference(*args) if is_dynamo_compiling() else self._run(args, backend)
        if not self._needs_grad(args):
            return self._launch(args, backend)
        if self.prepare is not None:
            args = tuple(self.prepare(*args))
        return self.overload(*args, backend)

    def _launch(self, args: Sequence[Any], backend: str) -> Any:
        # Without a gradient to record, PyTorch's dispatcher is only needed by what looks at its calls: a mode, or a
        # tensor subclass.
        if is_dynamo_compiling() or _len_torch_dispatch_stack() or not _PLAIN.issuperset(map(type, args)):
            return self.overload(*args, backend)
        return self._run(args, backend)

    def select(self, args: Sequence[Any], prefer: str | None = None) -> str:
        """The forced backend, or the first that supports the call: `prefer`, then the device's order.

        Raises:
            ValueError: the forced backend does not support this call.
        """
        forced = _FORCED.get() if prefer is None else None
        if forced is not None:
            reason = self.unsupported(forced, args)
            if reason is not None:
                raise ValueError(f"{self.name}: the {forced} backend cannot run this call: {reason}")
            return forced
        order = _ORDER["cuda" if self._is_cuda(args) else "cpu"]
        for backend in order if prefer is None else (prefer, *order):
            reason = self.unsupported(backend, args)
            if reason is None:
                return backend
            if prefer is None:
                _log_fallback(self.name, backend, reason)
        raise AssertionError("the reference supports every call")

    def unsupported(self, backend: str, args: Sequence[Any]) -> str | None:
        """Why a backend cannot run this call; None where it can."""
        implementation = self._implementations[backend]
        if isinstance(implementation, str):
            return implementation
        if backend == "reference":
            return None
        if backend == "triton" and not _INTERPRETING and not self._is_cuda(args):
            return "Triton runs CPU tensors only under TRITON_INTERPRET=1"
        if not is_dynamo_compiling() and peek_interpreter_stack() is not None:
            return "only the reference can be transformed by torch.func"
        return implementation.supports(*args)

    def why_not(self, backend: str) -> str | None:
        """Why a backend is not available on this machine for any call of this op; None where it is."""
        implementation = self._implementations[backend]
        if isinstance(implementation, str):
            return implementation
        if backend == "triton" and not (torch.cuda.is_available() or _INTERPRETING):
            return "Triton needs a GPU, or TRITON_INTERPRET=1"
        return None

    def _run(self, args: Sequence[Any], backend: str) -> Any:
        for recorder in RECORDERS:
            recorder.append((self.name, backend))
        implementation = self._implementations[backend]
        assert not isinstance(implementation, str), implementation
        return implementation.run(*args)

    def _run_registered(self, *args: Any) -> Any:
        # A registered operator returns tensors only. What is absent, a gradient or channel statistics, is empty.
        results = self._run(args[:-1], args[-1])
        if isinstance(results, Tensor):
            return results
        dtype = torch.float64 if isinstance(results, tuple) else None
        return type(results)(args[0].new_empty(0, dtype=dtype) if one is None else one for one in results)

    def _is_cuda(self, args: Sequence[Any]) -> bool:
        # The first tensor of an op is never absent.
        return bool(args[self._tensors[0]].is_cuda)

    def _needs_grad(self, args: Sequence[Any]) -> bool:
        if torch.is_grad_enabled():
            for i in self._tensors:
                if args[i] is not None and args[i].requires_grad:
                    return True
        return False

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *args, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*(arg if isinstance(arg, Tensor) else None for arg in args))
        ctx.constants = [None if isinstance(arg, Tensor) else arg for arg in args]
        if isinstance(output, tuple):
            ctx.mark_non_differentiable(*output[1:])

    def _run_backward(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        if self.backward is None:
            raise RuntimeError(f"{self.name}: has no gradient")
        if grads[0] is None:
            return (None,) * (len(ctx.constants) + 1)
        args = [
            constant if saved is None else saved for saved, constant in zip(ctx.saved_tensors, ctx.constants)
        ]
        dout = grads[0].contiguous(memory_format=self.memory_format)
        needs = [bool(ctx.needs_input_grad[i]) for i in self.positions]
        gradients: list[Tensor | None] = [None] * (len(args) + 1)
        for i in self._addends:
            gradients[i] = dout if ctx.needs_input_grad[i] else None
        if not any(needs):
            return tuple(gradients)
        call = (dout, *args, needs)
        # With create_graph, the gradient is differentiated again: the reference can be.
        if torch.is_grad_enabled():
            results = self.backward.reference(*call)
        else:
            results = self.backward._launch(call, self.backward.select(call, prefer=ctx.backend))
        for i, need, result in zip(self.positions, needs, results):
            gradients[i] = result if need else None
        return tuple(gradients)


def fake_gradients(*tensors: Tensor | None, needs: Sequence[bool]) -> list[Tensor]:
    """What a backward pass returns, without values: like the arguments, empty where not needed."""
    like = next(tensor for tensor in tensors if tensor is not None)
    return [
        torch.empty_like(tensor) if need and tensor is not None else like.new_empty(0)
        for tensor, need in zip(tensors, needs)
    ]


def recomputed_gradients(
    reference: Callable[..., Tensor],
    args: Sequence[Any],
    differentiable: Sequence[int],
    dout: Tensor,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients of a reference by running it again; differentiable again where grad is enabled."""
    create_graph = torch.is_grad_enabled()
    args = list(args)
    wanted = [i for i, need in zip(differentiable, needs) if need and args[i] is not None]
    with torch.enable_grad(), _autograd_keys():
        for i in wanted:
            connected = create_graph and args[i].requires_grad
            args[i] = args[i].view_as(args[i]) if connected else args[i].detach().requires_grad_()
        # An empty batch may leave an input out of the graph: its gradient is zero.
        gradients = torch.autograd.grad(
            reference(*args),
            [args[i] for i in wanted],
            dout,
            create_graph=create_graph,
            materialize_grads=True,
        )
    found = dict(zip(wanted, gradients))
    return [_laid_out(found[i], args[i], dout) if i in found else dout.new_empty(0) for i in differentiable]


def _laid_out(gradient: Tensor, argument: Tensor, dout: Tensor) -> Tensor:
    """The gradient with the strides of its argument, and not `dout` itself, which an operator may not return."""
    if gradient is not dout and gradient.stride() == argument.stride():
        return gradient
    return torch.empty_like(argument).copy_(gradient)


def _autograd_keys() -> contextlib.AbstractContextManager[Any]:
    # A registered operator runs with the autograd dispatch keys excluded; enable_grad alone records
    # nothing there.
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in _AUTOGRAD_KEYS:
        excluded = excluded.remove(key)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


_AUTOGRAD_KEYS = tuple(
    getattr(torch._C.DispatchKey, name)
    for name in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView")
)

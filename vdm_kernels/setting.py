"""A value that a `with` block sets for every call inside it, eager or traced by torch.compile."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Generic, TypeVar

from torch.compiler import is_dynamo_compiling

T = TypeVar("T")


class Setting(Generic[T]):
    """One setting of this thread and context.

    Args:
        name: of the context variable.
        default: the value outside every `with` block.
    """

    def __init__(self, name: str, default: T) -> None:
        self._variable: contextvars.ContextVar[T] = contextvars.ContextVar(name, default=default)
        # Dynamo cannot read a ContextVar, but guards on what it reads of this object. It is the latest entry of
        # any thread; the variable is the truth wherever no graph is being traced.
        self._traced = SimpleNamespace(value=default)

    def get(self) -> T:
        """The value of the innermost `with` block."""
        if is_dynamo_compiling():
            value: T = self._traced.value
            return value
        return self._variable.get()

    @contextlib.contextmanager
    def set(self, value: T) -> Iterator[None]:
        """Holds `value` inside the `with` block."""
        token = self._variable.set(value)
        self._traced.value = value
        try:
            yield
        finally:
            self._variable.reset(token)
            self._traced.value = self._variable.get()

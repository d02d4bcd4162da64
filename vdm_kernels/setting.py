"""A value that a `with` block sets for every call inside it, eager or traced by torch.compile."""

from __future__ import annotations

import contextlib
import contextvars
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

    def set(self, value: T) -> Held[T]:
        """Holds `value` inside the `with` block."""
        return Held(self, value)


class Held(contextlib.ContextDecorator, Generic[T]):
    """What holds a value of a setting: a context manager, or a decorator. A generator would be slower."""

    def __init__(self, setting: Setting[T], value: T) -> None:
        self._setting, self._value = setting, value
        self._token: contextvars.Token[T] | None = None

    def _recreate_cm(self) -> Held[T]:
        return Held(self._setting, self._value)

    def __enter__(self) -> None:
        if self._token is not None:
            raise RuntimeError("one object holds a setting once at a time: make another for the inner block")
        self._token = self._setting._variable.set(self._value)
        self._setting._traced.value = self._value

    def __exit__(self, *error: object) -> None:
        token, self._token = self._token, None
        assert token is not None
        self._setting._variable.reset(token)
        self._setting._traced.value = self._setting._variable.get()

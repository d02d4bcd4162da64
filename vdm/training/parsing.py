"""Configurations from and to plain values: JSON, TOML files and `section.key=value` overrides.

Everything is typed by the dataclasses themselves; an unknown key is an error that names its nearest match.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vdm.training.config import Config, ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same module, for Python 3.10

T = TypeVar("T")


def config_to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as nested JSON values."""
    values: dict[str, dict[str, Any]] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def config_from_dict(values: Mapping[str, Any], *, base: Config | None = None) -> Config:
    """A configuration from nested plain values; what is not given is taken from `base`.

    Raises:
        ConfigError: an unknown section or key, or a value of the wrong type.
    """
    config = Config() if base is None else base
    sections = [f.name for f in dataclasses.fields(Config)]
    changed: dict[str, Any] = {}
    for section, entries in values.items():
        if section not in sections:
            raise ConfigError(f"config: unknown section [{section}]{_nearest(section, sections)}")
        if not isinstance(entries, Mapping):
            raise ConfigError(f"config: [{section}] must be a table of keys, got {entries!r}")
        changed[section] = _replace(getattr(config, section), section, entries)
    return dataclasses.replace(config, **changed)


def load_config(path: Path, *, base: Config | None = None) -> Config:
    """A configuration from a `.toml` or `.json` file.

    Raises:
        ConfigError: the file cannot be read or parsed, or holds an unknown key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"config: {path} must be a readable file, got: {error.strerror}") from error
    except ValueError as error:  # JSONDecodeError, TOMLDecodeError, UnicodeDecodeError
        raise ConfigError(f"config: {path} could not be parsed: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config: {path} must hold sections, got {type(values).__name__}")
    try:
        return config_from_dict(values, base=base)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration with `section.key=value` overrides applied, typed by the dataclasses.

    Values: `none` where a field is optional; `true` / `false`; lists as `1,2,4`. All overrides apply at once,
    so that an intermediate combination cannot be invalid.

    Raises:
        ConfigError: malformed override, unknown key, wrong type.
    """
    values: dict[str, dict[str, Any]] = {}
    sections = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise ConfigError(f"--set: must be section.key=value, got {override!r}")
        if section not in sections:
            raise ConfigError(f"--set {override}: unknown section {section!r}{_nearest(section, sections)}")
        hint = _hints(sections[section], section).get(key)
        if hint is None:
            raise ConfigError(_unknown_key(section, key, sections[section]))
        values.setdefault(section, {})[key] = _parse_text(text.strip(), hint, f"{section}.{key}")
    return config_from_dict(values, base=config)


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(section.key, old value, new value) of everything that differs between two `config_to_dict`."""
    found = []
    for section in sorted({*old, *new}):
        before, after = old.get(section, {}), new.get(section, {})
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                found.append((f"{section}.{key}", before.get(key), after.get(key)))
    return found


def _replace(instance: T, section: str, entries: Mapping[str, Any]) -> T:
    hints = _hints(instance, section)
    changed = {}
    for key, value in entries.items():
        if key not in hints:
            raise ConfigError(_unknown_key(section, key, instance))
        changed[key] = _check_value(value, hints[key], f"{section}.{key}")
    return typing.cast(T, dataclasses.replace(typing.cast(Any, instance), **changed))


def _hints(instance: object, section: str) -> dict[str, Any]:
    assert dataclasses.is_dataclass(instance), section
    return typing.get_type_hints(type(instance))


def _unknown_key(section: str, key: str, instance: object) -> str:
    return f"config: unknown key {section}.{key}{_nearest(key, _hints(instance, section))}"


def _nearest(name: str, candidates: Iterable[str]) -> str:
    names = sorted(candidates)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else f"; known are: {', '.join(names)}"


def _split_optional(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = typing.get_args(hint)
        rest = [m for m in members if m is not type(None)]
        assert len(rest) == 1, hint
        return rest[0], len(rest) < len(members)
    return hint, False


def _describe(hint: Any) -> str:
    inner, optional = _split_optional(hint)
    if typing.get_origin(inner) is typing.Literal:
        name = "one of " + ", ".join(str(a) for a in typing.get_args(inner))
    elif typing.get_origin(inner) is tuple:
        name = f"a list of {typing.get_args(inner)[0].__name__}"
    else:
        name = {int: "an integer", float: "a finite number", bool: "true or false", str: "a string"}[inner]
    return f"{name}, or none" if optional else name


def _check_value(value: Any, hint: Any, name: str) -> Any:
    """A plain value as the field's type, or an error that says what is needed."""
    inner, optional = _split_optional(hint)
    if value is None and optional:
        return None
    if typing.get_origin(inner) is typing.Literal:
        choices = typing.get_args(inner)
        if value in choices:
            return value
        near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        suggestion = f", did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"config: {name} must be {_describe(hint)}, got {value!r}{suggestion}")
    if typing.get_origin(inner) is tuple and isinstance(value, (list, tuple)):
        element = typing.get_args(inner)[0]
        return tuple(_check_value(v, element, name) for v in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if inner is float and number and math.isfinite(value):
        return float(value)
    exact = inner in (int, bool, str) and isinstance(value, inner)
    if exact and (inner is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"config: {name} must be {_describe(hint)}, got {value!r}")


def _parse_text(text: str, hint: Any, name: str) -> Any:
    """The plain value that a command-line text stands for, by the field's type."""
    inner, optional = _split_optional(hint)
    if optional and text.lower() in ("none", "null"):
        return None
    if typing.get_origin(inner) is tuple:
        element = typing.get_args(inner)[0]
        items = text.strip("[]()").split(",")
        return [_parse_text(item.strip(), element, name) for item in items if item.strip()]
    if inner is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(
            text.lower(), text
        )
    try:
        if inner is int:
            return int(text.replace("_", ""), 0) if not text.isdigit() else int(text)
        if inner is float:
            return float(text)
    except ValueError:
        pass  # _check_value words the error
    return text

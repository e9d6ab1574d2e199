# SPDX-License-Identifier: Apache-2.0
"""Fields of settings classes carry their bounds, so that the recipe reader can refuse a bad value by name; and say
from which table a named part comes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """What a value must satisfy, and what it means."""

    low: float | None = None
    high: float | None = None
    above: float | None = None  # strictly greater than
    choices: tuple[str, ...] | None = None
    help: str = ""


@dataclass(frozen=True)
class Section:
    """Marks a `Spec` field with the table that names its kinds."""

    name: str


@dataclass(frozen=True)
class Spec:
    """One named thing with its settings, e.g. `{kind: sds, cfg: 20}`; `source` is a scene's `from:`."""

    kind: str
    settings: Any
    source: str | None = None


def setting(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    help: str = "",
) -> Any:
    """A dataclass field with bounds; numbers are always required to be finite."""
    return dataclasses.field(default=default, metadata={"bounds": Bounds(low, high, above, choices, help)})


def bounds_of(field: dataclasses.Field[Any]) -> Bounds:
    found = field.metadata.get("bounds")
    return found if isinstance(found, Bounds) else Bounds()


def value_at(settings: Any, path: str) -> Any:
    """What stands at a dotted place of nested settings: fields, keys of mappings, places in lists."""
    for key in path.split("."):
        settings = settings[key] if isinstance(settings, Mapping) else _inside(settings, key)
    return settings


def with_value(settings: Any, path: str, value: Any) -> Any:
    """A copy of nested settings with another value there."""
    key, _, rest = path.partition(".")
    old = value_at(settings, key)
    new = with_value(old, rest, value) if rest else value
    if isinstance(settings, Mapping):
        return {**settings, key: new}
    if isinstance(settings, tuple):
        return (*settings[: int(key)], new, *settings[int(key) + 1 :])
    if isinstance(settings, Spec):
        return dataclasses.replace(settings, settings=dataclasses.replace(settings.settings, **{key: new}))
    return dataclasses.replace(settings, **{key: new})


def _inside(settings: Any, key: str) -> Any:
    """Of a `Spec`, what it is set to: its kind's settings are written beside its kind."""
    if isinstance(settings, Spec):
        return getattr(settings.settings, key)
    return settings[int(key)] if isinstance(settings, tuple) else getattr(settings, key)

# SPDX-License-Identifier: Apache-2.0
"""Fields of settings classes carry their bounds, so that the recipe reader can refuse a bad value by name; and say
from which table a named part comes, or which kind of file is meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

Settings = TypeVar("Settings")


# Kinds of files that settings name, and which of their values do; the others are names of what the package has.
FILES: dict[str, Callable[[str], bool]] = {
    "picture": bool,
    "map": lambda name: name.lower().endswith((".png", ".jpg", ".jpeg")),  # else a model that estimates it
    "mesh": bool,
    "asset": bool,
    "cloud": bool,
    "points": bool,
    "light": lambda name: name.lower().endswith((".hdr", ".exr")),
    "weights": lambda name: bool(set(name) & {"/", "\\"}),
}


@dataclass(frozen=True)
class Bounds:
    """What a value must satisfy, and what it means."""

    low: float | None = None
    high: float | None = None
    above: float | None = None  # strictly greater than
    choices: tuple[str, ...] | None = None
    help: str = ""
    file: str = ""  # of FILES: the value names one, relative to the recipe's folder
    tacit: bool = False  # a recipe that has its default is written without it


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
    file: str = "",
    tacit: bool = False,
) -> Any:
    """A dataclass field with bounds; numbers are always required to be finite."""
    return dataclasses.field(default=default, metadata={"bounds": Bounds(low, high, above, choices, help, file, tacit)})


@cache
def hints_of(cls: type) -> Mapping[str, Any]:
    """The types of a class's fields, marks and all: resolved once, for that takes longer than binding does."""
    return get_type_hints(cls, include_extras=True)


def bounds_of(field: dataclasses.Field[Any]) -> Bounds:
    found = field.metadata.get("bounds")
    return found if isinstance(found, Bounds) else Bounds()


def names_file(bounds: Bounds, value: object) -> bool:
    """Whether a field's value, or one of its list, is the name of a file."""
    return bool(bounds.file) and isinstance(value, str) and FILES[bounds.file](value)


def with_files(settings: Settings, change: Callable[[str, str], str]) -> Settings:
    """The settings with `change(kind, name)` for every file that they and the parts in them name."""
    made: Any = _changed(settings, Bounds(), change)
    return made if made != settings else settings


def _changed(value: Any, bounds: Bounds, change: Callable[[str, str], str]) -> Any:
    if names_file(bounds, value):
        return change(bounds.file, value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        made = {field.name: _changed(old, bounds_of(field), change) for field, old in fields.items()}
        return dataclasses.replace(value, **made)
    if isinstance(value, tuple):
        return tuple(_changed(each, bounds, change) for each in value)
    if isinstance(value, Mapping):
        return {key: _changed(each, bounds, change) for key, each in value.items()}
    return value

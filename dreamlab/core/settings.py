# SPDX-License-Identifier: Apache-2.0
"""Fields of settings classes carry their bounds, so that the recipe reader can refuse a bad value by name; and say
from which table a named part comes."""

from __future__ import annotations

import dataclasses
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

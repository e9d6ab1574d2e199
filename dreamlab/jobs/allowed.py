# SPDX-License-Identifier: Apache-2.0
"""Which settings of a recipe a stranger may give. A closed set, read off the settings' own dataclasses: numbers,
switches and choices, and the kinds of rules, scenes and guidances by their names. No text that is free, so no file, no
model's path, no folder; no backend and no device."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union, get_args, get_origin

from dreamlab import recipe
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.files import Json
from dreamlab.core.schedules import Schedule
from dreamlab.core.settings import Bounds, Section, Spec, bounds_of, hints_of
from dreamlab.core.text import did_you_mean, short
from dreamlab.jobs.asking import BadRequest, FieldError, allowed, shown
from dreamlab.recipe import Recipe
from dreamlab.recipe.bind import join, plain
from dreamlab.recipe.changing import told
from dreamlab.recipe.reading import OF_EXPORT, OF_STAGES
from dreamlab.recipe.tables import TABLES

CLOSED = ("backend",)  # choices that are the machine's affair
TYPES = {bool: "bool", int: "int", float: "float", str: "choice"}
PART = "part"  # a rule, scene or guidance by its name; its settings follow


@dataclass(frozen=True)
class OpenSetting:
    """A place of a recipe that may be set, and what may be put there."""

    path: str
    type: str  # bool, int, float, choice, schedule, list or part
    default: object  # what the recipe says
    bounds: Bounds

    def plain(self) -> Json:
        bounds = {"low": self.bounds.low, "high": self.bounds.high, "above": self.bounds.above}
        choices = None if self.bounds.choices is None else list(self.bounds.choices)
        said = {"path": self.path, "type": self.type, "default": plain(self.default), "help": self.bounds.help}
        return said | bounds | {"choices": choices}


def open_settings(chosen: Recipe) -> dict[str, OpenSetting]:
    """Every place of this recipe that a stranger may set, by its path."""
    return {each.path: each for each in _within(chosen, "")}


def _within(value: object, path: str) -> Iterator[OpenSetting]:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return
    hints = hints_of(type(value))
    for field in dataclasses.fields(value):
        if field.name not in CLOSED:
            found = getattr(value, field.name)
            yield from _at(hints[field.name], found, join(path, field.name), bounds_of(field))


def _at(kind: object, value: object, path: str, bounds: Bounds) -> Iterator[OpenSetting]:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        yield from _at(next(each for each in args if each is not type(None)), value, path, bounds)
    elif isinstance(value, Spec) and origin is Annotated:
        yield from _part(args[1], value, path)
    elif origin is tuple and value and dataclasses.is_dataclass(value[0]):  # type: ignore[index]
        for i, each in enumerate(value):  # type: ignore[arg-type, var-annotated]
            yield from _within(each, join(path, i))
    elif origin is tuple and all(_leaf(each, bounds) for each in args if each is not Ellipsis):
        yield OpenSetting(path, "list", value, bounds)
    elif isinstance(value, Mapping):
        yield from _mapping(args, value, path, bounds)
    elif kind is Schedule:
        yield OpenSetting(path, "schedule", value, bounds)
    elif _leaf(kind, bounds):
        yield OpenSetting(path, TYPES[kind], value, bounds)  # type: ignore[index]
    else:
        yield from _within(value, path)


def _leaf(kind: object, bounds: Bounds) -> bool:
    """A number, a switch, or one of a few words."""
    return not bounds.file and (kind in (bool, int, float) or (kind is str and bounds.choices is not None))


def _part(section: Section, value: Spec, path: str) -> Iterator[OpenSetting]:
    names = tuple(sorted(TABLES.section(section.name)))
    yield OpenSetting(path, PART, value.kind, Bounds(choices=names, help=f"of the {section.name}"))
    yield from _within(value.settings, path)


def _mapping(args: Sequence[object], value: Mapping[str, object], path: str, bounds: Bounds) -> Iterator[OpenSetting]:
    if args[1] is Schedule:
        for name in sorted(TABLES.regularisers):
            yield OpenSetting(join(path, name), "schedule", value.get(name), bounds)
        return
    for name, each in value.items():
        yield from _within(each, join(path, name))


def overrides(source: Path, prompt: str, given: Mapping[str, object], trusted: bool = False) -> list[str]:
    """The settings of a request as `key=value` overrides of a recipe; BadRequest names every one that cannot be."""
    if trusted:
        return [
            f"{path}={value}" if isinstance(value, str) else told({path: value})[0] for path, value in given.items()
        ]
    base = recipe.load(source, TABLES, prompt=prompt)
    named = {_numbered(base, path): (path, value) for path, value in given.items()}
    parts = [path for path in named if path.rpartition(".")[2] in ("scene", "system", "guidance")]
    first = {path: named[path] for path in parts}
    lines = _checked(source, prompt, open_settings(base), first, [])
    changed = recipe.load(source, TABLES, prompt=prompt, overrides=lines) if lines else base
    rest = {path: each for path, each in named.items() if path not in first}
    return lines + _checked(source, prompt, open_settings(changed), rest, lines)


def _numbered(base: Recipe, path: str) -> str:
    """A path whose stage is a number, where it is given by name."""
    head, _, rest = path.partition(".")
    name, dot, more = rest.partition(".")
    numbers = {stage.name: i for i, stage in enumerate(base.stages)}
    return f"{head}.{numbers[name]}{dot}{more}" if head == "stages" and name in numbers else path


def _checked(
    source: Path,
    prompt: str,
    known: Mapping[str, OpenSetting],
    given: Mapping[str, tuple[str, object]],
    before: Sequence[str],
) -> list[str]:
    if not given:
        return []
    errors, lines = [], {}
    for path, (said, value) in given.items():
        if wrong := _wrong(path, value, known):
            errors.append(FieldError(f"settings.{said}", wrong[0], shown(value), wrong[1]))
        else:
            (lines[said],) = told({path: value})
    if not errors and _trouble(source, prompt, [*before, *lines.values()]) is None:
        return list(lines.values())
    for said, line in lines.items():  # which of them
        if (error := _trouble(source, prompt, [*before, line])) is not None:
            path, _, text = line.partition("=")
            what = re.sub(r"^override \S+: ", "", error)
            what = re.sub(rf"^\S*{re.escape(path.rpartition('.')[2])} ", "", what)
            errors.append(FieldError(f"settings.{said}", what, text[:120], _allowed(known.get(path))))
    together = _trouble(source, prompt, [*before, *lines.values()])
    raise BadRequest(errors or [FieldError("settings", str(together))])


def _trouble(source: Path, prompt: str, lines: Sequence[str]) -> str | None:
    """What the recipe says of some overrides; None where they will do."""
    try:
        recipe.load(source, TABLES, prompt=prompt, overrides=lines)
    except (RecipeError, InputError) as error:
        return str(error)
    return None


def _wrong(path: str, value: object, known: Mapping[str, OpenSetting]) -> tuple[str, str] | None:
    if path not in known and path not in (*OF_STAGES, *OF_EXPORT):
        return f"cannot be set here{_near(path, known)}", ""
    place = known.get(path)
    if place is not None and place.type == PART and value not in (place.bounds.choices or ()):
        names = place.bounds.choices or ()
        return f"is none of them{did_you_mean(short(str(value)), names)}", ", ".join(names)
    return None


def _near(path: str, known: Mapping[str, OpenSetting]) -> str:
    """The likely ones among hundreds."""
    tail = path.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == tail]
    if same:
        return f" (did you mean {' or '.join(same[:3])}?)"
    likely = did_you_mean(short(path), known)
    return likely if "did you mean" in likely else ""


def _allowed(place: OpenSetting | None) -> str:
    if place is None:
        return ""
    kinds: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "choice": str, "schedule": float}
    return allowed(kinds.get(place.type), place.bounds)

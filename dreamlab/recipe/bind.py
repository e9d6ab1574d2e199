# SPDX-License-Identifier: Apache-2.0
"""Binds a YAML tree to typed frozen dataclasses. Every refusal is one line: file, line, name, what is allowed."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from torch import Tensor

from dreamlab.core.cards import Entry, SceneCard, SceneKind
from dreamlab.core.errors import RecipeError
from dreamlab.core.schedules import CURVES, Schedule, When, constant
from dreamlab.core.settings import Bounds, Section, Spec, bounds_of, hints_of, names_file
from dreamlab.core.text import did_you_mean, short
from dreamlab.core.types import Frames
from dreamlab.recipe.source import Source, Tree
from guidance.shared.kind import GuidanceKind
from systems.engine.rule import RuleKind

MOST_NUMBER = 1e300
MOST_SAID = 300  # characters of a complaint


@dataclass(frozen=True)
class Tables:
    """What a recipe can name, section by section."""

    scenes: Mapping[str, SceneKind]
    systems: Mapping[str, RuleKind]
    guidance: Mapping[str, GuidanceKind]
    regularisers: Mapping[str, Callable[[Frames], Tensor]]

    def section(self, name: str) -> Mapping[str, Entry]:
        """The table that a recipe's `Section` names."""
        return {"scenes": self.scenes, "systems": self.systems, "guidance": self.guidance}[name]

    def scene(self, spec: Spec) -> SceneCard:
        return self.scenes[spec.kind].card(spec.settings)

    def takeovers(self, spec: Spec) -> tuple[tuple[str, str], ...]:
        """(stage, kind that starts from it) of a scene and of the objects in it."""
        own = () if spec.source is None else ((spec.source, spec.kind),)
        return (*own, *self.scene(spec).starts)


class Binder:
    """Walks a class and a tree together."""

    def __init__(self, source: Source, tables: Tables) -> None:
        self.source, self.tables = source, tables

    def fail(self, tree: Tree, path: str, message: str) -> typing.NoReturn:
        said = f"{short(path)} {short(message, MOST_SAID)}"
        place = short(self.source.where(tree))
        raise RecipeError(f"{place}: {said}" if place else said)

    def dataclass(self, cls: type, tree: Tree, path: str, called: str | None = None, skip: tuple[str, ...] = ()) -> Any:
        """An instance of `cls`; unknown and missing keys are named."""
        if tree is None or self.is_null(tree):
            tree = {}
        if not isinstance(tree, dict):
            self.fail(tree, path, f"must be a mapping of {called or cls.__name__} settings")
        hints = hints_of(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values = {}
        for key, child in tree.items():
            if key in skip:
                continue
            if key not in fields:
                message = f"is not a setting of {called or cls.__name__}{did_you_mean(str(key), fields)}"
                self.fail(child, join(path, key), message)
            values[key] = self.value(hints[key], child, join(path, key), bounds_of(fields[key]))
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in values:
                self.fail(tree, join(path, name), "is missing")
        return cls(**values)

    def value(self, kind: Any, tree: Tree, path: str, bounds: Bounds) -> Any:
        """A value of type `kind`."""
        origin, args = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self.spec(args[1], tree, path)
        if origin in (Union, types.UnionType):
            if self.is_null(tree):
                return None
            return self.value(next(a for a in args if a is not type(None)), tree, path, bounds)
        if kind is Schedule:
            return self.schedule(tree, path, bounds)
        if dataclasses.is_dataclass(kind):
            return self.dataclass(typing.cast(type, kind), tree, path)
        if origin is tuple:
            return self.sequence(args, tree, path, bounds)
        if origin in (dict, Mapping) or kind is Mapping:
            return self.mapping(args, tree, path, bounds)
        return self.scalar(kind, tree, path, bounds)

    def sequence(self, args: tuple[Any, ...], tree: Tree, path: str, bounds: Bounds) -> tuple[Any, ...]:
        if isinstance(tree, int) and args[-1] is Ellipsis and not self.is_null(tree):
            return self.words(args[0], tree, path, bounds)
        if not isinstance(tree, list):
            self.fail(tree, path, "must be a list")
        if args[-1] is Ellipsis:
            return tuple(self.value(args[0], child, f"{path}.{i}", bounds) for i, child in enumerate(tree))
        if len(tree) != len(args):
            self.fail(tree, path, f"must be a list of {len(args)} values, not {len(tree)}")
        pairs = enumerate(zip(args, tree, strict=True))
        values = tuple(self.value(kind, child, f"{path}.{i}", bounds) for i, (kind, child) in pairs)
        if len(args) == 2 and args[0] is args[1] and args[0] in (int, float) and values[0] > values[1]:
            self.fail(tree, path, f"is a range: {values[0]:g} must not exceed {values[1]:g}")
        return values

    def words(self, kind: Any, tree: int, path: str, bounds: Bounds) -> tuple[Any, ...]:
        """A list written as one value or, where no value can hold a comma, with commas: `formats=glb,obj`."""
        scalar = self.source.scalars[tree]
        if not bounds.choices:
            return (self.value(kind, tree, path, bounds),)
        parts = [replace(scalar, text=text.strip()) for text in scalar.text.split(",")]
        rows = [self.source.add(part.text, part.plain, part.file, part.line) for part in parts]
        return tuple(self.value(kind, row, path, bounds) for row in rows)

    def mapping(self, args: tuple[Any, ...], tree: Tree, path: str, bounds: Bounds) -> dict[str, Any]:
        if self.is_null(tree):
            return {}
        if not isinstance(tree, dict):
            self.fail(tree, path, "must be a mapping")
        return {key: self.value(args[1], child, join(path, key), bounds) for key, child in tree.items()}

    def spec(self, section: Section, tree: Tree, path: str) -> Spec:
        """`kind` alone, or a mapping with `kind` and that kind's settings."""
        table = self.tables.section(section.name)
        kind_tree = tree.get("kind") if isinstance(tree, dict) else tree
        if kind_tree is None or not isinstance(kind_tree, int):
            self.fail(tree, path, f"needs `kind`{did_you_mean('', table)}")
        kind = self.source.scalars[kind_tree].text
        if kind not in table:
            self.fail(kind_tree, path, f"{kind!r} is not one of the {section.name}{did_you_mean(kind, table)}")
        settings_tree = tree if isinstance(tree, dict) else {}
        skip = ("kind", "from") if section.name == "scenes" else ("kind",)
        form = typing.cast(type, table[kind].Settings)
        settings = self.dataclass(form, settings_tree, path, f"{section.name} {kind!r}", skip)
        origin = settings_tree.get("from") if section.name == "scenes" else None
        return Spec(kind, settings, None if origin is None else self.scalar(str, origin, join(path, "from"), Bounds()))

    def schedule(self, tree: Tree, path: str, bounds: Bounds) -> Schedule:
        """A number; `{from, to, begin, end, curve}`; or `{points: [{at, value}, ...], curve}`."""
        if isinstance(tree, int):
            return constant(self.scalar(float, tree, path, bounds))
        if not isinstance(tree, dict):
            self.fail(tree, path, "must be a number, {from, to, begin, end, curve} or {points, curve}")
        allowed = {"points", "curve"} if "points" in tree else {"from", "to", "begin", "end", "curve"}
        for key, child in tree.items():
            if key not in allowed:
                self.fail(child, join(path, key), f"is not a part of a schedule{did_you_mean(key, allowed)}")

        def number(child: Tree, where: str) -> float:
            return float(self.scalar(float, child, where, bounds))

        if "points" in tree:
            if not isinstance(tree["points"], list) or len(tree["points"]) < 2:
                self.fail(tree, path, "needs at least two points")
            points = []
            for i, point in enumerate(tree["points"]):
                where = f"{path}.points.{i}"
                if not isinstance(point, dict) or point.keys() != {"at", "value"}:
                    self.fail(point, where, "must be {at, value}")
                points.append((self.moment(point["at"], where), number(point["value"], where)))
        else:
            if "from" not in tree or "to" not in tree:
                self.fail(tree, path, "needs both `from` and `to`")
            begin = self.moment(tree["begin"], join(path, "begin")) if "begin" in tree else When(0.0)
            end = self.moment(tree["end"], join(path, "end")) if "end" in tree else When(1.0)
            points = [(begin, number(tree["from"], path)), (end, number(tree["to"], path))]
        choices = Bounds(choices=CURVES)
        curve = self.scalar(str, tree["curve"], join(path, "curve"), choices) if "curve" in tree else "linear"
        for (a, _), (b, _) in itertools.pairwise(points):
            if a.unit == b.unit and a.value >= b.value:
                self.fail(tree, path, f"must move forward in time: {a} is not before {b}")
        if curve == "exp" and any(value <= 0 for _, value in points):
            self.fail(tree, path, "with curve exp needs positive values")
        return Schedule(tuple(points), curve)

    def moment(self, tree: Tree, path: str) -> When:
        text = self.text(tree, path).strip()
        number, unit = (text[:-1], "fraction") if text.endswith("%") else (text.removesuffix("steps"), "steps")
        if unit == "steps" and not text.endswith("steps"):
            self.fail(tree, path, f"needs a unit: '20%' or '500 steps', not {text!r}")
        try:
            value = float(number)
        except ValueError:
            self.fail(tree, path, f"is not a moment: {text!r}; write '20%' or '500 steps'")
        value = value / 100 if unit == "fraction" else value
        if not (math.isfinite(value) and value >= 0 and (unit == "steps" or value <= 1)):
            self.fail(tree, path, f"is outside the stage: {text!r}")
        return When(value, unit)

    def scalar(self, kind: Any, tree: Tree, path: str, bounds: Bounds) -> Any:
        text = self.text(tree, path)
        if kind is str:
            if bounds.choices and text not in bounds.choices:
                self.fail(tree, path, f"is {text!r}{did_you_mean(text, bounds.choices)}")
            spoken = self.source.scalars[tree].spoken and names_file(bounds, text)
            return str(Path(text).absolute()) if spoken else text  # as any name on a command line
        if kind is bool:
            if text not in ("true", "false"):
                self.fail(tree, path, f"must be true or false, not {text!r}")
            return text == "true"
        try:
            value = int(text) if kind is int else float(text)
        except ValueError:
            self.fail(tree, path, f"must be {'a whole number' if kind is int else 'a number'}, not {text!r}")
        if kind is int and abs(value) > MOST_NUMBER:  # no float, so that it can be shown beside none
            self.fail(tree, path, f"must be at most {MOST_NUMBER:g} in size, not {text[:24]!r}...")
        if not math.isfinite(value):
            self.fail(tree, path, f"must be finite, not {text!r}")
        if bounds.low is not None and value < bounds.low:
            self.fail(tree, path, f"must be at least {bounds.low:g}, not {text}")
        if bounds.above is not None and value <= bounds.above:
            self.fail(tree, path, f"must be greater than {bounds.above:g}, not {text}")
        if bounds.high is not None and value > bounds.high:
            self.fail(tree, path, f"must be at most {bounds.high:g}, not {text}")
        return value

    def text(self, tree: Tree, path: str) -> str:
        if not isinstance(tree, int):
            self.fail(tree, path, "must be a single value")
        return self.source.scalars[tree].text

    def is_null(self, tree: Tree) -> bool:
        if not isinstance(tree, int):
            return tree is None
        scalar = self.source.scalars[tree]
        return scalar.plain and scalar.text in ("", "~", "null")


def join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def plain(value: Any) -> Any:
    """The inverse of binding: dataclasses to what YAML writes."""
    if isinstance(value, Spec):
        head = {"kind": value.kind} | ({"from": value.source} if value.source is not None else {})
        return head | plain(value.settings)
    if isinstance(value, Schedule):
        return value.plain()
    if dataclasses.is_dataclass(value):
        said = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {f.name: plain(each) for f, each in said if not (bounds_of(f).tacit and each == f.default)}
    if isinstance(value, Mapping):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(child) for child in value]
    return value

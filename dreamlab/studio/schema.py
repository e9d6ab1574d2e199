# SPDX-License-Identifier: Apache-2.0
"""Requests and replies are frozen dataclasses, and their JSON Schema is read off those: the document that clients are
given cannot differ from what the server binds (`dreamlab.jobs.asking`).

`setting(...)` of `dreamlab.core.settings` carries the bounds: low, high, above, choices, help.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Literal, Union, get_args, get_origin, get_type_hints

from dreamlab.core.files import Json
from dreamlab.core.settings import Bounds, bounds_of
from dreamlab.jobs.asking import BadRequest, FieldError, bind, shown

Made = typing.TypeVar("Made")
MOST_WHOLE = 2**53 - 1  # of JSON's numbers, those that every client holds exactly
_PLAIN: dict[object, Json] = {str: {"type": "string"}, bool: {"type": "boolean"}, object: {}, dict: {"type": "object"}}
_PLAIN |= {int: {"type": "integer", "minimum": -MOST_WHOLE, "maximum": MOST_WHOLE}, float: {"type": "number"}}


# ---- JSON Schema -----------------------------------------------------------------------------------------------------
def schema_of(kind: object, known: dict[str, Json], bounds: Bounds | None = None) -> Json:
    """The schema of a type; dataclasses go into `known` by name, and are referred to."""
    bounds = bounds or Bounds()
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        parts = [schema_of(each, known, bounds) for each in args if each is not type(None)]
        return {"anyOf": [*parts, {"type": "null"}]} if type(None) in args else {"anyOf": parts}
    if origin is Literal:
        return {"enum": list(args)}
    if (origin is tuple and args[-1] is Ellipsis) or origin in (list, Sequence):
        return {"type": "array", "items": schema_of(args[0], known, dataclasses.replace(bounds, low=None, high=None))}
    if origin is tuple:
        items = [schema_of(each, known) for each in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": schema_of(args[1], known)}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, known)
    return _limited(dict(_PLAIN[kind]), kind, bounds)


def _object(kind: type, known: dict[str, Json]) -> Json:
    name = kind.__name__
    if name not in known:
        known[name] = {}  # a class that holds itself ends here
        hints, properties, required = get_type_hints(kind), {}, []
        for field in dataclasses.fields(kind):
            bounds = bounds_of(field)
            properties[field.name] = schema_of(hints[field.name], known, bounds)
            if bounds.help:
                properties[field.name] = properties[field.name] | {"description": bounds.help}
            if is_required(field):
                required.append(field.name)
            elif (default := _default(field)) is not None:
                properties[field.name] = properties[field.name] | {"default": default}
        said = " ".join((kind.__doc__ or "").split())
        body: Json = {"type": "object", "properties": properties, "additionalProperties": False}
        known[name] = body | ({"required": required} if required else {}) | ({"description": said} if said else {})
    return {"$ref": f"#/components/schemas/{name}"}


def _limited(made: Json, kind: object, bounds: Bounds) -> Json:
    if kind is str:
        if bounds.choices:
            made["enum"] = list(bounds.choices)
        if bounds.high is not None:
            made["maxLength"] = int(bounds.high)
        if bounds.low:
            made["minLength"] = int(bounds.low)
        return made
    for name, limit in (("minimum", bounds.low), ("maximum", bounds.high), ("exclusiveMinimum", bounds.above)):
        if limit is not None:
            made[name] = int(limit) if kind is int else limit
    return made


def _default(field: dataclasses.Field[object]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return None
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return value if isinstance(value, str | int | float | bool | list) else None


def is_required(field: dataclasses.Field[object]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


# ---- a query's texts -------------------------------------------------------------------------------------------------
def bound_texts(kind: type[Made], given: Mapping[str, Sequence[str]]) -> Made:
    """An instance of a query's class; BadRequest names every parameter that is wrong."""
    if twice := [FieldError(name, "is given twice", shown(list(texts))) for name, texts in given.items() if texts[1:]]:
        raise BadRequest(twice)
    hints = get_type_hints(kind)
    return bind(kind, {name: _read(hints.get(name, str), texts[0]) for name, texts in given.items()})


def _read(kind: object, text: str) -> object:
    """A text as the value it is meant to be, or itself where it is none: binding then says so."""
    kinds = set(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else {kind}
    if bool in kinds and text in ("true", "false"):
        return text == "true"
    if get_origin(kind) is tuple:
        return [part for part in text.split(",") if part]
    for number in (int, float):
        if number in kinds and text.isascii():
            try:
                return number(text)
            except ValueError:
                continue
    return text

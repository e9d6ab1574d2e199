# SPDX-License-Identifier: Apache-2.0
"""Binds what somebody sent, as JSON, to a frozen dataclass, and says of every field what is wrong with it, not only of
the first."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, Union, get_args, get_origin, get_type_hints

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.files import Json
from dreamlab.core.settings import Bounds, bounds_of
from dreamlab.core.text import MAX_PROMPT, check_prompt, did_you_mean, short

Asked = TypeVar("Asked")
MOST_TEXT = 4096  # characters of a value that says nothing else of its length
MOST_OBJECT = 1 << 16  # of an object, as JSON
MOST_NAMES = 200  # of a mapping, or items of a list
PROMPTS = ("prompt", "negative")  # fields that hold words of people
EMPTY_MEANS_NONE = ("negative",)


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one value, and what would do."""

    loc: str  # dotted: settings.stages.0.steps
    msg: str
    got: str = ""
    allowed: str = ""

    def plain(self) -> Json:
        return {"loc": self.loc, "msg": self.msg, "got": self.got, "allowed": self.allowed}

    def line(self) -> str:
        return f"{self.loc}: {self.msg}" if self.loc else self.msg


class BadRequest(RecipeError):
    """A request with values that cannot be meant; all of them, each by its name."""

    def __init__(self, fields: Sequence[FieldError]) -> None:
        super().__init__("; ".join(field.line() for field in fields))
        self.fields = tuple(fields)


def bind(cls: type[Asked], given: object, at: str = "") -> Asked:
    """An instance of `cls`, or BadRequest with every field that is wrong."""
    errors: list[FieldError] = []
    values = _values(cls, given, at, errors)
    if errors:
        raise BadRequest(errors)
    return cls(**values)


def shown(value: object) -> str:
    """A value as an error quotes it."""
    try:
        return short(repr(value))
    except ValueError:  # a whole number of thousands of digits
        return "a very large number"


def _values(cls: type, given: object, at: str, errors: list[FieldError]) -> Json:
    if not isinstance(given, Mapping):
        errors.append(FieldError(at, "must be an object", shown(given), "a JSON object"))
        return {}
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for name, value in given.items():
        where = f"{at}.{short(str(name))}".strip(".")
        if name not in fields:
            errors.append(FieldError(where, f"is not asked for{did_you_mean(short(str(name)), fields)}", shown(value)))
            continue
        found = _value(hints[name], value, bounds_of(fields[name]), where, errors)
        values[name] = _words(name, found, where, errors) if isinstance(found, str) else found
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in given:
            errors.append(FieldError(f"{at}.{name}".strip("."), "is missing", "", bounds_of(field).help))
    return values


def _words(name: str, text: str, at: str, errors: list[FieldError]) -> str:
    """Prompts are kept byte for byte, or refused; other text is of bounded length and can be stored."""
    if name not in PROMPTS:
        said, most = _unfit(text, MOST_TEXT), f"at most {MOST_TEXT} characters of text"
        errors += [FieldError(at, said, shown(text), most)] if said else []
    elif text or name not in EMPTY_MEANS_NONE:
        try:
            check_prompt(text, at)
        except InputError as error:
            said = str(error).removeprefix(f"{at}: ")
            errors.append(FieldError(at, said, shown(text), f"2 to {MAX_PROMPT} characters of text"))
    return text


def _unfit(text: str, most: int) -> str:
    """Why a text cannot be kept; nothing where it can."""
    if len(text) > most:
        return f"is longer than {most} characters"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is no UTF-8 text"
    return "holds a NUL character" if "\0" in text else ""


def _value(kind: object, value: object, bounds: Bounds, at: str, errors: list[FieldError]) -> object:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(each for each in args if each is not type(None)), value, bounds, at, errors)
    if origin is tuple:
        return _list(args[0], value, bounds, at, errors)
    if origin in (dict, Mapping):
        return _mapping(value, at, errors)
    wrong = _wrong(kind, value, bounds)
    if wrong is not None:
        errors.append(FieldError(at, wrong, shown(value), allowed(kind, bounds)))
        return value
    return float(value) if isinstance(value, int) and kind is float else value


def _list(kind: object, value: object, bounds: Bounds, at: str, errors: list[FieldError]) -> object:
    if not isinstance(value, (list, tuple)) or len(value) > MOST_NAMES:
        errors.append(FieldError(at, f"must be a list of at most {MOST_NAMES}", shown(value), allowed(kind, bounds)))
        return ()
    return tuple(_value(kind, each, bounds, f"{at}.{i}", errors) for i, each in enumerate(value))


def _mapping(value: object, at: str, errors: list[FieldError]) -> object:
    whole = isinstance(value, Mapping) and len(value) <= MOST_NAMES and all(isinstance(key, str) for key in value)
    if not whole:
        errors.append(FieldError(at, f"must be an object of at most {MOST_NAMES} names", shown(value)))
        return {}
    found = dict(typing.cast(Mapping[str, object], value))
    try:
        said = _unfit(json.dumps(found, ensure_ascii=False), MOST_OBJECT)
    except (TypeError, ValueError, RecursionError):
        said = "is nested too deep, or holds what JSON cannot"
    if said:
        errors.append(FieldError(at, said, "", f"at most {MOST_OBJECT} characters of JSON"))
        return {}
    return found


def _wrong(kind: object, value: object, bounds: Bounds) -> str | None:
    """Why a single value will not do."""
    if kind is str:
        if not isinstance(value, str):
            return "must be text"
        if bounds.choices and value not in bounds.choices:
            return f"is none of them{did_you_mean(short(value), bounds.choices)}"
        return None
    if kind is bool:
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return "must be a whole number" if kind is int else "must be a number"
    return _outside(value, bounds)


def _outside(value: float, bounds: Bounds) -> str | None:
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        return "must be finite"
    if bounds.low is not None and value < bounds.low:
        return f"must be at least {bounds.low:g}"
    if bounds.above is not None and value <= bounds.above:
        return f"must be greater than {bounds.above:g}"
    if bounds.high is not None and value > bounds.high:
        return f"must be at most {bounds.high:g}"
    return None


def allowed(kind: object, bounds: Bounds) -> str:
    """In a few words, what a value may be."""
    if bounds.choices:
        return ", ".join(bounds.choices)
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    said = names.get(typing.cast(type, kind), "")
    low = f"at least {bounds.low:g}" if bounds.low is not None else ""
    low = f"greater than {bounds.above:g}" if bounds.above is not None else low
    high = f"at most {bounds.high:g}" if bounds.high is not None else ""
    return ", ".join(part for part in (said, low, high) if part)

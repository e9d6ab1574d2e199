# SPDX-License-Identifier: Apache-2.0
"""A batch is one submit: lists that go side by side (zip) and lists of which every one meets every other (cross). Each
job keeps the values that made it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from dreamlab.core.files import Json
from dreamlab.jobs.asking import MOST_NAMES, BadRequest, FieldError, bind, shown
from dreamlab.jobs.requests import NEW, REQUESTS, Request, request_of

MOST_BATCH = 200  # what an owner may have waiting


@dataclass(frozen=True)
class BatchRequest:
    """One job's request, and lists of values for its fields or for settings of its recipe."""

    job: Mapping[str, object]
    zip: Mapping[str, object] = field(default_factory=dict)
    cross: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """One job of a batch, and what distinguishes it."""

    request: Request
    values: Json


def members(given: object) -> list[Member]:
    """The jobs of a batch, or BadRequest: zipped rows in the outer loop, crossed lists in the order of their names."""
    asked = bind(BatchRequest, given)
    zipped, crossed = _lists(asked.zip, "zip"), _lists(asked.cross, "cross")
    lengths = {name: len(values) for name, values in zipped.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise BadRequest([FieldError("zip", "lists that go side by side are of one length", said)])
    if twice := sorted(set(zipped) & set(crossed)):
        raise BadRequest([FieldError(f"cross.{name}", "is zipped already") for name in twice])
    total = next(iter(lengths.values()), 1)
    for values in crossed.values():
        total *= len(values)
    if total > MOST_BATCH:
        raise BadRequest([FieldError("", f"makes {total} jobs", str(total), f"at most {MOST_BATCH}")])
    return [_member(asked.job, values) for values in cells(zipped, crossed)]


def cells(zipped: Mapping[str, Sequence[object]], crossed: Mapping[str, Sequence[object]]) -> Iterator[Json]:
    """What distinguishes each job: rows of lists of one length outside, every combination of the others inside."""
    names = [*zipped, *crossed]
    for row in zip(*zipped.values(), strict=True) if zipped else [()]:
        for cell in itertools.product(*crossed.values()):
            yield dict(zip(names, (*row, *cell), strict=True))


def filled(job: Mapping[str, object], values: Json, own: Collection[str]) -> Json:
    """A job with its values: names of its `own` fields are those, all others are settings of the recipe."""
    settings = job.get("settings", {})
    more = {name: value for name, value in values.items() if name not in own}
    mixed = {"settings": {**settings, **more}} if more and isinstance(settings, Mapping) else {}
    return {**job, **mixed, **{name: value for name, value in values.items() if name in own}}


def _lists(given: Mapping[str, object], at: str) -> dict[str, list[object]]:
    errors, found = [], {}
    for name, values in given.items():
        if isinstance(values, list) and 1 <= len(values) <= MOST_NAMES:
            found[name] = values
        else:
            errors.append(FieldError(f"{at}.{name}", f"must be a list of 1 to {MOST_NAMES} values", shown(values)))
    if errors:
        raise BadRequest(errors)
    return found


def _member(job: Mapping[str, object], values: Json) -> Member:
    kind = job.get("kind", NEW[0])
    if kind not in NEW:
        raise BadRequest([FieldError("job.kind", "a batch is of new runs", shown(kind), ", ".join(NEW))])
    own = {each.name for each in fields(REQUESTS[str(kind)])} - {"count", "settings"}
    body = {name: value for name, value in job.items() if name not in ("kind", "count")}
    return Member(request_of(kind, filled(body, values, own)), values)

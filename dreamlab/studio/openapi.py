# SPDX-License-Identifier: Apache-2.0
"""The interface's own description: an OpenAPI 3.1 document and a JSON Schema of requests, made of the endpoints' rows
and of the dataclasses that they bind."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import get_type_hints

from dreamlab import __version__
from dreamlab.core.files import Json
from dreamlab.core.settings import bounds_of
from dreamlab.jobs.asking import FieldError
from dreamlab.jobs.batches import BatchRequest
from dreamlab.jobs.requests import NEW, REQUESTS
from dreamlab.studio.api.base import ID, RAW, Endpoint
from dreamlab.studio.schema import is_required, schema_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ALWAYS = (400, 401, 403, 413, 429, 503)  # of every endpoint: cut off, who, from where, how much, how often
ABOUT = (
    "Jobs are submitted, polled and kept: every id is good until its job is deleted. A POST that makes jobs takes an "
    "Idempotency-Key, and the same key is the same job. Changes have one sequence of numbers, which event streams "
    "resume from."
)


@dataclass(frozen=True)
class Problem:
    """Why a request was refused: a word for programs, a line for people, what to do, and the fields that are wrong."""

    code: str
    message: str
    hint: str
    fields: tuple[FieldError, ...]


@dataclass(frozen=True)
class ProblemBody:
    """The body of every refusal."""

    error: Problem


def document(endpoints: Sequence[Endpoint]) -> Json:
    """OpenAPI 3.1 of them all."""
    known: dict[str, Json] = {}
    paths: dict[str, Json] = {}
    schema_of(ProblemBody, known)
    for each in endpoints:
        path = each.path.replace("*}", "}")
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, known)
    schemes = {"token": {"type": "http", "scheme": "bearer"}, "password": {"type": "http", "scheme": "basic"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "DreamLab studio", "version": __version__, "description": ABOUT, "license": _LICENCE},
        "jsonSchemaDialect": DIALECT,
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}, {"password": []}],
        "paths": paths,
        "components": {"schemas": known, "securitySchemes": schemes},
    }


_LICENCE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}


def _operation(each: Endpoint, known: dict[str, Json]) -> Json:
    made: Json = {"operationId": each.name, "summary": each.about, "responses": _responses(each, known)}
    if parameters := [*_of_path(each), *_of_query(each, known), *_of_headers(each)]:
        made["parameters"] = parameters
    if each.body is not None:
        made["requestBody"] = {"required": not each.optional, "content": _content(each, known)}
    return made


def _content(each: Endpoint, known: dict[str, Json]) -> Json:
    if each.body is RAW:
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {"application/json": {"schema": _body(each, known)}}


def _body(each: Endpoint, known: dict[str, Json]) -> Json:
    if len(each.forms) < 2:
        return schema_of(each.forms[0] if each.forms else each.body, known)
    return {"anyOf": [_of_kind(form, known) for form in each.forms]}


def _of_kind(form: object, known: dict[str, Json]) -> Json:
    """A new job's request says its kind, which none of the others' fields do; `dream` may be left out."""
    kind = next(name for name, cls in REQUESTS.items() if cls is form)
    schema_of(form, known)
    name = f"New{form.__name__}"  # type: ignore[attr-defined]
    plain = known[form.__name__]  # type: ignore[attr-defined]
    needs = [*plain.get("required", []), *([] if kind == NEW[0] else ["kind"])]
    properties = {"kind": {"type": "string", "enum": [kind]}, **plain["properties"]}
    known[name] = plain | {"properties": properties, "required": needs}
    return {"$ref": f"#/components/schemas/{name}"}


def _responses(each: Endpoint, known: dict[str, Json]) -> Json:
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
    if each.kind == "application/json":
        answer = each.answer if isinstance(each.answer, dict) else {"type": "object"}
        good: Json = {
            "application/json": {"schema": schema_of(each.answer, known) if isinstance(each.answer, type) else answer}
        }
    else:
        good = {each.kind: {}}
    found = {str(each.status): {"description": HTTPStatus(each.status).phrase, "content": good}}
    for status in sorted({*ALWAYS, *each.refuses}):
        told: Json = {"description": HTTPStatus(status).phrase, "content": problem}
        if status in (429, 503):
            told["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
        found[str(status)] = told
    return found


def _of_path(each: Endpoint) -> Iterator[Json]:
    for name in re.findall(r"\{(\w+)\*?\}", each.path):
        pattern = {"pattern": f"^{ID.pattern}$"} if name == "id" else {"minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", **pattern}}


def _of_query(each: Endpoint, known: dict[str, Json]) -> Iterator[Json]:
    hints = get_type_hints(each.query)
    for field in dataclasses.fields(each.query):
        bounds = bounds_of(field)
        made: Json = {"name": field.name, "in": "query", "required": is_required(field)}
        schema = schema_of(hints[field.name], known, bounds)
        parts = [part for part in schema.get("anyOf", []) if part != {"type": "null"}]
        made["schema"] = parts[0] if parts else schema  # what is missing is null
        if made["schema"].get("type") == "array":
            made |= {"style": "form", "explode": False}
        yield made | ({"description": bounds.help} if bounds.help else {})


def _of_headers(each: Endpoint) -> Iterator[Json]:
    if each.status == 202:
        key = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
        yield {"name": "Idempotency-Key", "in": "header", "schema": key, "description": "the same key, the same job"}
    if each.kind == "text/event-stream":
        yield {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"}}
    if each.body is RAW:
        yield {
            "name": "X-Filename",
            "in": "header",
            "schema": {"type": "string"},
            "description": "percent-encoded UTF-8",
        }


def requests_schema() -> Json:
    """JSON Schema of what may be asked of the queue, kind by kind."""
    known: dict[str, Json] = {}
    for form in (*REQUESTS.values(), BatchRequest):
        schema_of(form, known)
    kinds = {kind: {"$ref": f"#/$defs/{form.__name__}"} for kind, form in REQUESTS.items()}
    return {"$schema": DIALECT, "title": "Requests of DreamLab's queue", "$defs": known, "properties": kinds}

# SPDX-License-Identifier: Apache-2.0
"""The interface held against its own description by schemathesis: whatever is sent, valid or not, there is no 5xx but
those that say when to come back, and every answer is one that the document has. And the document against what the
server routes, by JSON Schema's own validator."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.testclient import TestClient

from dreamlab.studio.api.all import V1, described, endpoints
from dreamlab.studio.openapi import requests_schema
from dreamlab.studio.server import application
from tests.studio import serving
from tests.studio.conftest import Done

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance, unsupported_method]
FEW = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
NAMES = [each.name for each in endpoints(True) if each.path.startswith(("/v1", "/mcp"))]
NAMES.remove("openapi")  # which schemathesis leaves out, for it has just read it


@dataclass(frozen=True)
class Fuzzed:
    """A studio as schemathesis knows it, and the ids of what is in there."""

    operations: dict[str, schemathesis.APIOperation]
    run: str
    waiting: str


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Fuzzed:
    names = frozenset({"testserver"})  # as the client of schemathesis calls it
    studio = serving.studio(tmp_path_factory.mktemp("fuzz") / "runs", mcp=True, names=names)
    client = serving.client(studio)
    done = client.post("/v1/jobs", json=serving.body()).json()["id"]
    serving.work(studio.root)
    waiting = client.post("/v1/jobs", json=serving.body()).json()["id"]
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", application(studio))
    found = {each.ok().definition.raw["operationId"]: each.ok() for each in schema.get_all_operations()}
    return Fuzzed(found, done, waiting)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", NAMES)
def test_no_request_breaks_the_server(fuzzed: Fuzzed, name: str, mode: GenerationMode) -> None:
    operation = fuzzed.operations[name]
    fixed: dict[str, dict[str, object]] = {"query": {"seconds": 0}} if "events" in name else {}
    given_ids = [{"id": fuzzed.run}, {"id": fuzzed.waiting}, {}] if "{id}" in operation.path else [{}]
    for ids in given_ids:
        if mode is GenerationMode.NEGATIVE and not _has_something_to_spoil(operation, {*ids, *fixed.get("query", {})}):
            continue
        if ids and "{name}" in operation.path:
            ids = ids | {"name": "export/model.glb"}
        made = operation.as_strategy(mode, path_parameters=ids or None, **fixed)

        @seed(20261130)
        @FEW
        @given(case=made)
        def send(case: Case) -> None:
            response = case.call()
            if response.status_code in (429, 503):
                assert int(response.headers["retry-after"][0]) > 0
            else:
                assert response.status_code < 500, response.text
            case.validate_response(response, checks=CHECKS)

        send()


GOOD: list[tuple[str, dict[str, object]]] = [
    ("submit", {"body": serving.body()}),
    ("submit_batch", {"body": {"job": serving.body(), "cross": {"seed": [1, 2]}}}),
    ("go_on", {"body": {"steps": 2}}),
    ("branch", {"body": {"step": 1, "seed": 3}}),
    ("export", {"body": {"formats": ["obj"]}}),
    ("favourite", {"body": {"on": True}}),
    ("job", {}),
    ("jobs", {"query": {"limit": 5}}),
    ("run", {}),
    ("file", {}),
]


@pytest.mark.parametrize("name,asked", GOOD, ids=lambda value: value if isinstance(value, str) else "")
def test_what_can_be_done_is_done_and_answered_as_described(fuzzed: Fuzzed, name: str, asked: dict[str, Any]) -> None:
    """Whatever is made up at random seldom is a prompt that anybody knows."""
    operation = fuzzed.operations[name]
    known = {"id": fuzzed.run, "name": "export/model.glb"}
    path = {name: known[name] for name in re.findall(r"\{(\w+)\}", operation.path)}
    media = {"media_type": "application/json"} if "body" in asked else {}
    response = operation.Case(path_parameters=path, **asked, **media).call_and_validate(checks=CHECKS[:3])
    assert response.status_code == (202 if name in ("submit", "submit_batch", "go_on", "branch", "export") else 200)


def _has_something_to_spoil(operation: schemathesis.APIOperation, fixed: set[str]) -> bool:
    raw = operation.definition.raw
    free = [each for each in raw.get("parameters", []) if each["name"] not in fixed | {"name", "X-Filename"}]
    kinds = raw.get("requestBody", {}).get("content", {})  # no bytes are wrong ones
    return bool(free) or "application/json" in kinds


def test_the_document_is_an_openapi_document_of_every_route() -> None:
    document = described(False)
    assert document["openapi"].startswith("3.1.")
    listed = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert listed == {(each.method, each.path.replace("*}", "}")) for each in V1}
    operations = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(operations)) == len(operations)
    for path, item in document["paths"].items():
        for operation in item.values():
            inside = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
            assert inside == re.findall(r"\{(\w+)\}", path), path


def test_every_schema_is_one(done: Done) -> None:
    """And every reference leads somewhere."""
    for name, schema in described(True)["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        assert schema["type"] == "object", name
    references = set(re.findall(r"#/components/schemas/(\w+)", str(described(True))))
    assert references <= described(True)["components"]["schemas"].keys()
    jsonschema_rs.meta.validate(requests_schema())
    assert done.ann.get("/v1/schema").json() == requests_schema()


def test_what_is_answered_is_what_the_document_says(done: Done) -> None:
    """A finished job with all it has, against the schema of jobs."""
    components = described(False)["components"]
    validator = jsonschema_rs.validator_for({"$ref": "#/components/schemas/JobView", "components": components})
    view = done.ann.get(f"/v1/jobs/{done.id}").json()
    validator.validate(view)
    assert not validator.is_valid(view | {"step": "x"}) and not validator.is_valid({**view, "surprise": 1})


def test_the_schema_takes_what_the_server_takes_and_no_more(client: TestClient) -> None:
    """Where the two can disagree: bounds, choices, unknown names."""
    components = described(False)["components"]
    validator = jsonschema_rs.validator_for({"$ref": "#/components/schemas/NewDreamRequest", "components": components})
    good = [
        serving.body(),
        serving.body(seed=0, priority=-100, lane="background"),
        {"prompt": "a red duck", "count": 2},
    ]
    bad = [
        {},
        {"prompt": 3},
        serving.body(seed=-1),
        serving.body(seed=2**31),
        serving.body(priority=101),
        serving.body(lane="x"),
        serving.body(count=0),
        serving.body(count=65),
        serving.body(nope=1),
        serving.body(kind="export"),
        serving.body(seed=1.5),
    ]
    for given_body in good:
        assert validator.is_valid(given_body) and client.post("/v1/jobs", json=given_body).status_code == 202
    for given_body in bad:
        assert not validator.is_valid(given_body) and client.post("/v1/jobs", json=given_body).status_code == 422, (
            given_body
        )

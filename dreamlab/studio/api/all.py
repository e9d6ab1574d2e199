# SPDX-License-Identifier: Apache-2.0
"""All endpoints of a studio, and those that describe them."""

from __future__ import annotations

from functools import lru_cache

from dreamlab.core.files import Json
from dreamlab.studio.answers import Reply
from dreamlab.studio.api import about, acts, events, jobs, login, retention, runs, static, uploads
from dreamlab.studio.api.base import Call, Endpoint


def openapi(call: Call) -> Reply:
    """This interface in OpenAPI 3.1."""
    return Reply(described(call.studio.options.mcp))


def schema(call: Call) -> Reply:
    """What may be asked of the queue, as JSON Schema."""
    from dreamlab.studio.openapi import requests_schema

    return Reply(requests_schema())


OWN = (
    Endpoint("GET", "/v1/openapi.json", openapi, "This interface in OpenAPI 3.1"),
    Endpoint("GET", "/v1/schema", schema, "What may be asked of the queue, as JSON Schema"),
)
V1 = (
    *about.ENDPOINTS, *OWN, *jobs.ENDPOINTS, *acts.ENDPOINTS, *events.ENDPOINTS, *runs.ENDPOINTS, *uploads.ENDPOINTS,
    *retention.ENDPOINTS, *login.ENDPOINTS,
)  # fmt: skip


def endpoints(with_mcp: bool) -> tuple[Endpoint, ...]:
    """What the server routes."""
    from dreamlab.studio.mcp import ENDPOINTS as MCP

    return (*V1, *login.PAGES, *static.PAGES, *(MCP if with_mcp else ()))


@lru_cache(maxsize=2)
def described(with_mcp: bool) -> Json:
    from dreamlab.studio.mcp import ENDPOINTS as MCP
    from dreamlab.studio.openapi import document

    return document((*V1, *(MCP if with_mcp else ())))

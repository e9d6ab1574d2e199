# SPDX-License-Identifier: Apache-2.0
"""The Model Context Protocol: as its specification has the messages; the same owners and limits as REST."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.studio import serving
from tests.studio.conftest import Done


def call(client: TestClient, method: str, params: object = None, identity: object = 1) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": identity, "method": method} | ({} if params is None else {"params": params})
    reply = client.post("/mcp", json=message)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    assert found["jsonrpc"] == "2.0" and found["id"] == identity
    return found


def tool(client: TestClient, name: str, **arguments: object) -> tuple[bool, dict[str, Any]]:
    result = call(client, "tools/call", {"name": name, "arguments": arguments})["result"]
    assert result["content"][0]["type"] == "text"
    return result["isError"], result["structuredContent"]


def test_it_is_off_unless_asked_for(client: TestClient) -> None:
    assert client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}).status_code == 404
    assert "/mcp" not in client.get("/v1/openapi.json").json()["paths"]


def test_the_handshake(done: Done) -> None:
    told = call(done.ann, "initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}})[
        "result"
    ]
    assert (
        told["protocolVersion"] == "2025-06-18"
        and told["serverInfo"]["name"] == "dreamlab"
        and "tools" in told["capabilities"]
    )
    assert call(done.ann, "initialize", {"protocolVersion": "1999-01-01"})["result"]["protocolVersion"] == "2025-06-18"
    noted = done.ann.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert noted.status_code == 202 and noted.content == b""
    assert call(done.ann, "ping", identity="x")["result"] == {}


def test_every_tool_says_what_it_takes(done: Done) -> None:
    tools = {each["name"]: each for each in call(done.ann, "tools/list")["result"]["tools"]}
    assert set(tools) == {"submit", "status", "list", "cancel", "files"}
    assert tools["submit"]["inputSchema"]["required"] == ["prompt"] and tools["submit"]["description"]
    assert all(each["inputSchema"]["type"] == "object" and "$ref" not in str(each) for each in tools.values())


def test_the_verbs(done: Done) -> None:
    wrong, made = tool(done.ann, "submit", **serving.body())
    assert not wrong and made["state"] == "queued"
    assert tool(done.ann, "status", id=made["id"])[1]["id"] == made["id"]
    assert made["id"] in [job["id"] for job in tool(done.ann, "list", state="queued")[1]["jobs"]]
    assert tool(done.ann, "cancel", id=made["id"])[1]["state"] == "cancelled"
    files = tool(done.ann, "files", id=done.id)[1]["files"]
    assert "export/model.glb" in [each["name"] for each in files]


def test_another_s_job_is_unknown(done: Done) -> None:
    for name in ("status", "cancel", "files"):
        wrong, said = tool(done.bob, name, id=done.id)
        assert wrong and said["error"]["code"] == "unknown"
    assert done.id not in str(tool(done.bob, "list"))


def test_what_is_wrong_is_said_by_its_name(done: Done) -> None:
    wrong, said = tool(done.ann, "submit", prompt="", sed=3)
    assert wrong and {field["loc"] for field in said["error"]["fields"]} == {"prompt", "sed"}
    for params in ({"name": "rm"}, {"name": "list", "arguments": 3}, {}):
        assert call(done.ann, "tools/call", params)["error"]["code"] == -32602
    assert call(done.ann, "shutdown")["error"]["code"] == -32601


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"jsonrpc": "1.0", "method": "ping", "id": 1},
        {"jsonrpc": "2.0", "id": [], "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": 3},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
    ],
)
def test_what_is_no_message_is_answered_as_such(done: Done, message: object) -> None:
    assert done.ann.post("/mcp", json=message).json()["error"]["code"] == -32600

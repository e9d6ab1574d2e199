# SPDX-License-Identifier: Apache-2.0
"""What no request gets past: names that are not ours, other sites, bodies that are too large (fault 37)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from starlette.testclient import TestClient

from dreamlab.studio.guard import MOST_BODY, MOST_UPLOAD, Guarded, Message, Names, Receive, Scope, Send, hostname


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the whole body, says its length."""
    if scope["type"] == "lifespan":
        return
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    headers = [(b"content-type", b"text/plain"), (b"cache-control", b"max-age=9")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(length).encode()})


def client(names: Names | None = None) -> TestClient:
    return TestClient(Guarded(echo, names or Names()), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860", "LOCALHOST.:1", "127.9.9.9"]
)
def test_the_names_of_this_machine_are_known(host: str) -> None:
    assert client().get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.7",
        "2130706433",
        "",
        "[::1",
        "a@127.0.0.1.x",
    ],
)
def test_a_name_that_a_stranger_may_point_here_is_refused(host: str) -> None:
    """DNS rebinding: the browser believes that evil.example is this server."""
    said = client().get("/v1/jobs", headers={"Host": host})
    assert said.status_code == 403 and said.json()["error"]["code"] == "host"


def test_a_studio_for_others_answers_to_addresses_and_to_the_names_it_was_given() -> None:
    open_to_others = client(Names(True, frozenset({"studio.example"})))
    for host, status in (("192.168.1.7:7860", 200), ("studio.example", 200), ("[fe80::1]", 200), ("evil.example", 403)):
        assert open_to_others.get("/", headers={"Host": host}).status_code == status, host


ELSEWHERE: list[Mapping[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:3000"},  # another program of this machine
    {"Origin": "http://localhost:7860"},  # another name is another origin
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_another_site_can_neither_change_nor_read(headers: Mapping[str, str]) -> None:
    for method in ("POST", "DELETE", "GET"):
        said = client().request(method, "/v1/jobs", headers=headers)
        assert said.status_code == 403 and said.json()["error"]["code"] == "origin", method


def test_our_own_page_programs_and_links_from_elsewhere_come_in() -> None:
    ours: list[Mapping[str, str]] = [
        {},
        {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ]
    for headers in ours:
        assert client().post("/v1/jobs", headers=headers).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client().get("/?tab=watch", headers=link).status_code == 200
    assert client().post("/", headers=link).status_code == 403


def test_a_body_is_refused_by_what_it_says_and_by_what_it_is() -> None:
    assert client().post("/v1/jobs", content=b"x" * MOST_BODY).text == str(MOST_BODY)
    said = client().post("/v1/jobs", content=b"x" * (MOST_BODY + 1))
    assert said.status_code == 413 and said.json()["error"]["code"] == "too_large"
    assert client().post("/v1/uploads", content=b"x" * (MOST_BODY + 1)).status_code == 200
    assert client().post("/v1/uploads", headers={"Content-Length": str(MOST_UPLOAD + 1)}).status_code == 413


def test_a_body_without_a_length_is_counted_and_cut() -> None:
    """It goes on for ever; the guard does not."""
    taken = 0

    async def endless() -> Message:
        nonlocal taken
        taken += 1 << 16
        return {"type": "http.request", "body": bytes(1 << 16), "more_body": True}

    said: list[Message] = []

    async def hear(message: Message) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/jobs",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    asyncio.run(Guarded(echo, Names())(scope, endless, hear))
    assert said[0]["status"] == 413 and taken <= MOST_BODY + (1 << 16)


def test_a_browser_is_kept_to_this_server() -> None:
    """By the headers' own grammar: no source of the page's policy is another host."""
    page, data = client().get("/").headers, client().get("/v1/jobs").headers
    parts = [part.split() for part in page["content-security-policy"].split(";") if part.split()]
    policy = {name: sources for name, *sources in parts}
    mine = {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
    assert policy["default-src"] == ["'self'"] and policy["frame-ancestors"] == ["'none'"]
    assert all(set(sources) <= mine for sources in policy.values())
    assert data["content-security-policy"].startswith("default-src 'none'")
    for headers in (page, data):
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
    assert data["cache-control"] == "max-age=9", "what a handler says of caching stays"


@pytest.mark.parametrize("host,name", [("A.B:1", "a.b"), ("[::1]:80", "::1"), ("x..", "x"), ("[", ""), (":80", "")])
def test_hostnames(host: str, name: str) -> None:
    assert hostname(host) == name

# SPDX-License-Identifier: Apache-2.0
"""Streams of events: read as the HTML standard has them; resumed where they broke off; bounded. Fault 19."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from dreamlab.studio import sse
from dreamlab.studio.answers import Refusal
from dreamlab.studio.sse import Event, OpenStreams, stream
from dreamlab.studio.studio import Studio
from tests.studio import serving


def events(text: str) -> Iterator[dict[str, Any]]:
    """HTML 9.2.6: fields of lines, an event at each blank line; comments are none."""
    found: dict[str, Any] = {}
    for line in text.split("\n"):
        if not line:
            if "data" in found:
                yield {**found, "data": json.loads(found["data"])}
            found = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            found[name] = value.removeprefix(" ")


def heard(client: TestClient, path: str = "/v1/events", last: str = "", **params: object) -> list[dict[str, Any]]:
    headers = {"Last-Event-ID": last} if last else {}
    reply = client.get(path, params={"seconds": 0, **params}, headers=headers)  # type: ignore[dict-item]
    assert reply.status_code == 200 and reply.headers["content-type"] == "text/event-stream", reply.text
    return list(events(reply.text))


def submit(client: TestClient) -> str:
    return str(client.post("/v1/jobs", json=serving.body()).json()["id"])


def test_a_stream_goes_on_after_the_last_event_that_was_heard(client: TestClient) -> None:
    """Nothing twice, nothing missed, in order."""
    first = submit(client)
    early = heard(client, since=0)
    assert [(each["data"]["job"], each["data"]["state"]) for each in early] == [(first, "queued")]
    second = submit(client)
    client.post(f"/v1/jobs/{first}/cancel")
    later = heard(client, last=early[-1]["id"])
    assert [(each["data"]["job"], each["data"]["state"]) for each in later] == [
        (second, "queued"),
        (first, "cancelled"),
    ]
    ids = [int(each["id"]) for each in early + later]
    assert ids == sorted(set(ids)) and heard(client, last=str(ids[-1])) == []
    assert heard(client) == [], "without a mark a stream begins now"
    assert client.get("/v1/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_one_job_s_stream_says_how_it_stands_and_then_what_changes(client: TestClient, studio: Studio) -> None:
    job = submit(client)
    (now,) = heard(client, f"/v1/jobs/{job}/events")
    assert now["event"] == "state" and now["data"]["state"] == "queued" and now["data"]["position"] == 1
    done: list[str] = []

    def act() -> None:
        time.sleep(1.0)
        done.append(client.post(f"/v1/jobs/{job}/cancel").json()["state"])

    thread = threading.Thread(target=act)
    thread.start()
    got = heard(client, f"/v1/jobs/{job}/events", last=now["id"], seconds=4)
    thread.join()
    assert done == ["cancelled"] and got[-1]["data"]["state"] == "cancelled" and int(got[-1]["id"]) > int(now["id"])


def test_what_is_thrown_away_does_not_break_its_stream(client: TestClient, studio: Studio) -> None:
    job = submit(client)
    client.delete(f"/v1/jobs/{job}")
    assert [each["data"]["state"] for each in heard(client, f"/v1/jobs/{job}/events")] == ["cancelled"]


def parts(read: Any, since: int = 0, seconds: float = 0.0) -> list[bytes]:
    async def all_of_them() -> list[bytes]:
        return [part async for part in stream(read, since, seconds)]

    return asyncio.run(all_of_them())


def test_a_quiet_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "BEAT_S", 0.1)
    monkeypatch.setattr(sse, "EVERY_S", 0.05)
    said = parts(lambda since: [], seconds=0.5)
    assert said[0].startswith(b"retry: ") and said.count(b": alive\n\n") >= 2
    assert said[-1].startswith(b": ") and all(part.endswith(b"\n\n") for part in said)


def test_no_text_breaks_out_of_its_event() -> None:
    (found,) = events(Event("state", {"prompt": "a\nid: 9\n\ndata: x\r\u2028\ud800"}, 3).encoded().decode())
    assert found["id"] == "3" and found["data"]["prompt"] == "a\nid: 9\n\ndata: x\r\u2028\ud800"


def test_an_event_without_an_id_moves_nothing() -> None:
    asked: list[int] = []

    def read(since: int) -> list[Event]:
        asked.append(since)
        return [Event("state", {}, 7), Event("progress", {})] if len(asked) == 1 else []

    parts(read, 3, 0.6)
    assert asked[0] == 3 and set(asked[1:]) == {7}


def test_streams_are_counted_and_let_go(monkeypatch: pytest.MonkeyPatch, client: TestClient, studio: Studio) -> None:
    monkeypatch.setattr(sse, "MOST_OF_AN_OWNER", 1)
    open_ones = OpenStreams()
    open_ones.enter("ann")
    with pytest.raises(Refusal) as caught:
        open_ones.enter("ann")
    assert caught.value.status == 429 and "Retry-After" in caught.value.headers
    open_ones.enter("bob")
    open_ones.leave("ann")
    open_ones.enter("ann")
    for _ in range(3):
        heard(client)
    assert client.head("/v1/events").status_code == 200
    assert studio.streams.open.total() == 0, "each was let go at its end"

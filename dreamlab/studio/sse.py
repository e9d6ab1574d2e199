# SPDX-License-Identifier: Apache-2.0
"""Server-sent events (HTML, 9.2): what changes in the queue as it changes. Never the only source: all of it can be
polled too.

An event's id is the queue's sequence number, so that a client that comes back with `Last-Event-ID` misses nothing and
hears nothing twice. A stream ends by itself after a while, the number of streams is bounded, and a comment now and then
shows that it lives.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from dreamlab.core.files import Json
from dreamlab.studio.answers import busy

EVERY_S, BEAT_S, LASTS_S = 0.4, 15.0, 900.0
MOST_STREAMS, MOST_OF_AN_OWNER = 256, 64
RETRY_MS = 2000  # after which a browser comes back


@dataclass(frozen=True)
class Event:
    """One event; without an id a client does not move its mark."""

    kind: str
    data: Json
    id: int | None = None

    def encoded(self) -> bytes:
        head = "" if self.id is None else f"id: {self.id}\n"
        return f"{head}event: {self.kind}\ndata: {json.dumps(self.data, ensure_ascii=True)}\n\n".encode()


def comment(text: str) -> bytes:
    return f": {text}\n\n".encode()


@dataclass
class OpenStreams:
    """How many are open."""

    open: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, owner: str) -> None:
        with self._lock:
            if self.open.total() >= MOST_STREAMS:
                raise busy(503, "too many streams are open", 30)
            if self.open[owner] >= MOST_OF_AN_OWNER:
                raise busy(429, "too many of your streams are open", 30)
            self.open[owner] += 1

    def leave(self, owner: str) -> None:
        with self._lock:
            self.open[owner] -= 1
            self.open += Counter()  # forgets who has none


async def stream(read: Callable[[int], list[Event]], since: int, seconds: float) -> AsyncIterator[bytes]:
    """Everything that `read(since)` gives, again and again, until the time is up. It gives events in their order and
    may wait for a disk; those with an id move `since` on."""
    until, spoke = time.monotonic() + min(seconds, LASTS_S), time.monotonic()
    yield f"retry: {RETRY_MS}\n\n".encode()
    while True:
        for event in await asyncio.to_thread(read, since):
            since = since if event.id is None else event.id
            spoke = time.monotonic()
            yield event.encoded()
        if (left := until - time.monotonic()) <= 0:
            yield comment("the end of this stream; come back with Last-Event-ID")
            return
        if time.monotonic() - spoke > BEAT_S:
            spoke = time.monotonic()
            yield comment("alive")
        await asyncio.sleep(min(EVERY_S, left))

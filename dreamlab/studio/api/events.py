# SPDX-License-Identifier: Apache-2.0
"""What happens, as it happens: server-sent events of all of an owner's jobs, or of one with its progress."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from dreamlab.core.settings import setting
from dreamlab.jobs.asking import FieldError
from dreamlab.jobs.states import JobChange, JobUnknown
from dreamlab.studio.answers import Reply, invalid
from dreamlab.studio.api.base import Call, Endpoint
from dreamlab.studio.api.jobs import shown
from dreamlab.studio.sse import LASTS_S, Event, stream

MOST = 500  # changes of one look
PROGRESS_S = 1.0
PROGRESSING = ("step", "stage", "preview", "live", "position")  # of a job's view: what is worth an event by itself


@dataclass(frozen=True)
class EventsQuery:
    """Where a stream begins and how long it is."""

    since: int | None = setting(None, low=0, high=2**62, help="a sequence number; Last-Event-ID says it too; none: now")
    seconds: float = setting(LASTS_S, low=0, high=LASTS_S, help="after which it ends")


def _since(call: Call) -> int:
    """Where the client was; the newest change for one that has been nowhere."""
    asked, last = call.asked(EventsQuery).since, call.headers.get("last-event-id", "")
    if last and not re.fullmatch(r"\d{1,18}", last):
        raise invalid(FieldError("Last-Event-ID", "must be the id of an event", last[:40]))
    if last:
        return int(last)
    return call.studio.queue.newest() if asked is None else asked


def _streamed(call: Call, read: Callable[[int], list[Event]], since: int) -> Reply:
    streams, owner = call.studio.streams, call.owner
    streams.enter(owner)
    parts = stream(read, since, call.asked(EventsQuery).seconds)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Reply(parts, 200, headers, "text/event-stream", lambda: streams.leave(owner))


def _change(change: JobChange) -> Event:
    told = {"job": change.job, "state": change.state, "attempt": change.attempt, "what": change.what,
            "seq": change.seq, "time": change.time}  # fmt: skip
    return Event("state", told, change.seq)


def events(call: Call) -> Reply:
    """Every change of the owner's jobs."""
    queue, owner = call.studio.queue, call.owner
    return _streamed(call, lambda since: [_change(each) for each in queue.changes(since, owner, MOST)], _since(call))


def job_events(call: Call) -> Reply:
    """Every change of one job, and how far it is in between; the first event says how it stands."""
    job = call.job()
    queue = call.studio.queue
    told: dict[str, object] = {}
    looked = 0.0

    def read(since: int) -> list[Event]:
        nonlocal told, looked
        try:
            now = queue.job(job.id)
        except JobUnknown:  # it has been purged
            return []
        if told and now.seq <= since and time.monotonic() - looked < PROGRESS_S:
            return []
        looked = time.monotonic()
        view = shown(call, now)
        before, told = told, view
        if now.seq > since or not before:
            return [Event("state", view, max(now.seq, since))]
        changed = any(before.get(name) != view.get(name) for name in PROGRESSING)
        return [Event("progress", view)] if changed else []

    return _streamed(call, read, _since(call))


ENDPOINTS = (
    Endpoint("GET", "/v1/events", events, "What happens to your jobs, as it happens", EventsQuery,
             kind="text/event-stream", refuses=(422, 429, 503)),
    Endpoint("GET", "/v1/jobs/{id}/events", job_events, "What happens to a job, and how far it is", EventsQuery,
             kind="text/event-stream", refuses=(404, 422, 429, 503)),
)  # fmt: skip

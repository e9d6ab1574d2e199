# SPDX-License-Identifier: Apache-2.0
"""What people do with a job: stop, go on, branch, export again, move, keep, throw away; and with the whole queue."""

from __future__ import annotations

from dataclasses import dataclass

from dreamlab.core.settings import setting
from dreamlab.jobs.making import make
from dreamlab.jobs.requests import BranchRequest, ContinueRequest, ExportRequest, request_of
from dreamlab.jobs.states import LANES, Job
from dreamlab.jobs.views import JobView
from dreamlab.run.folder import Run
from dreamlab.studio.answers import Refusal, Reply
from dreamlab.studio.api.base import Call, Endpoint, Handler, owned
from dreamlab.studio.api.jobs import ACCEPTED, accepted, shown
from dreamlab.studio.api.runs import found

CHANGED = (404, 409, 415, 422, 507)


@dataclass(frozen=True)
class CancelRequest:
    """How to stop."""

    keep: bool = setting(False, help="export what there is by then, and call it done")


@dataclass(frozen=True)
class MoveRequest:
    """Where to in the line: beside another job, or to the end of a lane and priority."""

    before: str | None = setting(None, help="id of a job that waits")
    after: str | None = setting(None, help="id of a job that waits")
    lane: str | None = setting(None, choices=LANES)
    priority: int | None = setting(None, low=-100, high=100, help="larger first")


@dataclass(frozen=True)
class FavouriteRequest:
    """Whether it is one."""

    on: bool = setting(True, help="false: no more")


def cancel(call: Call) -> Reply:
    """One that waits is cancelled at once, one that runs stops at its next step, one that has ended stays as it is."""
    return _now(call, call.studio.queue.cancel(call.job().id, call.given(CancelRequest).keep))


def retry(call: Call) -> Reply:
    """Again, from its checkpoint."""
    return _now(call, call.studio.queue.retry(call.job().id))


def _child(call: Call, kind: str) -> Reply:
    """A job that stands on another one, or on a run of the command line."""
    request = request_of(kind, call.body)
    run = _unqueued(call)
    parent: Job | Run = call.job() if run is None else Run.open(found(call, run)[1])
    return accepted(call, make(call.studio.queue, request, call.owner, call.key(), parent=parent))


def go_on(call: Call) -> Reply:
    """More steps, as a job of its own."""
    return _child(call, "continue")


def branch(call: Call) -> Reply:
    """From a checkpoint, with other words, rules or seed."""
    return _child(call, "branch")


def export(call: Call) -> Reply:
    """The files once more, in other formats and sizes."""
    return _child(call, "export")


def move(call: Call) -> Reply:
    """Another place in the line."""
    asked, job = call.given(MoveRequest), call.job()
    for other in (asked.before, asked.after):
        if other is not None:
            owned(call.studio, call.owner, other)
    moved = call.studio.queue.move(
        job.id, before=asked.before, after=asked.after, lane=asked.lane, priority=asked.priority
    )
    return _now(call, moved)


def favourite(call: Call) -> Reply:
    """A star on a run, or none."""
    on = call.given(FavouriteRequest).on
    if (run := _unqueued(call)) is not None:
        return Reply(call.studio.index.mark(run, favourite=on).plain())
    return _now(call, call.studio.queue.favourite(call.job().id, on))


def delete(call: Call) -> Reply:
    """Into the trash, from where `restore` brings it back."""
    if (run := _unqueued(call)) is not None:
        return Reply(call.studio.index.mark(run, trashed=True).plain())
    return _now(call, call.studio.queue.delete(call.job().id))


def restore(call: Call) -> Reply:
    """Out of the trash."""
    if (run := _unqueued(call)) is not None:
        return Reply(call.studio.index.mark(run, trashed=False).plain())
    return _now(call, call.studio.queue.restore(call.job().id))


def _unqueued(call: Call) -> str | None:
    """The id, where it is of a run that no queue knows."""
    try:
        call.job()
    except Refusal:
        row, _ = found(call, call.path["id"])
        return None if row.job else row.id
    return None


def _now(call: Call, job: Job) -> Reply:
    return Reply(shown(call, job))


def pause(call: Call) -> Reply:
    """No job begins from now on; those that run go on."""
    call.studio.queue.pause()
    return Reply({"paused": True})


def resume(call: Call) -> Reply:
    """Jobs begin again."""
    call.studio.queue.resume()
    return Reply({"paused": False})


def _act(name: str, handler: Handler, about: str, body: type | None = None) -> Endpoint:
    """Of a job; what it is told may be left out."""
    answer = JobView if name not in ("favourite", "restore") else None
    place = f"/v1/jobs/{{id}}/{name}"
    return Endpoint("POST", place, handler, about, body=body, answer=answer, refuses=CHANGED, optional=body is not None)


def _next(name: str, handler: Handler, about: str, form: type) -> Endpoint:
    """A job that stands on another one."""
    place, optional = f"/v1/jobs/{{id}}/{name}", form is not ContinueRequest
    return Endpoint(
        "POST", place, handler, about, body=dict, forms=(form,), answer=JobView, status=ACCEPTED, refuses=CHANGED,
        optional=optional,
    )  # fmt: skip


ENDPOINTS = (
    _act("cancel", cancel, "Stop a job; with keep, export what it has made", CancelRequest),
    _act("retry", retry, "Run a job again, from its checkpoint"),
    _next("continue", go_on, "More steps, as a job of its own", ContinueRequest),
    _next("branch", branch, "A job that starts where another stood", BranchRequest),
    _next("export", export, "Write a run's files again, as a job of its own", ExportRequest),
    _act("move", move, "Another place in the line", MoveRequest),
    _act("favourite", favourite, "Star a run, or no more", FavouriteRequest),
    _act("restore", restore, "Bring a job back from the trash"),
    Endpoint("DELETE", "/v1/jobs/{id}", delete, "Put a job and its run into the trash", refuses=(404, 409, 507)),
    Endpoint("POST", "/v1/queue/pause", pause, "No job begins from now on"),
    Endpoint("POST", "/v1/queue/resume", resume, "Jobs begin again"),
)

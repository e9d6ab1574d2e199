# SPDX-License-Identifier: Apache-2.0
"""Jobs: submit one, several or a batch; pages of them; one; what it has said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.settings import setting
from dreamlab.jobs.asking import BadRequest, FieldError
from dreamlab.jobs.asking import shown as quoted
from dreamlab.jobs.batches import BatchRequest
from dreamlab.jobs.folders import located
from dreamlab.jobs.making import make, make_batch
from dreamlab.jobs.requests import NEW, DreamRequest, TextureRequest, request_of
from dreamlab.jobs.states import STATES, Job
from dreamlab.jobs.views import JobView, job_view, job_views, run_id
from dreamlab.studio.answers import Refusal, Reply, invalid
from dreamlab.studio.api.about import CURVES
from dreamlab.studio.api.base import Call, Endpoint
from dreamlab.studio.api.runs import address, found
from dreamlab.studio.follow import log_after, previews

ACCEPTED = 202


@dataclass(frozen=True, kw_only=True)
class JobsQuery:
    """Which jobs."""

    state: tuple[str, ...] = setting((), choices=STATES, help="one or more, with commas")
    q: str = setting("", help="a part of the prompt")
    batch: str = setting("", help="of this batch")
    favourite: bool | None = setting(None, help="only those, or only the others")
    deleted: bool = setting(False, help="those in the trash instead")
    limit: int = setting(50, low=1, high=200)
    cursor: str = setting("", help="`next` of the page before")


@dataclass(frozen=True, kw_only=True)
class LogQuery:
    """From where on."""

    after: int = setting(0, low=0, high=2**53, help="`next` of the answer before")


@dataclass(frozen=True, kw_only=True)
class MetricsQuery:
    """From where on."""

    after: int = setting(-1, low=-1, high=2**53, help="the last step that is known")


@dataclass(frozen=True)
class JobPage:
    """Some jobs, the newest first."""

    jobs: tuple[JobView, ...]
    next: str | None


@dataclass(frozen=True)
class MadeJobs:
    """Several jobs of one submit."""

    jobs: tuple[JobView, ...]
    batch: str


def shown(call: Call, job: Job) -> Json:
    return told(call, job_view(call.studio.queue, job))


def told(call: Call, view: JobView) -> Json:
    """Where a folder lies on the server's disk is for who sits at it: others are told its name alone."""
    return view.plain() | ({"folder": view.run} if call.studio.options.open else {})


def _shown_all(call: Call, jobs: Sequence[Job]) -> list[Json]:
    return [told(call, view) for view in job_views(call.studio.queue, jobs)]


def submit(call: Call) -> Reply:
    """One job, or `count` of them, whose seeds follow one another."""
    assert isinstance(call.body, dict)
    given = dict(call.body)
    kind = given.pop("kind", NEW[0])
    if kind not in NEW:
        said = "is none that begins with nothing: continue, branch and export are asked of a job"
        raise BadRequest([FieldError("kind", said, quoted(kind), ", ".join(NEW))])
    request = request_of(kind, given)
    studio = call.studio
    made = make(studio.queue, request, call.owner, call.key(), find=studio.uploads.finder(call.owner))
    return accepted(call, made)


def accepted(call: Call, made: Sequence[Job]) -> Reply:
    """202: where it is to be asked for."""
    if len(made) == 1:
        view = shown(call, made[0])
        return Reply(view, ACCEPTED, {"Location": f"/v1/jobs/{made[0].id}"})
    return Reply({"jobs": _shown_all(call, made), "batch": made[0].batch}, ACCEPTED)


def submit_batch(call: Call) -> Reply:
    """Jobs of zipped and crossed lists; all of them or, where one cannot be, none."""
    assert isinstance(call.body, dict)
    studio = call.studio
    made = make_batch(studio.queue, call.body, call.owner, call.key(), find=studio.uploads.finder(call.owner))
    return Reply({"jobs": _shown_all(call, made), "batch": made[0].batch}, ACCEPTED)


def jobs(call: Call) -> Reply:
    """A page of them."""
    asked = call.asked(JobsQuery)
    try:
        page = call.studio.queue.page(
            owner=call.owner, states=asked.state, text=asked.q, batch=asked.batch or None, favourite=asked.favourite,
            deleted=asked.deleted, limit=asked.limit, cursor=asked.cursor or None,
        )  # fmt: skip
    except InputError as error:
        raise invalid(FieldError("cursor", str(error).removeprefix("cursor: "), asked.cursor[:80])) from None
    return Reply({"jobs": _shown_all(call, page.jobs), "next": page.next})


def job(call: Call) -> Reply:
    """How it stands."""
    return Reply(shown(call, call.job()))


def folder_of(call: Call) -> tuple[str, Path]:
    """The run that the path names, its id and folder: a job's, or one of the command line, which has no job."""
    try:
        job = call.job()
    except Refusal:
        row, folder = found(call, call.path["id"])
        return row.id, folder
    return run_id(job), located(call.studio.root, job.run)


def log(call: Call) -> Reply:
    """What its run has written down, from a byte on."""
    return Reply(log_after(folder_of(call)[1], call.asked(LogQuery).after))


def metrics(call: Call) -> Reply:
    """Its curves, from a step on."""
    return Reply({"points": CURVES.points(folder_of(call)[1], call.asked(MetricsQuery).after)})


def job_previews(call: Call) -> Reply:
    """Pictures of it as it formed."""
    identity, folder = folder_of(call)
    return Reply(
        [{"step": step, "url": address(identity, f"previews/step_{step:06d}.png")} for step in previews(folder)]
    )


ENDPOINTS = (
    Endpoint("POST", "/v1/jobs", submit, "Submit a job", body=dict, forms=(DreamRequest, TextureRequest), status=202,
             refuses=(409, 415, 422, 507)),
    Endpoint("POST", "/v1/batches", submit_batch, "Submit jobs of zipped and crossed lists", body=dict,
             forms=(BatchRequest,), answer=MadeJobs, status=202, refuses=(409, 415, 422, 507)),
    Endpoint("GET", "/v1/jobs", jobs, "Your jobs, the newest first", JobsQuery, answer=JobPage, refuses=(422,)),
    Endpoint("GET", "/v1/jobs/{id}", job, "How a job stands", answer=JobView, refuses=(404,)),
    Endpoint("GET", "/v1/jobs/{id}/log", log, "What a job has written down", LogQuery, refuses=(404, 422)),
    Endpoint("GET", "/v1/jobs/{id}/metrics", metrics, "A job's curves", MetricsQuery, refuses=(404, 422)),
    Endpoint("GET", "/v1/jobs/{id}/previews", job_previews, "Pictures of a job as it forms", answer={"type": "array"},
             refuses=(404,)),
)  # fmt: skip

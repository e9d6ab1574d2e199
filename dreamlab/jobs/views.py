# SPDX-License-Identifier: Apache-2.0
"""A job with what its folder says, as the command line, the REST interface and Python show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from dreamlab.core.files import Json
from dreamlab.jobs import folders
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.standing import Outline, Standing, artifacts, newest_preview, outline, standing
from dreamlab.jobs.states import QUEUED, RUNNING, SUCCEEDED, Job

_AS_STORED = """id kind state attempt owner lane priority prompt recipe seed batch parent retried_from run created
started finished stopped_at favourite seq"""


@dataclass(frozen=True)
class ErrorView:
    """Why it ended badly, and what to do."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class LiveView:
    """The newest file for a 3D view of what forms."""

    url: str
    step: int
    kind: str  # mesh, splat or animation


@dataclass(frozen=True)
class ArtifactView:
    """A file that was exported."""

    name: str
    kind: str
    bytes: int
    sha256: str
    url: str


@dataclass(frozen=True)
class Links:
    """Where more is."""

    self: str
    run: str
    events: str
    log: str
    metrics: str


@dataclass(frozen=True)
class JobView:
    """A job as it stands."""

    id: str
    kind: str
    state: str
    stage: str
    step: int
    total: int
    progress: float  # 0 to 1
    it_per_s: float | None
    eta_s: float | None
    position: int | None  # of those that wait; 1: the next
    attempt: int
    owner: str
    lane: str
    priority: int
    prompt: str
    negative: str
    recipe: str
    seed: int
    values: Mapping[str, object]  # what distinguishes it in its batch
    request: Mapping[str, object]  # what was asked for, to be asked for again
    settings: Mapping[str, object]  # of the recipe, among it
    batch: str
    parent: str
    retried_from: str  # the job that asked for the same before
    run: str
    folder: str
    created: str
    started: str
    finished: str
    stopped_at: int | None
    error: ErrorView | None
    favourite: bool
    seq: int
    links: Links
    preview: str | None = None
    live: LiveView | None = None
    artifacts: tuple[ArtifactView, ...] = field(default=())

    def plain(self) -> Json:
        return dataclasses.asdict(self) | {"artifacts": [dataclasses.asdict(each) for each in self.artifacts]}


def job_view(queue: Queue, job: Job, positions: Mapping[str, int] | None = None) -> JobView:
    """`positions`: of the queue, for who shows many jobs."""
    if job.state == QUEUED and positions is None:
        positions = queue.positions()
    folder = folders.located(queue.root, job.run)
    plan, now = outline(folder), _standing(job, folder)
    step = now.step if job.stopped_at is None else job.stopped_at
    base = f"/v1/runs/{run_id(job)}"
    picture, live = newest_preview(folder), now.live
    here = f"/v1/jobs/{job.id}"
    left = max(plan.total - step, 0)
    return JobView(
        **{name: getattr(job, name) for name in _AS_STORED.split()},
        stage=_stage(job, plan, now, step),
        step=step,
        total=plan.total,
        progress=_progress(job, step, plan.total),
        it_per_s=now.it_per_s,
        eta_s=round(left / now.it_per_s, 1) if now.it_per_s else None,
        position=(positions or {}).get(job.id),
        negative=plan.negative,
        values=job.batch_values,
        request=job.request,
        settings=job.request.get("settings", {}),
        folder=str(folder),
        error=None if job.error is None else ErrorView(**job.error.plain()),
        links=Links(here, base, f"{here}/events", f"{here}/log", f"{here}/metrics"),
        preview=address(base, picture) if picture else None,
        live=None if live is None else LiveView(address(base, live.path), live.step, live.kind),
        artifacts=tuple(
            ArtifactView(each.name, each.kind, each.bytes, each.sha256, address(base, each.name))
            for each in artifacts(folder)
        ),
    )


def job_views(queue: Queue, jobs: Sequence[Job]) -> list[JobView]:
    positions = queue.positions() if any(job.state == QUEUED for job in jobs) else {}
    return [job_view(queue, job, positions) for job in jobs]


def address(base: str, name: str) -> str:
    return f"{base}/files/{quote(name)}"


def run_id(job: Job) -> str:
    """Of the run whose files a job makes: the last part of its folder's name, as an export has another id."""
    return job.run.rpartition("-")[2]


def _standing(job: Job, folder: Path) -> Standing:
    if job.state == QUEUED and not job.attempt and not job.parent:
        return Standing()
    found = standing(folder)
    return found if job.state == RUNNING and job.owns_run else dataclasses.replace(found, it_per_s=None)


def _stage(job: Job, plan: Outline, now: Standing, step: int) -> str:
    if not job.owns_run:
        return "export"
    return now.stage or plan.stage_at(step)


def _progress(job: Job, step: int, total: int) -> float:
    if job.state == SUCCEEDED and job.stopped_at is None:
        return 1.0
    return round(min(step / total, 1.0), 4) if total and job.owns_run else 0.0

# SPDX-License-Identifier: Apache-2.0
"""A request becomes a run's folder and a row of the queue, both or neither.

The folder is made out of sight, the row is committed, then one rename puts the folder among the runs. A death before
the row leaves a folder that nobody sees and a later maker sweeps away; after it, whoever claims the job moves it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dreamlab import pipeline
from dreamlab.core.errors import DreamError, InputError
from dreamlab.core.text import short
from dreamlab.jobs import folders
from dreamlab.jobs.asking import BadRequest, FieldError
from dreamlab.jobs.batches import Member, members
from dreamlab.jobs.beginning import Asker, Find, branched_run, check_webhook, guidance_key, new_run, recipe_of
from dreamlab.jobs.parents import Parent, parent_of
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.requests import (
    MOST_SEED,
    DreamRequest,
    ExportRequest,
    Request,
    TextureRequest,
    kind_of,
    plain_request,
    request_of,
)
from dreamlab.jobs.states import LOCAL, Job, new_id
from dreamlab.run.crash import point
from dreamlab.run.folder import Run

LEFT_S = 3600.0  # a folder that nobody has finished making for so long is nobody's


def make(
    queue: Queue,
    request: Request,
    owner: str = LOCAL,
    key: str = "",
    *,
    find: Find | None = None,
    parent: Job | Run | None = None,
    trusted: bool = False,
) -> list[Job]:
    """The jobs of a request, waiting: one, or as many as its `count`; those of before if the key was used. Without
    `trusted` settings are of the closed set and files are uploads, that `find` finds."""
    asker = Asker(owner, trusted, find or (Path if trusted else _no_upload))
    return _submitted(queue, [Member(each, {}) for each in _counted(request)], asker, key, parent)


def again(
    queue: Queue, job: Job, key: str = "", *, find: Find | None = None, trusted: bool = False, parent: Job | None = None
) -> Job:
    """A new job of the same request, from its beginning, for one whose folder is beyond retrying; of what stands on
    another job that one is the `parent`."""
    request = request_of(job.kind, job.request | {"lane": job.lane, "priority": job.priority})
    asker = Asker(job.owner, trusted, find or (Path if trusted else _no_upload))
    return _submitted(queue, [Member(request, job.batch_values)], asker, key, parent, retried=job.id)[0]


def make_batch(
    queue: Queue, body: object, owner: str = LOCAL, key: str = "", *, find: Find | None = None, trusted: bool = False
) -> list[Job]:
    """All jobs of a batch, or none; see `batches`."""
    asker = Asker(owner, trusted, find or (Path if trusted else _no_upload))
    return _submitted(queue, members(body), asker, key, None, True)


def _no_upload(name: str) -> Path:
    raise InputError(f"{short(name)!r}: is no upload of yours")


def _counted(request: Request) -> list[Request]:
    """As many as asked for, with seeds that follow one another."""
    if not isinstance(request, DreamRequest | TextureRequest) or request.count == 1:
        return [request]
    first = request.seed or 0
    return [replace(request, count=1, seed=(first + i) % (MOST_SEED + 1)) for i in range(request.count)]


def _submitted(
    queue: Queue,
    wanted: Sequence[Member],
    asker: Asker,
    key: str,
    parent: Job | Run | None,
    batch: bool = False,
    retried: str = "",
) -> list[Job]:
    if (there := queue.by_key(asker.owner, key)) is not None:
        return _together(queue, there)
    queue.check_room(asker.owner, len(wanted))
    sweep(queue)
    source = None if parent is None else parent_of(queue.root, parent)
    name = new_id() if batch or len(wanted) > 1 else ""
    made: list[Job] = []
    try:
        for i, member in enumerate(wanted):
            job = _made(queue, member.request, asker, source)
            values = member.values or ({"seed": job.seed} if name else {})
            keyed = key if i == 0 or not key else f"{key}#{i}"
            made.append(replace(job, key=keyed, batch=name, batch_values=values, retried_from=retried))
        point("jobs.folders_made")
        kept = queue.submit_all(made)
    except BaseException:
        with suppress(DreamError):  # what cannot be asked just now is swept away later
            _forget(queue.root, [job for job in made if not queue.has_run(job.run)])
        raise
    point("jobs.rows_written")
    _forget(queue.root, [job for job, row in zip(made, kept, strict=True) if row.id != job.id])
    for job in kept:
        folders.settle(queue.root, job.run)
    return kept if kept[0].id == made[0].id else _together(queue, kept[0])


def _together(queue: Queue, job: Job) -> list[Job]:
    """A job of before with those of its batch, in the order they were made in."""
    if not job.batch:
        return [job]
    found, cursor = list[Job](), None
    while True:
        page = queue.page(owner=job.owner, batch=job.batch, limit=200, cursor=cursor)
        found += page.jobs
        if (cursor := page.next) is None:
            return found[::-1] or [job]


def _forget(root: Path, made: Sequence[Job]) -> None:
    for job in made:
        if job.owns_run:
            shutil.rmtree(folders.making(root) / job.run, ignore_errors=True)


def sweep(queue: Queue) -> None:
    """Away with what a maker that died has left; what it had come to submit is put in its place."""
    place = folders.making(queue.root)
    if not place.is_dir():
        return
    for folder in place.iterdir():
        with suppress(FileNotFoundError):  # it is another's, who has put it in its place by now
            if queue.has_run(folder.name):
                folders.settle(queue.root, folder.name)
            elif time.time() - folder.stat().st_mtime > LEFT_S:
                shutil.rmtree(folder, ignore_errors=True)


def _made(queue: Queue, request: Request, asker: Asker, parent: Parent | None) -> Job:
    """The job of one request, with its folder, if it gets one of its own, in the making."""
    if request.webhook:
        check_webhook(request.webhook)
    job = Job("", kind_of(request), asker.owner, lane=request.lane, priority=request.priority, webhook=request.webhook)
    job = replace(job, request=plain_request(request))
    if isinstance(request, DreamRequest | TextureRequest):
        return _of_run(replace(job, recipe=recipe_of(request)), new_run(folders.making(queue.root), request, asker))
    base = _needed(parent)
    job = replace(job, parent=base.id, recipe=base.recipe, wants=base.device)
    if isinstance(request, ExportRequest):
        return replace(job, id=new_id(), run=base.run, prompt=base.prompt, seed=base.seed)
    return _of_run(job, branched_run(folders.making(queue.root), request, asker, base))


def _of_run(job: Job, run: Run) -> Job:
    """The job with what its folder says."""
    recipe = pipeline.load_recipe(run)
    job = replace(job, id=str(run.spec()["id"]), run=run.path.name, prompt=recipe.prompt, seed=recipe.seed)
    return replace(job, guidance=guidance_key(recipe))


def _needed(parent: Parent | None) -> Parent:
    if parent is None:
        raise BadRequest([FieldError("parent", "is missing", "", "a job, or a run, that this one starts from")])
    return parent

# SPDX-License-Identifier: Apache-2.0
"""The queue: every change is one transaction, bumps one sequence number, and is on the disk when its call returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from dreamlab.core.errors import InputError
from dreamlab.jobs import folders, listing, store
from dreamlab.jobs.crew import Crew
from dreamlab.jobs.ordering import put_between
from dreamlab.jobs.rows import change_of
from dreamlab.jobs.states import (
    AGAIN,
    CANCELLED,
    KEEP,
    KINDS,
    LANES,
    QUEUED,
    RUNNING,
    STOP,
    Conflict,
    Job,
    JobChange,
    QueueFull,
)
from dreamlab.run.folder import now

MOST_WAITING, MOST_OF_AN_OWNER = 1000, 200


class Queue(Crew):
    """The jobs of one folder of runs, for as many processes and threads as like."""

    def submit(self, job: Job) -> Job:
        """The job, waiting; or the one that its owner submitted by this key before, as that is now."""
        return self.submit_all([job])[0]

    def submit_all(self, jobs: Sequence[Job]) -> list[Job]:
        """All of them or, where one cannot be taken, none."""
        with self.data.writing() as db:
            there = [store.by_key(db, job.owner, job.key) for job in jobs]
            self._check_room(db, [job for job, old in zip(jobs, there, strict=True) if old is None])
            return [store.insert(db, job) if old is None else old for job, old in zip(jobs, there, strict=True)]

    def by_key(self, owner: str, key: str) -> Job | None:
        """What was submitted by an idempotency key already."""
        with self.data.reading() as db:
            return store.by_key(db, owner, key)

    def check_room(self, owner: str, count: int = 1) -> None:
        """QueueFull if so many more jobs would not be taken now."""
        with self.data.reading() as db:
            self._check_room(db, [Job("", KINDS[0], owner)] * count)

    def _check_room(self, db: sqlite3.Connection, jobs: Sequence[Job]) -> None:
        waiting = store.waiting(db, None)
        if jobs and waiting + len(jobs) > MOST_WAITING:
            raise QueueFull(
                f"the queue is full: {waiting} jobs wait, at most {MOST_WAITING} do; ask again later", False
            )
        for owner in {job.owner for job in jobs}:
            own, more = store.waiting(db, owner), sum(job.owner == owner for job in jobs)
            if own + more > MOST_OF_AN_OWNER:
                limit = f"{own} of your jobs wait already and {more} more make too many"
                raise QueueFull(f"{limit}; at most {MOST_OF_AN_OWNER} do: wait for some, or cancel some", True)

    def waiting(self, owner: str | None = None) -> int:
        with self.data.reading() as db:
            return store.waiting(db, owner)

    # Questions

    def has_run(self, run: str) -> bool:
        """Whether a folder belongs to some job."""
        with self.data.reading() as db:
            return db.execute("SELECT 1 FROM jobs WHERE run = ? LIMIT 1", (run,)).fetchone() is not None

    def page(
        self,
        *,
        owner: str | None = None,
        states: Sequence[str] = (),
        text: str = "",
        batch: str | None = None,
        favourite: bool | None = None,
        deleted: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> listing.Page:
        """Jobs, the newest first; `owner` None: of everybody."""
        wanted = listing.Filter(owner, states, text, batch, favourite, deleted)
        with self.data.snapshot() as db:
            return listing.page(db, wanted, limit, cursor)

    def counts(self, owner: str | None = None) -> dict[str, int]:
        with self.data.reading() as db:
            return listing.counts(db, owner)

    def positions(self) -> dict[str, int]:
        """Of every job that waits; 1: the next."""
        with self.data.snapshot() as db:
            return listing.positions(db)

    def position(self, id: str) -> int | None:
        return self.positions().get(id)

    def changes(self, since: int, owner: str | None = None, limit: int = 500) -> list[JobChange]:
        """What happened after the sequence number `since`, oldest first; what concerns all (a pause) has no job."""
        where, values = ("", []) if owner is None else ("AND owner IN (?, '')", [owner])
        with self.data.reading() as db:
            query = f"SELECT * FROM changes WHERE seq > ? {where} ORDER BY seq LIMIT ?"
            return [change_of(row) for row in db.execute(query, [since, *values, limit])]

    def history(self, id: str) -> list[JobChange]:
        """Everything that happened to a job, as far as it is kept."""
        with self.data.reading() as db:
            query = "SELECT * FROM changes WHERE job = ? ORDER BY seq"
            return [change_of(row) for row in db.execute(query, (id,))]

    def newest(self) -> int:
        """The sequence number of the last change."""
        with self.data.reading() as db:
            return store.newest(db)

    # What people do with a job

    def cancel(self, id: str, keep: bool = False) -> Job:
        """One that waits is cancelled at once, one that runs is asked to stop, one that ended stays as it is. `keep`:
        what it has made is to be exported; one that waits and has made something is run once more for that."""
        with self.data.writing() as db:
            job, wish = store.found(db, id), KEEP if keep else STOP
            if job.ended or (job.state == RUNNING and job.cancel == wish):
                return job
            if job.state == RUNNING or (keep and job.attempt):
                return store.save(db, replace(job, cancel=wish), "cancel")
            return store.save(db, replace(job, state=CANCELLED, cancel="", finished=now()), "cancel")

    def retry(self, id: str) -> Job:
        """What failed, was cancelled or interrupted waits again, in the same folder: it goes on from its checkpoint."""
        with self.data.writing() as db:
            job = store.found(db, id)
            if job.state not in AGAIN or job.deleted:
                what = "lies in the trash; restore it first" if job.deleted else f"is {job.state}: nothing to retry"
                raise Conflict(f"job {id}: {what}")
            self._check_room(db, [job])
            place = store.end_of_line(db, job.lane, job.priority)
            fresh = replace(job, state=QUEUED, tries=0, cancel="", exit_code=None, error=None, finished="", passed=0)
            return store.save(db, replace(fresh, queued=now(), place=place), "retried")

    def move(
        self,
        id: str,
        *,
        before: str | None = None,
        after: str | None = None,
        lane: str | None = None,
        priority: int | None = None,
    ) -> Job:
        """Another place in the line: beside another job, whose lane and priority it takes, or at the end of those."""
        if before is not None and after is not None:
            raise InputError("move: say before or after, not both")
        if lane is not None and lane not in LANES:
            raise InputError(f"lane: {lane!r}; {' or '.join(LANES)}")
        other = before if before is not None else after
        with self.data.writing() as db:
            job = store.waits(db, id)
            if other is None:
                lane, priority = lane or job.lane, job.priority if priority is None else priority
                place = store.end_of_line(db, lane, priority)
                return store.save(db, replace(job, lane=lane, priority=priority, place=place, passed=0), "moved")
            beside = store.waits(db, other)
            if (lane or beside.lane, beside.priority if priority is None else priority) != (
                beside.lane,
                beside.priority,
            ):
                raise InputError("move: a job beside another has that one's lane and priority; leave them out")
            if beside.id == job.id:
                return job
            place = put_between(db, beside, job.id, before is not None)
            moved = replace(job, lane=beside.lane, priority=beside.priority, place=place, passed=0)
            return store.save(db, moved, "moved")

    def favourite(self, id: str, on: bool) -> Job:
        with self.data.writing() as db:
            job = store.found(db, id)
            return job if job.favourite == on else store.save(db, replace(job, favourite=on), "favourite")

    def delete(self, id: str) -> Job:
        """Into the trash, with its folder; `restore` brings it back. One that waits is cancelled."""
        with self.data.writing() as db:
            job = store.found(db, id)
            if job.state == RUNNING:
                raise Conflict(f"job {id}: is running; cancel it first")
            if job.deleted:
                return job
            if job.owns_run and store.in_use(db, job):
                raise Conflict(f"job {id}: its files are being written again by another job; cancel that one first")
            if job.state == QUEUED:
                job = replace(job, state=CANCELLED, finished=now())
            job = store.save(db, replace(job, deleted=now()), "deleted")
            if job.owns_run:
                folders.to_trash(self.root, job.run)
            return job

    def restore(self, id: str) -> Job:
        """Out of the trash; one that waited then is to be retried."""
        with self.data.writing() as db:
            job = store.found(db, id)
            if not job.deleted:
                return job
            if job.owns_run:
                folders.from_trash(self.root, job.run)
            return store.save(db, replace(job, deleted=""), "restored")

    def purge(self, id: str) -> None:
        """Out of the trash, for good: its folder, its row and those of exports of it."""
        job = self.job(id)
        if not job.deleted:
            raise Conflict(f"job {id}: is not in the trash; delete it first")
        if job.owns_run:
            folders.empty(self.root, job.run)
        with self.data.writing() as db:
            if job.deleted == store.found(db, id).deleted:
                store.remove(db, job)

    def forget(self, before: str) -> None:
        """Drop what is remembered of changes of then and earlier; the numbers go on."""
        with self.data.writing() as db:
            db.execute("DELETE FROM changes WHERE time <= ?", (before,))

    # The whole queue

    def pause(self) -> None:
        """No worker takes a job from now on; those that run go on."""
        self._set_paused(True)

    def resume(self) -> None:
        self._set_paused(False)

    @property
    def paused(self) -> bool:
        with self.data.reading() as db:
            return store.paused(db)

    def _set_paused(self, on: bool) -> None:
        with self.data.writing() as db:
            if store.paused(db) != on:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('paused', ?)", (str(int(on)),))
                store.changed(db, "", "", "", 0, "paused" if on else "resumed")

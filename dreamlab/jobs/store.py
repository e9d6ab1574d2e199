# SPDX-License-Identifier: Apache-2.0
"""One statement each: what a transaction of the queue is made of."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from dreamlab.jobs.rows import COLUMNS, job_of, row_of
from dreamlab.jobs.states import QUEUED, Conflict, Job, JobUnknown
from dreamlab.run.folder import now

_INSERT = f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})"
_LAST = "SELECT max(place) AS place FROM jobs WHERE state = 'queued' AND deleted = '' AND lane = ? AND priority = ?"


def find(db: sqlite3.Connection, id: str) -> Job | None:
    if not id.isascii():  # of a stranger: what is no UTF-8 would be an error of the database
        return None
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
    return None if row is None else job_of(row)


def found(db: sqlite3.Connection, id: str) -> Job:
    there = find(db, id)
    if there is None:
        raise JobUnknown(f"job {id[:40]!r}: there is none; dreamlab jobs ls lists them")
    return there


def waits(db: sqlite3.Connection, id: str) -> Job:
    job = found(db, id)
    if job.state != QUEUED or job.deleted:
        raise Conflict(f"job {id}: is {job.state}; only one that waits has a place in the line")
    return job


def by_key(db: sqlite3.Connection, owner: str, key: str) -> Job | None:
    row = db.execute("SELECT * FROM jobs WHERE owner = ? AND key = ?", (owner, key)).fetchone() if key else None
    return None if row is None else job_of(row)


def insert(db: sqlite3.Connection, job: Job) -> Job:
    old = by_key(db, job.owner, job.key)  # twice in one list
    if old is not None:
        return old
    time = now()
    job = replace(job, state=QUEUED, created=time, queued=time, place=end_of_line(db, job.lane, job.priority))
    job = replace(job, seq=changed(db, job.id, job.owner, job.state, job.attempt, "submitted"))
    db.execute(_INSERT, row_of(job))
    return job


def save(db: sqlite3.Connection, job: Job, what: str) -> Job:
    """Write a changed job, and that it changed."""
    job = replace(job, seq=changed(db, job.id, job.owner, job.state, job.attempt, what))
    row = row_of(job)
    db.execute(f"UPDATE jobs SET {', '.join(f'{name} = :{name}' for name in row)} WHERE id = :id", row)
    return job


def in_use(db: sqlite3.Connection, job: Job) -> bool:
    """Whether another job waits for a run's files, or writes them."""
    query = "SELECT 1 FROM jobs WHERE run = ? AND id != ? AND deleted = '' AND state IN ('queued', 'running') LIMIT 1"
    return job.run != "" and db.execute(query, (job.run, job.id)).fetchone() is not None


def remove(db: sqlite3.Connection, job: Job) -> None:
    """A job's row, with those of exports of its run; that it is gone is one change more."""
    rows = [job]
    if job.owns_run:
        exports = "SELECT * FROM jobs WHERE run = ? AND kind = 'export'"
        rows += [job_of(row) for row in db.execute(exports, (job.run,))]
    for each in rows:
        db.execute("DELETE FROM jobs WHERE id = ?", (each.id,))
        db.execute("DELETE FROM changes WHERE job = ?", (each.id,))
        changed(db, each.id, each.owner, each.state, each.attempt, "purged")


def changed(db: sqlite3.Connection, job: str, owner: str, state: str, attempt: int, what: str) -> int:
    columns = "INSERT INTO changes (job, owner, state, attempt, what, time) VALUES (?, ?, ?, ?, ?, ?)"
    made = db.execute(columns, (job, owner, state, attempt, what, now())).lastrowid
    assert made is not None
    return made


def newest(db: sqlite3.Connection) -> int:
    """The sequence number of the last change, also of one that is forgotten."""
    there = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
    return 0 if there is None else there["seq"]


def end_of_line(db: sqlite3.Connection, lane: str, priority: int) -> float:
    """Behind all that wait there and, as the sequence grows, all that waited there before: one that comes back to the
    line goes before them."""
    last = db.execute(_LAST, (lane, priority)).fetchone()["place"]
    return max(float(newest(db) + 1), 0.0 if last is None else last + 1)


def waiting(db: sqlite3.Connection, owner: str | None) -> int:
    where, values = ("", []) if owner is None else ("AND owner = ?", [owner])
    query = f"SELECT count(*) AS n FROM jobs WHERE deleted = '' AND state = 'queued' {where}"
    return db.execute(query, values).fetchone()["n"]


def paused(db: sqlite3.Connection) -> bool:
    there = db.execute("SELECT value FROM meta WHERE key = 'paused'").fetchone()
    return there is not None and there["value"] == "1"


def leaving(db: sqlite3.Connection, worker: int) -> bool:
    there = db.execute("SELECT state FROM workers WHERE id = ?", (worker,)).fetchone()
    return there is not None and there["state"] == "leaving"

# SPDX-License-Identifier: Apache-2.0
"""The side of the queue that workers and their supervisor see: claims, heartbeats, ends of attempts."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from dreamlab.jobs import folders, store
from dreamlab.jobs.database import Database
from dreamlab.jobs.picking import pick
from dreamlab.jobs.rows import job_of, worker_of
from dreamlab.jobs.states import QUEUED, RUNNING, SUCCEEDED, Error, Job, Orders, Worker, error_of, judge
from dreamlab.run.folder import now


class Crew:
    """A queue that is open; each call is one transaction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = Database(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.data.close()

    def job(self, id: str) -> Job:
        with self.data.reading() as db:
            return store.found(db, id)

    def enlist(self, worker: int, device: str, pid: int, started: int, boot: str) -> None:
        """A worker begins, in place of the former one of its number."""
        with self.data.writing() as db:
            row = (worker, pid, started, boot, device, "", 0, "[]", time.time(), "idle")
            db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def dismiss(self, worker: int) -> None:
        with self.data.writing() as db:
            db.execute("DELETE FROM workers WHERE id = ?", (worker,))

    def leave(self, worker: int) -> None:
        """Ask a worker to end after the job it has."""
        with self.data.writing() as db:
            db.execute("UPDATE workers SET state = 'leaving' WHERE id = ?", (worker,))

    def workers(self) -> list[Worker]:
        with self.data.reading() as db:
            return [worker_of(row) for row in db.execute("SELECT * FROM workers ORDER BY id")]

    def running(self) -> list[Job]:
        with self.data.reading() as db:
            query = "SELECT * FROM jobs WHERE state = 'running' AND deleted = '' ORDER BY started"
            return [job_of(row) for row in db.execute(query)]

    def claim(self, worker: int, device: str, holds: Collection[str] = ()) -> Job | None:
        """The job that this worker is to run now, as an attempt of its own; None: there is none for it."""
        with self.data.writing() as db:
            if store.paused(db) or store.leaving(db, worker):
                return None
            id = pick(db, device, holds)
            if id is None:
                return None
            job = store.found(db, id)
            folders.settle(self.root, job.run)
            job = replace(job, state=RUNNING, attempt=job.attempt + 1, worker=worker, device=device, passed=0)
            job = store.save(db, replace(job, wants=device.partition(":")[0], started=now(), finished=""), "claimed")
            db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (job.owner, job.seq))
            seat = (job.id, job.attempt, worker)
            db.execute("UPDATE workers SET job = ?, attempt = ?, state = 'busy' WHERE id = ?", seat)
            return job

    def beat(self, worker: int, holds: Collection[str] | None = None) -> Orders:
        """Says that a worker is alive and, where it changed, what it holds; returns what it must do."""
        with self.data.writing() as db:
            row = db.execute("SELECT job, attempt, state, holds FROM workers WHERE id = ?", (worker,)).fetchone()
            if row is None:
                return Orders(fenced=True, leave=True)
            held = row["holds"] if holds is None else json.dumps(list(holds))
            db.execute("UPDATE workers SET heartbeat = ?, holds = ? WHERE id = ?", (time.time(), held, worker))
            leave = row["state"] == "leaving"
            if not row["job"]:
                return Orders(leave=leave)
            job = store.find(db, row["job"])
            if job is None or job.state != RUNNING or job.attempt != row["attempt"]:
                return Orders(fenced=True, leave=leave)
            return Orders(job.cancel, leave=leave)

    def finish(
        self, id: str, attempt: int, exit_code: int, error: Error | None = None, stopped_at: int | None = None
    ) -> bool:
        """Records how an attempt ended. False: it is not this attempt's job any more, and nothing was changed."""
        return self._end(id, attempt, exit_code, error, stopped_at, "finished")

    def supersede(
        self, id: str, attempt: int, exit_code: int, error: Error | None = None, further: bool = False
    ) -> Job:
        """The same for a worker that is dead or does not move; what it says afterwards is not heard. `further`: it had
        come further than the attempts before it."""
        self._end(id, attempt, exit_code, error, None, "superseded", further)
        return self.job(id)

    def _end(
        self,
        id: str,
        attempt: int,
        exit_code: int,
        error: Error | None,
        stopped_at: int | None,
        what: str,
        further: bool = False,
    ) -> bool:
        with self.data.writing() as db:
            job = store.found(db, id)
            if job.state != RUNNING or job.attempt != attempt:
                return False
            seat = "UPDATE workers SET job = '', attempt = 0, state = CASE state WHEN 'busy' THEN 'idle' ELSE state END"
            db.execute(f"{seat} WHERE job = ? AND attempt = ?", (id, attempt))
            judged = judge(exit_code, job, what == "superseded", further)
            said = None if judged.state == SUCCEEDED else error or error_of(exit_code)
            ended = judged.state != QUEUED
            job = replace(job, state=judged.state, tries=judged.tries, exit_code=exit_code, error=said, worker=0)
            job = replace(job, stopped_at=stopped_at, finished=now() if ended else "")
            store.save(db, replace(job, cancel="" if ended else job.cancel), what)
            return True

# SPDX-License-Identifier: Apache-2.0
"""A folder of runs with its queue, and real processes that work it: what tests of workers share."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dreamlab import pipeline
from dreamlab.core.files import Json
from dreamlab.jobs.leases import Lease
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job
from dreamlab.jobs.supervisor import Supervisor, lease_of
from dreamlab.jobs.workplace import Workplace, held
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run

PROMPT = "a red mushroom with a white stem"
LONG_S = 240.0  # on a machine that does six other things


class Office:
    """One folder of runs. `until` lets the supervisor of this process do its rounds while the test waits."""

    def __init__(self, root: Path, recipe: Path) -> None:
        self.root, self.recipe = root, recipe
        self.queue = Queue(root)
        self.supervisor: Supervisor | None = None
        self.lock: int | None = None

    def add(self, *settings: str, **columns: object) -> Job:
        run = pipeline.create(PROMPT, self.recipe, self.root, settings, None, [])
        return self.queue.submit(Job(id=run.spec()["id"], kind="dream", run=run.path.name, **columns))  # type: ignore[arg-type]

    def run(self, job: Job) -> Run:
        return Run(self.root / job.run)

    def open(self, *devices: str, options: Sequence[str] = ()) -> Supervisor:
        """A supervisor in this process; workers see that there is one by its lock."""
        if self.lock is None:
            self.lock = held(Workplace(self.root).supervisor, patience=5)
            assert self.lock is not None, "another supervises"
        self.supervisor = Supervisor(self.root, devices or ("cpu",), options)
        return self.supervisor

    def until(self, what: Callable[[], bool], within: float = LONG_S) -> float:
        began = time.monotonic()
        while not what():
            if self.supervisor is not None:
                self.supervisor.tick()
            assert time.monotonic() - began < within, f"not within {within} s:\n{self.story()}"
            time.sleep(0.05)
        return time.monotonic() - began

    def until_state(self, job: Job, *states: str, within: float = LONG_S) -> Job:
        self.until(lambda: self.queue.job(job.id).state in states, within)
        return self.queue.job(job.id)

    def until_step(self, job: Job, step: int) -> None:
        """In the midst of its training, behind a checkpoint."""
        self.until(lambda: self.made(job) >= step)

    def hold(self, job: Job, step: int) -> Lease:
        """The same, and its worker stands still (SIGSTOP): what a test does next does not race with it."""
        self.until_step(job, step)
        row = next(row for row in self.queue.workers() if row.job == job.id)
        os.kill(row.pid, signal.SIGSTOP)
        return lease_of(row)

    def made(self, job: Job) -> int:
        there = committed(self.run(job).ckpt)
        return int(there[-1].name.split("_")[-1]) if there else 0

    def worker(self, slot: int = 1) -> Lease:
        """The process that the queue knows under this number."""
        return next(lease_of(row) for row in self.queue.workers() if row.id == slot)

    def idle(self) -> bool:
        return any(row.state == "idle" for row in self.queue.workers())

    def whats(self, job: Job) -> list[str]:
        return [change.what for change in self.queue.history(job.id)]

    def events(self, job: Job, kind: str) -> list[Json]:
        return [event for event in self.run(job).events() if event["kind"] == kind]

    def story(self) -> str:
        """For a failing test."""
        jobs = [f"{job.id} {job.state} {job.attempt} {job.error}" for job in self.queue.page().jobs]
        logs = [path.read_text(errors="replace")[-3000:] for path in sorted((self.root / ".jobs").glob("*.log"))]
        return "\n".join([*jobs, *map(str, self.queue.workers()), *logs])

    def close(self) -> None:
        """Nothing of it may outlive the test."""
        leases = [lease_of(row) for row in self.queue.workers()]
        if self.supervisor is not None:
            leases += [seat.lease for seat in self.supervisor.seats if seat.lease is not None]
        for lease in leases:
            lease.kill_group()
        if self.supervisor is not None:
            for seat in self.supervisor.seats:
                if seat.child is not None:
                    seat.child.wait(10)
        if self.lock is not None:
            os.close(self.lock)
        self.queue.close()


def kill(lease: Lease) -> None:
    """The process alone, as the out-of-memory killer does."""
    os.kill(lease.pid, signal.SIGKILL)


def report(run: Run) -> Json:
    found = json.loads((run.export / "report.json").read_text())
    assert isinstance(found, dict)
    return found

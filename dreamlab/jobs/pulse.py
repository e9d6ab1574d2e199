# SPDX-License-Identifier: Apache-2.0
"""A worker's second thread: it says that the process lives, and hears what it must do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.errors import DreamError
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import RUNNING, Job
from dreamlab.jobs.wishes import Wish
from dreamlab.jobs.workplace import Log, Workplace, holder, touch

EVERY_S = 1.0
IDLE = 5  # beats of which one is told to the queue where there is no job
ORPHANED_S = 30.0  # without a supervisor, after which a worker takes no further job


@dataclass(frozen=True, eq=False)
class Watched:
    """The job at hand, as it was claimed, and whom to tell what is asked of it."""

    job: Job
    wish: Wish


class Pulse(threading.Thread):
    """One for the life of a worker."""

    def __init__(self, root: Path, slot: int, log: Log | None = None) -> None:
        super().__init__(name="pulse", daemon=True)
        self.root, self.slot, self.log = root, slot, log
        self.place = Workplace(root)
        self.leave = threading.Event()
        self.holds: tuple[str, ...] = ()
        self._watched: Watched | None = None
        self._alone = 0.0  # seconds since the supervisor was seen
        self._lock = threading.Lock()

    @contextmanager
    def during(self, job: Job, wish: Wish) -> Iterator[None]:
        """While a job is worked on, its wish hears when it is to be stopped, and how. What is said of the job once
        the block is over is this process's own doing."""
        with self._lock:
            self._watched = Watched(job, wish)
        try:
            yield
        finally:
            with self._lock:
                self._watched = None

    def run(self) -> None:
        beats = 0
        with Queue(self.root) as queue:  # a connection of this thread's own
            while True:
                self.beat(queue, beats)
                beats += 1
                threading.Event().wait(EVERY_S)

    def beat(self, queue: Queue, beats: int = 0) -> None:
        """Also where the disk is full: the queue then does not hear it, the sign of life needs no room."""
        touch(self.place.pulse(self.slot))
        watched = self._watched
        if beats % IDLE == 0:
            self._look_around()
        if watched is None and beats % IDLE:
            return
        try:
            if queue.beat(self.slot, self.holds).leave:
                self.leave.set()
            now = None if watched is None else queue.job(watched.job.id)
        except DreamError:
            return  # tried again in a second; the job goes on
        if watched is not None and now is not None:
            self._obey(watched, now)

    def _obey(self, watched: Watched, now: Job) -> None:
        with self._lock:
            if self._watched is not watched:
                return
            if now.state != RUNNING or now.attempt != watched.job.attempt:
                # Another attempt begins as soon as this process lets go of the folder: nothing more is said or saved,
                # and no child of it goes on either.
                os.killpg(0, signal.SIGKILL)
            if now.cancel:
                watched.wish.hear(now.cancel)

    def _look_around(self) -> None:
        if self.log is not None:
            self.log.turn()
        self._alone = 0.0 if holder(self.place.supervisor) is not None else self._alone + IDLE * EVERY_S
        if self._alone >= ORPHANED_S:
            self.leave.set()

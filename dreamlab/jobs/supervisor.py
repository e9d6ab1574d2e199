# SPDX-License-Identifier: Apache-2.0
"""Keeps one worker per device at work: starts it, adopts it after a death of its own, ends the attempts of dead ones,
and sees to it that a cancelled job is over in ten seconds.

It holds nothing that is not in the queue, the folders, or the kernel, so that it may be killed at any moment: workers
go on, and the next supervisor finds them by number, start and boot. It loads neither torch nor the engine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from dreamlab.core.errors import DreamError
from dreamlab.jobs.leases import Lease
from dreamlab.jobs.notify import Notifier
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.standing import tail_events
from dreamlab.jobs.states import ASKED_TO_STOP, STOP, Error, Job, Worker
from dreamlab.jobs.tidying import Tidier
from dreamlab.jobs.workplace import Workplace, changed_at, held, holder

TICK_S = 0.25
LOOK_S = 1.0  # between looks at who runs what
TERM_S, KILL_S = 5.0, 7.0  # after a cancel was first seen: the worker has been asked by then
STALE_S = 30.0  # without a sign of life
STARTING_S = 180.0  # until the first one: libraries are loaded from a cold disk
GRACE_S = 30.0  # for workers to checkpoint when the supervisor is told to stop
SHORT_S = 10.0  # a worker that lived no longer, and had no job, is not started again at once
MOST_WAIT_S = 60.0
KILLED, SICK = -signal.SIGKILL, 70


@dataclass
class Seat:
    """One device, and the worker that serves it."""

    slot: int
    device: str
    child: subprocess.Popen[bytes] | None = None  # none: adopted, or nobody
    lease: Lease | None = None
    began: float = 0.0  # monotonic, as all times here
    failures: int = 0  # in a row
    start_at: float = 0.0
    sign: tuple[int, float] = (0, 0.0)  # the newest sign of life, and when it was seen to be new
    reason: Error | None = None  # why we killed it
    asked: bool = False  # to stop, by SIGTERM
    known: set[str] = field(default_factory=set)  # jobs it was seen to have

    def exit_code(self) -> int | None:
        """None: it lives. Of one that is not our child nobody hears the code."""
        if self.child is not None:
            return self.child.poll()
        return None if self.lease is not None and self.lease.alive() else KILLED


class Supervisor:
    """One per folder of runs."""

    def __init__(self, root: Path, devices: Sequence[str], options: Sequence[str] = ()) -> None:
        self.root, self.place, self.options = root, Workplace(root), list(options)
        self.queue = Queue(root)
        self.seats = [Seat(slot, device) for slot, device in enumerate(devices, 1)]
        self.cancelled: dict[tuple[str, int], float] = {}  # (job, attempt): since when
        self.stopping = threading.Event()
        self.exit_code = 0
        self._ticked = time.monotonic()
        self._looked = 0.0

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 130 if number == signal.SIGINT else 0
        self.stopping.set()

    def run(self) -> int:
        """Until a signal; the workers are stopped then, with a checkpoint."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.ask_to_stop)
        while not self.stopping.is_set():
            self.tick()
            self.stopping.wait(TICK_S)
        self.stop()
        return self.exit_code

    def tick(self) -> None:
        """What is due now. A queue that cannot be written is asked again in a moment."""
        now = time.monotonic()
        if now - self._ticked > 20 * TICK_S:  # the machine slept, or this process: nobody else is to blame
            for seat in self.seats:
                seat.sign = (seat.sign[0], now)
        self._ticked = now
        try:
            for seat in self.seats:
                self.attend(seat, now)
            if now - self._looked >= LOOK_S:
                self._looked = now
                self.look(now)
        except (DreamError, OSError) as error:
            say(str(error))

    # ---- one seat ----------------------------------------------------------------------------------------------------
    def attend(self, seat: Seat, now: float) -> None:
        """Adopt, bury, start."""
        if seat.lease is None:
            if not self.adopt(seat, now) and now >= seat.start_at:
                self.start(seat, now)
            return
        code = seat.exit_code()
        if code is not None:
            self.bury(seat, code, now)

    def adopt(self, seat: Seat, now: float) -> bool:
        """The living worker of a former supervisor, if there is one; what a dead one had is ended."""
        row = next((row for row in self.queue.workers() if row.id == seat.slot), None)
        if row is None:
            return False
        seat.lease, seat.child, seat.began, seat.sign = lease_of(row), None, now, (0, now)
        if seat.lease.alive() and row.device == seat.device:
            say(f"worker {seat.slot} on {seat.device}: goes on as process {row.pid}")
            return True
        if seat.lease.alive():  # of another device than this seat has now
            self.queue.leave(seat.slot)
            return True
        self.bury(seat, KILLED, now)
        return False

    def start(self, seat: Seat, now: float) -> None:
        """A new process in a session of its own: it outlives this one, and all its children can be ended with it."""
        command = [sys.executable, "-m", "dreamlab.jobs.worker", str(self.root), seat.device, str(seat.slot)]
        spins = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}  # see cli.main
        with self.place.log(seat.slot).open("ab") as log:
            seat.child = subprocess.Popen(
                [*command, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=spins | os.environ,
            )
        seat.lease, seat.began, seat.sign = Lease.of(seat.child.pid), now, (0, now)
        seat.reason, seat.asked = None, False
        say(f"worker {seat.slot} on {seat.device}: started as process {seat.child.pid}")

    def bury(self, seat: Seat, code: int, now: float) -> None:
        """A worker is dead: its children follow, the attempt it had is ended, and another is due, sooner or later."""
        assert seat.lease is not None
        seat.lease.kill_group()
        row = next((row for row in self.queue.workers() if lease_of(row) == seat.lease), None)
        had = row.job if row is not None else ""
        if row is not None:
            if row.job:
                self.end(row.job, row.attempt, code or KILLED, seat.reason)
            self.queue.dismiss(row.id)
        lived = now - seat.began
        say(f"worker {seat.slot} on {seat.device}: ended by {code} after {lived:.0f} s{' of ' + had if had else ''}")
        innocent = had or (code == 0 and lived > SHORT_S)
        seat.failures = 0 if innocent and code != SICK else seat.failures + 1
        # The first death costs nothing: whoever waits is served at once.
        seat.start_at = now + (min(2.0 ** (seat.failures - 1), MOST_WAIT_S) if seat.failures > 1 else 0.0)
        seat.lease = seat.child = None

    def end(self, job: str, attempt: int, code: int, reason: Error | None) -> None:
        had = self.queue.job(job)
        further = came_further(self.root / had.run, had.started)
        ended = self.queue.supersede(job, attempt, code, reason, further)
        say(f"job {job}, attempt {attempt}: its worker ended by {code}; it is {ended.state} now")

    # ---- all of them -------------------------------------------------------------------------------------------------
    def look(self, now: float) -> None:
        """Signs of life, cancelled jobs, and jobs that nobody has."""
        rows = self.queue.workers()
        for seat in self.seats:
            if seat.lease is not None:
                self.check_life(seat, next((row for row in rows if lease_of(row) == seat.lease), None), now)
        self.dismiss_strangers(rows)
        running = self.queue.running()
        self.check_cancelled(running, rows, now)
        manned = {(row.job, row.attempt) for row in self.queue.workers()}
        for job in running:
            current = self.queue.job(job.id)
            if (job.id, job.attempt) not in manned and (current.state, current.attempt) == (job.state, job.attempt):
                self.end(job.id, job.attempt, KILLED, None)

    def check_life(self, seat: Seat, row: Worker | None, now: float) -> None:
        """By its touch of a file, which needs no room on a disk, or by the queue."""
        assert seat.lease is not None
        sign = max(changed_at(self.place.pulse(seat.slot)), 0 if row is None else int(row.heartbeat * 1e9))
        if sign != seat.sign[0]:
            seat.sign = (sign, now)
        patience = STALE_S if row is not None else STARTING_S
        if now - seat.sign[1] > patience:
            said = f"its worker gave no sign of life for {patience:.0f} s"
            seat.reason = Error("frozen", said, "retry: it goes on from its checkpoint")
            say(f"worker {seat.slot}: no sign of life for {patience:.0f} s; killed")
            seat.lease.kill_group()

    def check_cancelled(self, running: Sequence[Job], rows: Sequence[Worker], now: float) -> None:
        """The worker was told by its heartbeat; whoever does not heed it is told by signals."""
        asked = {(job.id, job.attempt): now for job in running if job.cancel == STOP}
        self.cancelled = {key: self.cancelled.get(key, since) for key, since in asked.items()}
        for (job, attempt), since in self.cancelled.items():
            row = next((row for row in rows if (row.job, row.attempt) == (job, attempt)), None)
            if row is None:
                continue
            if now - since >= KILL_S:
                say(f"job {job}: cancelled, and its worker does not heed it; killed")
                lease_of(row).kill_group()
            elif now - since >= TERM_S:
                lease_of(row).ask()

    def dismiss_strangers(self, rows: Sequence[Worker]) -> None:
        """Workers of seats that are no more: they end after what they do, and the dead are buried."""
        slots = {seat.slot for seat in self.seats}
        for row in rows:
            if row.id in slots:
                continue
            if lease_of(row).alive():
                if row.state != "leaving":
                    self.queue.leave(row.id)
                continue
            self.bury(Seat(row.id, row.device, lease=lease_of(row)), KILLED, time.monotonic())

    def stop(self) -> None:
        """All workers checkpoint and leave; who takes longer than the grace is killed, and resumes from the last."""
        say("stopping: jobs are saved, and go on when this runs again")
        until = time.monotonic() + GRACE_S
        for seat in self.seats:
            if seat.lease is not None:
                seat.lease.ask()
        while any(seat.lease is not None for seat in self.seats):
            now = time.monotonic()
            for seat in self.seats:
                if seat.lease is None:
                    continue
                if now > until:
                    seat.lease.kill_group()
                if seat.exit_code() is not None:
                    self._bury_at_last(seat, now)
            time.sleep(TICK_S / 5)

    def _bury_at_last(self, seat: Seat, now: float) -> None:
        """It was asked to stop: that costs the job it may still have no try, however slow the machine was."""
        try:
            self.bury(seat, ASKED_TO_STOP, now)
        except (DreamError, OSError) as error:
            say(str(error))  # the next supervisor finds the row, and ends what it names
            seat.lease = None


def came_further(run: Path, since: str) -> bool:
    """Whether the attempt that began then has left a newer checkpoint than those before it. A host that is taken away
    now and then ends no job; one that is killed wherever it begins does not go on for ever."""
    kept = [event for event in tail_events(run) if event.get("kind") == "checkpoint"]
    made = [(event.get("time", ""), event.get("path", "")) for event in kept]
    before = max((path for time, path in made if time < since), default="")
    return any(path > before for time, path in made if time >= since)


def lease_of(row: Worker) -> Lease:
    return Lease(row.pid, row.started, row.boot)


def say(line: str) -> None:
    with contextlib.suppress(OSError):  # its terminal may be gone, its log's disk full
        print(line, file=sys.stderr, flush=True)


def running(root: Path) -> int | None:
    """The process that supervises a folder of runs; None: nobody does."""
    return holder(Workplace(root).supervisor)


def supervise(root: Path, devices: Sequence[str], options: Sequence[str] = ()) -> int:
    """In this process, until a signal; 0 at once where another one does it already."""
    place = Workplace(root)
    with Queue(root):
        lock = held(place.supervisor, patience=1.0)  # workers look at it, for an instant
    if lock is None:
        say(f"{root}: process {holder(place.supervisor) or '?'} supervises it already")
        return 0
    try:
        Notifier(root, say).start()
        Tidier(root, say).start()
        return Supervisor(root, devices, options).run()
    finally:
        os.close(lock)

# SPDX-License-Identifier: Apache-2.0
"""`python -m dreamlab.jobs.worker ROOT DEVICE SLOT`: takes jobs of the queue, one after the other, and runs their
folders in this process, with the guidance that it holds already. Its supervisor starts it, in a group of its own."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType

from dreamlab.core.allocator import keep_memory
from dreamlab.core.errors import DreamError, OutOfMemory
from dreamlab.core.threads import watch
from dreamlab.jobs.leases import Lease, ram_bytes, resident_bytes
from dreamlab.jobs.pulse import Pulse
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.resident import Resident, room_on
from dreamlab.jobs.states import Job, error_of
from dreamlab.jobs.wishes import Wish
from dreamlab.jobs.work import perform
from dreamlab.jobs.workplace import Log, Workplace, held
from dreamlab.run.outcome import is_out_of_memory

POLL_S = 0.2
AGAIN_S = 2.0  # between tries to record what became of a job, where the disk is full
WATCH_S = 5.0  # how long ago other programs are looked at, to choose a new run's threads
SICK = 70  # the exit code of a worker that cannot be trusted with another job
DEFECT = 1


class JobLoop:
    """One process of one device."""

    def __init__(self, root: Path, device: str, slot: int, most_resident: int, log: Log | None = None) -> None:
        self.root, self.device, self.slot, self.most_resident = root, device, slot, most_resident
        self.queue = Queue(root)
        self.shelf = Resident(room_on(device, most_resident))
        self.pulse = Pulse(root, slot, log)
        self.sick = False

    def ask_to_leave(self, number: int, frame: FrameType | None) -> None:
        self.pulse.leave.set()

    def work(self) -> int:
        """Until it is to leave; its exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.ask_to_leave)
        mine = Lease.mine()
        self.queue.enlist(self.slot, self.device, mine.pid, mine.started, mine.boot)
        self.pulse.beat(self.queue)  # also imports whatever it needs: a fork finds no import half done
        self.pulse.start()
        watched = 0.0
        while not self.pulse.leave.is_set() and not self.sick:
            job = self.next()
            if job is None:
                if time.monotonic() - watched > WATCH_S:  # one job after another: what was seen over all that time
                    watch()
                    watched = time.monotonic()
                self.pulse.leave.wait(POLL_S)
                continue
            self.do(job)
        self.dismiss()
        return SICK if self.sick else 0

    def next(self) -> Job | None:
        """A job, if there is one; a queue that cannot be written now can be later."""
        try:
            return self.queue.claim(self.slot, self.device, self.pulse.holds) if self.queue.waiting() else None
        except DreamError as error:
            print(f"{error}", file=sys.stderr)
            self.pulse.leave.wait(AGAIN_S)
            return None

    def do(self, job: Job) -> None:
        """One attempt, from its claim to its record."""
        print(f"job {job.id}, attempt {job.attempt}: {job.kind} in {job.run}", file=sys.stderr)
        began, wish = time.monotonic(), Wish()
        with self.pulse.during(job, wish):
            code, said, stopped_at = self.outcome(job, wish)
        print(f"job {job.id}: ended by {code} after {time.monotonic() - began:.1f} s {said}".rstrip(), file=sys.stderr)
        self.record(job, code, said, stopped_at)
        self.shelf.settle(code in (0, 75), job.guidance)
        self.pulse.holds = self.shelf.names()
        self.sick = self.sick or code in (DEFECT, OutOfMemory.exit_code)
        if (code == 75 and not wish.cancelled) or resident_bytes() > self.most_resident:
            self.pulse.leave.set()

    def outcome(self, job: Job, wish: Wish) -> tuple[int, str, int | None]:
        """How it went: exit code, what to say of it, and the step at which it was stopped and kept."""
        try:
            return 0, "", perform(job, self.root, self.device, wish, self.shelf, self.pulse.leave)
        except DreamError as error:
            return error.exit_code, str(error), None
        except Exception as error:
            traceback.print_exc()
            code = OutOfMemory.exit_code if is_out_of_memory(error) else DEFECT
            return code, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", None

    def record(self, job: Job, code: int, said: str, stopped_at: int | None) -> None:
        """As often as it takes: what was made is in the folder, and whoever waits for it must hear of it."""
        while True:
            try:
                self.queue.finish(job.id, job.attempt, code, error_of(code, said) if code else None, stopped_at)
                return
            except DreamError as error:
                print(f"job {job.id}: {error}", file=sys.stderr)
                if self.pulse.leave.wait(AGAIN_S):
                    os._exit(code or 75)  # asked to leave: the supervisor ends the attempt, and another finds it done

    def dismiss(self) -> None:
        try:
            self.queue.dismiss(self.slot)
        except DreamError as error:
            print(f"{error}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="dreamlab.jobs.worker")
    parser.add_argument("root", type=Path)
    parser.add_argument("device")
    parser.add_argument("slot", type=int)
    parser.add_argument("--most-resident", type=int, default=ram_bytes() // 2 or 1 << 40, metavar="BYTES")
    asked = parser.parse_args()
    if os.getpgrp() != os.getpid():
        os.setsid()
    place = Workplace(asked.root)
    log = Log(place.log(asked.slot))
    log.take_over()
    if held(place.seat(asked.slot), patience=1.0) is None:
        print("another worker has this seat", file=sys.stderr)
        sys.exit(0)
    keep_memory()
    watch()
    warnings.showwarning = lambda message, *where, **more: print(f"note: {message}", file=sys.stderr)
    try:
        code = JobLoop(asked.root, asked.device, asked.slot, asked.most_resident, log).work()
    except DreamError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    os._exit(code)  # nothing of it is worth waiting for: a device that hangs must not keep the process


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What a worker's second thread says and hears."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dreamlab.jobs.leases import Lease
from dreamlab.jobs.pulse import EVERY_S, IDLE, ORPHANED_S, Pulse
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job
from dreamlab.jobs.wishes import Wish
from dreamlab.jobs.workplace import Workplace, changed_at, held


def claimed(queue: Queue, id: str = "abcdefghijkl") -> Job:
    mine = Lease.mine()
    queue.enlist(1, "cpu", mine.pid, mine.started, mine.boot)
    queue.submit(Job(id=id, kind="dream", run="a-run"))
    job = queue.claim(1, "cpu")
    assert job is not None
    return job


def test_it_says_that_it_lives_and_what_it_holds(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        job, pulse = claimed(queue), Pulse(tmp_path, 1)
        before = queue.workers()[0].heartbeat
        pulse.holds = ("a model",)
        with pulse.during(job, Wish()):
            pulse.beat(queue, 1)
        (row,) = queue.workers()
        assert row.heartbeat > before
        assert row.holds == ("a model",)
        assert changed_at(Workplace(tmp_path).pulse(1)) > 0
        queue.finish(job.id, 1, 0)
        pulse.beat(queue, 1)
        assert queue.workers()[0].heartbeat == row.heartbeat, "with nothing to hear it troubles the disk less"
        pulse.beat(queue, IDLE)
        assert queue.workers()[0].heartbeat > row.heartbeat


def test_it_hears_how_to_stop_and_the_harder_word_counts(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        job, pulse, wish = claimed(queue), Pulse(tmp_path, 1), Wish()
        with pulse.during(job, wish):
            pulse.beat(queue)
            assert not wish.requested
            queue.cancel(job.id, keep=True)
            pulse.beat(queue)
            assert (wish.requested, wish.keep, wish.cancelled) == (True, True, False)
            queue.cancel(job.id)
            pulse.beat(queue)
            assert (wish.requested, wish.keep, wish.cancelled) == (True, False, True)
            assert not wish.signalled, "a signal on top of it would end the process at once"
        later = Wish()
        queue.finish(job.id, 1, 75)
        pulse.beat(queue)
        assert not later.requested
        assert not pulse.leave.is_set()
        queue.leave(1)
        pulse.beat(queue)
        assert pulse.leave.is_set()


def test_a_full_disk_is_not_heard_and_not_fatal(tmp_path: Path) -> None:
    """Nothing can be written, and the sign of life is given."""
    with Queue(tmp_path) as queue:
        job, before = claimed(queue), queue.workers()[0].heartbeat
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))"
        command = [sys.executable, "-c", f"{limit}\n{BEAT}", str(tmp_path), job.id]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert queue.workers()[0].heartbeat == before
        assert changed_at(Workplace(tmp_path).pulse(1)) > 0


BEAT = """
import os, signal, sys
from pathlib import Path
from dreamlab.jobs.pulse import Pulse
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.wishes import Wish
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Queue(Path(sys.argv[1])) as queue:
    job, pulse = queue.job(sys.argv[2]), Pulse(Path(sys.argv[1]), 1)
    with pulse.during(job, Wish()):
        if len(sys.argv) > 3:
            os.setsid()
            queue.supersede(job.id, job.attempt, -9)
        pulse.beat(queue)
"""


def test_an_attempt_that_was_given_up_ends_at_once(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        job = claimed(queue)
        ended = subprocess.run([sys.executable, "-c", BEAT, str(tmp_path), job.id, "given up"], check=False)
        assert ended.returncode == -9
        assert queue.job(job.id).state == "queued"


def test_without_a_supervisor_it_leaves_in_time(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        claimed(queue)
        lock = held(Workplace(tmp_path).supervisor)
        assert lock is not None
        pulse, looks = Pulse(tmp_path, 1), int(ORPHANED_S / (IDLE * EVERY_S))
        for i in range(2 * looks):
            pulse.beat(queue, i * IDLE)
        assert not pulse.leave.is_set()
        os.close(lock)
        for i in range(looks - 1):
            pulse.beat(queue, i * IDLE)
        assert not pulse.leave.is_set(), "another may come"
        pulse.beat(queue)
        assert pulse.leave.is_set()

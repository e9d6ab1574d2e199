# SPDX-License-Identifier: Apache-2.0
"""What a supervisor makes of what it finds, without waiting for any engine: the workers here are `sleep`."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamlab.jobs import supervisor as supervising
from dreamlab.jobs.leases import Lease
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job
from dreamlab.jobs.supervisor import MOST_WAIT_S, SICK, Seat, Supervisor
from dreamlab.jobs.workplace import Workplace, touch
from dreamlab.run.folder import now


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def at_work(queue: Queue, process: subprocess.Popen[bytes], slot: int = 1, id: str = "abcdefghijkl") -> Job:
    """A process that has a job, as the queue knows it."""
    lease = Lease.of(process.pid)
    queue.enlist(slot, "cpu", lease.pid, lease.started, lease.boot)
    queue.submit(Job(id=id, kind="dream", run="a-run"))
    job = queue.claim(slot, "cpu")
    assert job is not None
    return job


def seat_of(supervisor: Supervisor, process: subprocess.Popen[bytes]) -> Seat:
    """As if it had started it just now."""
    (seat,) = supervisor.seats
    seat.child, seat.lease, seat.began = process, Lease.of(process.pid), time.monotonic()
    seat.sign = (0, time.monotonic())
    return seat


def dead() -> Lease:
    process = subprocess.Popen(["true"])
    lease = Lease.of(process.pid)
    process.wait()
    return lease


def test_what_dies_at_once_is_started_again_more_and_more_seldom(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, ["cpu"])
    (seat,) = supervisor.seats
    waits = []
    for i in range(10):
        now = 1000.0 * i
        seat.lease, seat.began = dead(), now - 1
        supervisor.bury(seat, 1, now)
        waits.append(seat.start_at - now)
    assert waits == [0, 2, 4, 8, 16, 32, MOST_WAIT_S, MOST_WAIT_S, MOST_WAIT_S, MOST_WAIT_S]
    seat.lease, seat.began = dead(), 20_000.0
    supervisor.bury(seat, 0, 20_100.0)
    assert seat.failures == 0, "one that left after its work is no failure"
    for i, wait in enumerate([0, 2]):
        seat.lease, seat.began = dead(), 30_000.0 + i * 1000
        supervisor.bury(seat, SICK, seat.began + 900)
        assert seat.start_at - seat.began - 900 == wait, "a device that makes worker after worker sick waits"


def test_a_job_s_death_is_not_the_worker_s_fault(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    with Queue(tmp_path) as queue:
        job, supervisor = at_work(queue, sleeper), Supervisor(tmp_path, ["cpu"])
        seat = seat_of(supervisor, sleeper)
        sleeper.kill()
        sleeper.wait()
        seat.failures = 3
        supervisor.attend(seat, time.monotonic())
        assert (seat.failures, seat.lease) == (0, None)
        ended = queue.job(job.id)
        assert (ended.state, ended.tries, ended.exit_code) == ("queued", 1, -9)
        assert queue.workers() == []


def test_the_living_are_adopted_and_the_dead_are_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    with Queue(tmp_path) as queue:
        job = at_work(queue, sleeper)
        supervisor = Supervisor(tmp_path, ["cpu"])
        (seat,) = supervisor.seats
        assert supervisor.adopt(seat, 1.0)
        assert (seat.lease, seat.child) == (Lease.of(sleeper.pid), None)
        assert queue.job(job.id).attempt == 1
        assert queue.job(job.id).state == "running"
        other = Supervisor(tmp_path, ["cuda"])
        assert other.adopt(other.seats[0], 1.0)
        assert queue.workers()[0].state == "leaving", "one of another device ends after its job"
        sleeper.kill()
        sleeper.wait()
        third = Supervisor(tmp_path, ["cpu"])
        assert not third.adopt(third.seats[0], 1.0)
        assert queue.job(job.id).state == "queued"


@pytest.mark.parametrize("heeds", [True, False])
def test_a_stop_costs_a_job_no_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heeds: bool) -> None:
    """Neither one whose worker had no time to save it, nor one whose worker had to be killed."""
    monkeypatch.setattr(supervising, "GRACE_S", 0.2)
    ignored = signal.SIG_DFL if heeds else signal.SIG_IGN
    process = subprocess.Popen(
        ["sleep", "1000"], start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGTERM, ignored)
    )
    with Queue(tmp_path) as queue:
        job, supervisor = at_work(queue, process), Supervisor(tmp_path, ["cpu"])
        seat_of(supervisor, process)
        supervisor.stop()
        assert process.wait(10) == (-signal.SIGTERM if heeds else -signal.SIGKILL)
        ended = queue.job(job.id)
        assert (ended.state, ended.tries) == ("queued", 0)


def test_a_job_that_nobody_has_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    with Queue(tmp_path) as queue:
        job = at_work(queue, sleeper)
        queue.dismiss(1)
        Supervisor(tmp_path, ["cpu"]).look(1.0)
        assert queue.job(job.id).state == "queued"


def test_seats_that_are_no_more(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    with Queue(tmp_path) as queue:
        job = at_work(queue, sleeper, slot=7)
        supervisor = Supervisor(tmp_path, ["cpu"])
        supervisor.look(1.0)
        assert queue.workers()[0].state == "leaving"
        assert queue.job(job.id).state == "running"
        sleeper.kill()
        sleeper.wait()
        supervisor.look(2.0)
        assert queue.workers() == []
        assert queue.job(job.id).state == "queued"


def test_life_is_seen_by_a_file_and_judged_by_a_clock_that_sleeps_too(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    with Queue(tmp_path) as queue:
        job = at_work(queue, sleeper)
        supervisor = Supervisor(tmp_path, ["cpu"])
        seat = seat_of(supervisor, sleeper)
        sign, began = Workplace(tmp_path).pulse(1), time.monotonic()
        for i in range(5):
            touch(sign)
            supervisor.look(began + 20.0 * i)
        assert sleeper.poll() is None, "no heartbeat reached the queue, but the file is touched"
        supervisor._ticked = time.monotonic() - 3600  # the lid was closed
        seat.sign = (seat.sign[0], time.monotonic() - 3600)
        supervisor.tick()
        with pytest.raises(subprocess.TimeoutExpired):
            sleeper.wait(0.5)
        supervisor.look(time.monotonic() + supervising.STALE_S + 1)
        assert sleeper.wait(10) == -9
        supervisor.attend(seat, time.monotonic())
        ended = queue.job(job.id)
        assert ended.error is not None
        assert (ended.state, ended.error.code) == ("queued", "frozen")


def test_cancelled_and_not_heeded(tmp_path: Path) -> None:
    deaf = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"], start_new_session=True)
    try:
        with Queue(tmp_path) as queue:
            job, supervisor = at_work(queue, deaf), Supervisor(tmp_path, ["cpu"])
            seat, began = seat_of(supervisor, deaf), time.monotonic()
            queue.cancel(job.id)
            for after in (0.0, 3.0, 5.5):
                supervisor.look(began + after)
            with pytest.raises(subprocess.TimeoutExpired):
                deaf.wait(0.5)
            supervisor.look(began + 7.5)
            assert deaf.wait(10) == -9
            assert not Lease.of(deaf.pid).group(), "with its children"
            supervisor.attend(seat, time.monotonic())
            assert queue.job(job.id).state == "cancelled"
    finally:
        deaf.kill()
        deaf.wait()


def test_who_came_further_is_told_by_the_run_itself(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Every supervisor says the same, also one that has just begun."""
    run, events = tmp_path / "a-run", tmp_path / "a-run" / "events.jsonl"
    run.mkdir()
    with Queue(tmp_path) as queue:
        tries = []
        for made in (["step_000020"], ["step_000020"], [], ["step_000020", "step_000040"], [], [], []):
            mine = Lease.of(sleeper.pid)
            queue.enlist(1, "cpu", mine.pid, mine.started, mine.boot)
            if not tries:
                queue.submit(Job(id="abcdefghijkl", kind="dream", run="a-run"))
            assert queue.claim(1, "cpu") is not None
            with events.open("a") as lines:
                for path in made:
                    lines.write(json.dumps({"time": now(), "kind": "checkpoint", "path": path}) + "\n")
            time.sleep(0.005)  # as the clock of the events counts milliseconds
            queue.dismiss(1)
            Supervisor(tmp_path, ["cpu"]).look(1.0)
            tries.append(queue.job("abcdefghijkl").tries)
        assert tries == [0, 1, 2, 0, 1, 2, 3]
        assert queue.job("abcdefghijkl").state == "interrupted"

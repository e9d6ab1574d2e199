# SPDX-License-Identifier: Apache-2.0
"""Jobs outlive the processes that work on them: workers and supervisors are killed, and the bytes stay the same."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamlab.jobs import supervisor as supervising
from dreamlab.jobs.states import Job
from tests.conftest import artefacts
from tests.jobs.conftest import STEPS
from tests.jobs.office import Office, kill

pytestmark = pytest.mark.slow


def test_a_killed_worker_s_job_goes_on_and_the_urgent_goes_first(office: Office, undisturbed: dict[str, bytes]) -> None:
    later, first = office.add("seed=3"), office.add(priority=5)
    office.open()
    worker = office.hold(first, 40)
    assert office.queue.job(later.id).state == "queued"
    kill(worker)
    ended = office.until_state(first, "succeeded")
    assert (ended.attempt, ended.tries, ended.exit_code) == (2, 0, 0), "one that came further costs no try"
    assert office.whats(first) == ["submitted", "claimed", "superseded", "claimed", "finished"]
    assert artefacts(office.run(first).path) == undisturbed
    starts = [event for event in office.events(first, "metrics") if event["global_step"] > 40]
    assert office.events(first, "start")[1:] and starts, "it was taken up, not begun again"
    assert office.until_state(later, "succeeded").attempt == 1


def test_a_dead_supervisor_s_worker_is_adopted_and_its_job_is_not_begun_again(
    office: Office, undisturbed: dict[str, bytes]
) -> None:
    job = office.add()
    first = started(office)
    try:
        before = office.hold(job, 20)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert before.alive(), "it is in a session of its own"
        assert supervising.running(office.root) is None
        office.open().tick()
        os.kill(before.pid, signal.SIGCONT)
        ended = office.until_state(job, "succeeded")
    finally:
        first.kill()
        first.wait()
    assert office.worker() == before
    assert office.supervisor is not None
    assert office.supervisor.seats[0].child is None, "adopted"
    assert (ended.attempt, ended.tries) == (1, 0)
    assert artefacts(office.run(job).path) == undisturbed


def started(office: Office, *devices: str) -> subprocess.Popen[bytes]:
    """`dreamlab jobs work` in a process of its own, once it holds the folder."""
    named = [part for device in devices for part in ("--device", device)]
    command = [sys.executable, "-m", "dreamlab", "jobs", "work", "--root", str(office.root), *named]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    office.until(lambda: supervising.running(office.root) == process.pid)
    return process


def test_both_killed_then_stopped_politely(office: Office, undisturbed: dict[str, bytes]) -> None:
    job = office.add()
    first = started(office)
    worker = office.hold(job, 20)
    again = subprocess.run(
        [sys.executable, "-m", "dreamlab", "jobs", "work", "--root", str(office.root)], capture_output=True, text=True
    )
    assert again.returncode == 0
    assert f"process {first.pid} supervises it already" in again.stderr
    for pid in (first.pid, worker.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    at = office.made(job)
    second = started(office)
    office.until(lambda: office.made(job) >= at + 20)
    second.terminate()
    assert second.wait(60) == 0
    saved = office.queue.job(job.id)
    assert (saved.state, saved.attempt, saved.tries) == ("queued", 2, 0), "a stop that was asked for costs no try"
    assert office.queue.workers() == []
    assert office.events(job, "interrupted")
    office.open()
    ended = office.until_state(job, "succeeded")
    assert ended.attempt == 3
    assert artefacts(office.run(job).path) == undisturbed


def test_a_worker_whose_attempt_is_another_s_changes_nothing(office: Office, undisturbed: dict[str, bytes]) -> None:
    """As if the supervisor that ended the attempt could not kill: a fence of the queue, and the folder's lock."""
    job = office.add()
    office.open("cpu", "cpu")
    frozen = office.hold(job, 20)
    office.supervisor = None
    office.queue.supersede(job.id, 1, -9)
    office.until(lambda: office.queue.job(job.id).attempt == 2)
    time.sleep(2)
    stood = office.made(job)
    assert office.queue.job(job.id).state == "running", "it waits for the folder"
    os.kill(frozen.pid, signal.SIGCONT)
    office.until(lambda: not frozen.alive(), within=10)
    ended = office.until_state(job, "succeeded")
    assert ended.attempt == 2
    assert office.whats(job) == ["submitted", "claimed", "superseded", "claimed", "finished"]
    assert not office.queue.finish(job.id, 1, 6), "and nothing it would say is heard"
    assert stood < STEPS
    assert artefacts(office.run(job).path) == undisturbed


def test_a_frozen_worker_is_replaced(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "STALE_S", 4.0)
    job = office.add()
    office.open()
    frozen = office.hold(job, 20)
    assert office.until(lambda: not frozen.alive(), within=20) > 3
    office.until(lambda: "superseded" in office.whats(job))
    ended = office.queue.job(job.id)
    assert ended.error is not None
    assert ended.error.code == "frozen"
    assert office.until_state(job, "succeeded").attempt == 2


def test_a_job_that_always_kills_its_worker_ends_and_blocks_nobody(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = office.add("steps=2")
    office.open()
    office.until_state(done, "succeeded")
    office.worker().ask()
    office.until(lambda: office.queue.workers() == [])
    monkeypatch.setenv("DREAMLAB_CRASH_AT", "ckpt.begin")  # of every worker from now on
    poison = office.add("steps=4")
    healthy = office.queue.submit(
        Job(id="healthy00000", kind="export", run=done.run, request={"formats": ["ply"], "faces": 100})
    )
    ended = office.until_state(poison, "interrupted")
    assert (ended.attempt, ended.tries) == (3, 3)
    assert ended.error is not None
    assert ended.error.code == "killed"
    office.until_state(healthy, "succeeded")
    assert (office.run(done).export / "model.ply").is_file()


def test_two_devices_work_at_the_same_time_and_a_pause_holds(office: Office) -> None:
    office.queue.pause()
    first, second = office.add("seed=4"), office.add("seed=5")
    office.open("cpu", "cpu")
    office.until(lambda: len(office.queue.workers()) == 2)
    time.sleep(1)
    assert office.queue.counts()["queued"] == 2
    office.queue.resume()
    office.until(lambda: office.queue.counts()["running"] == 2)
    found = [office.until_state(job, "succeeded") for job in (first, second)]
    assert [job.attempt for job in found] == [1, 1]
    assert len({office.run(job).path for job in found}) == 2


def test_a_worker_that_holds_too_much_memory_is_replaced_between_jobs(office: Office) -> None:
    first, second = office.add("steps=2"), office.add("steps=2", "seed=7")
    office.open(options=["--most-resident", str(1 << 20)])
    office.until_state(first, "running", "succeeded")
    before = office.worker()
    assert [office.until_state(job, "succeeded").attempt for job in (first, second)] == [1, 1]
    assert not before.alive(), "the second was another's"


def test_memory_that_runs_out_costs_a_worker_and_one_more_attempt(office: Office) -> None:
    office.open()
    office.until(office.idle)
    poor = office.worker()
    pages = int(Path(f"/proc/{poor.pid}/statm").read_text().split()[0])
    used = pages * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(poor.pid, resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
    job = office.add("steps=3", "stages.0.size=256", "stages.0.views=16")
    office.until(lambda: "finished" in office.whats(job))
    again = office.queue.job(job.id)
    assert (again.state, again.tries) in (("queued", 1), ("running", 1))
    ended = office.until_state(job, "succeeded")
    assert ended.attempt == 2
    assert office.worker() != poor, "a fresh process"


def test_a_disk_that_refuses_kills_no_job_and_is_said(office: Office, undisturbed: dict[str, bytes]) -> None:
    """A limit on the size of files refuses the queue's heartbeats, as a full disk would; then the export has no place
    to be written to, and that cannot be recorded either."""
    job = office.add()
    office.open()
    worker = office.hold(job, 20)
    enough = 500_000  # for all that the run writes
    log = office.root / ".jobs" / "queue.sqlite-wal"
    while log.stat().st_size < enough + 8192:  # what the queue writes next lies behind the limit
        office.queue.favourite(job.id, not office.queue.job(job.id).favourite)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (enough, resource.RLIM_INFINITY))
    heard = office.queue.workers()[0].heartbeat
    os.kill(worker.pid, signal.SIGCONT)
    assert office.hold(job, STEPS) == worker, "it came to its end"
    export = office.run(job).export
    shutil.rmtree(export)
    export.write_text("something else")
    os.kill(worker.pid, signal.SIGCONT)
    office.until(lambda: bool(office.events(job, "failed")))
    time.sleep(3)
    assert worker.alive()
    assert office.queue.workers()[0].heartbeat == heard, "though nobody heard it"
    assert office.queue.job(job.id).state == "running", "nor could it say how it ended"
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ended = office.until_state(job, "interrupted")
    assert ended.error is not None
    assert (ended.attempt, ended.exit_code, ended.error.code) == (1, 7, "disk")
    export.unlink()
    export.mkdir()
    office.queue.retry(job.id)
    office.until_state(job, "succeeded")
    assert artefacts(office.run(job).path) == undisturbed

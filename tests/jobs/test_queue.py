# SPDX-License-Identifier: Apache-2.0
"""One queue, asked one thing after the other: states, attempts, keys, limits, the sequence; read back by a connection
of the test's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dreamlab.jobs import queue as queues
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import (
    CANCELLED,
    FAILED,
    INTERRUPTED,
    QUEUED,
    RUNNING,
    STATES,
    SUCCEEDED,
    Conflict,
    Error,
    Job,
    JobUnknown,
    QueueFull,
)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path / "runs") as opened:
        yield opened


def rows(queue: Queue, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(queue.data.place.file) as db:
        return db.execute(query).fetchall()


def running(queue: Queue, id: str = "a") -> Job:
    queue.submit(Job(id, "dream", run=f"r-{id}"))
    claimed = queue.claim(1, "cpu")
    assert claimed is not None and claimed.id == id
    return claimed


def test_a_job_is_stored_before_its_call_returns(queue: Queue) -> None:
    asked = Job("a", "dream", prompt="a 'red'\n\U0001f344 \u202e", request={"settings": {"x": [1, None]}}, key="k")
    made = queue.submit(asked)
    assert queue.job("a") == made and made.state == QUEUED
    assert rows(queue, "SELECT prompt, state, key FROM jobs") == [(asked.prompt, QUEUED, "k")]
    assert made.request == asked.request and rows(queue, "PRAGMA journal_mode") == [("wal",)]


def test_a_key_is_one_job_of_its_owner_and_the_first_one_stays(queue: Queue) -> None:
    first = queue.submit(Job("a", "dream", owner="x", prompt="one", key="k"))
    assert queue.submit(Job("b", "dream", owner="x", prompt="two", key="k")) == first
    assert queue.submit(Job("c", "dream", owner="y", key="k")).id == "c"
    assert [queue.submit(Job(each, "dream")).id for each in "de"] == ["d", "e"]
    twice = queue.submit_all([Job("f", "dream", key="z"), Job("g", "dream", key="z")])
    assert [job.id for job in twice] == ["f", "f"]
    assert rows(queue, "SELECT count(*) FROM jobs") == [(5,)]
    assert queue.submit(Job("h", "dream", owner="x", key="k")).prompt == "one"


def test_an_attempt_that_was_superseded_changes_nothing(queue: Queue) -> None:
    old = running(queue)
    again = queue.supersede("a", old.attempt, -9)
    assert (again.state, again.tries) == (QUEUED, 1)
    new = queue.claim(2, "cpu")
    assert new is not None and new.attempt == old.attempt + 1
    before = queue.newest()
    assert not queue.finish("a", old.attempt, 0) and queue.job("a") == new and queue.newest() == before
    assert queue.finish("a", new.attempt, 0) and queue.job("a").state == SUCCEEDED
    assert not queue.finish("a", new.attempt, 1), "it has ended"


ENDS = {
    "done": ([0], SUCCEEDED),
    "asked to stop": ([75, 75, 75, 75, 75, 75], QUEUED),
    "killed": ([-9, 137], QUEUED),
    "killed thrice": ([-9, 137, -15], INTERRUPTED),
    "memory": ([5], QUEUED),
    "memory twice": ([5, 5], FAILED),
    "disk": ([7], INTERRUPTED),
    "diverged": ([6], FAILED),
    "recipe": ([2], FAILED),
    "defect": ([1], FAILED),
    "killed, then done": ([-9, 0], SUCCEEDED),
}


@pytest.mark.parametrize("how", ENDS)
def test_how_attempts_end_decides_what_comes_next(queue: Queue, how: str) -> None:
    codes, state = ENDS[how]
    queue.submit(Job("a", "dream"))
    for i, code in enumerate(codes):
        claimed = queue.claim(1, "cpu")
        assert claimed is not None and claimed.attempt == i + 1
        assert queue.finish("a", claimed.attempt, code)
    job = queue.job("a")
    assert job.state == state and (job.error is None) == (state == SUCCEEDED)
    assert job.finished == "" if state == QUEUED else job.finished >= job.started


def test_an_error_has_a_word_a_line_and_a_way_out(queue: Queue) -> None:
    job = running(queue)
    queue.finish("a", job.attempt, 7)
    found = queue.job("a").error
    assert found is not None and found.code == "disk" and "retry" in found.hint
    queue.retry("a")
    again = queue.claim(1, "cpu")
    assert again is not None
    queue.finish("a", again.attempt, 6, Error("diverged", "not finite at step 3", "lower the rates"))
    assert queue.job("a").error == Error("diverged", "not finite at step 3", "lower the rates")


def test_cancel_in_every_state(queue: Queue) -> None:
    """Fault 23."""
    queue.submit(Job("w", "dream"))
    waiting = queue.cancel("w")
    assert waiting.state == CANCELLED and waiting.finished
    assert queue.cancel("w") == waiting, "already cancelled: as it was"
    job = running(queue)
    assert queue.cancel("a").cancel == "stop" and queue.job("a").state == RUNNING
    seq = queue.newest()
    assert queue.cancel("a").cancel == "stop" and queue.newest() == seq, "asked once"
    queue.finish("a", job.attempt, 75)
    assert queue.job("a").state == CANCELLED and queue.job("a").cancel == ""
    done = running(queue, "d")
    queue.finish("d", done.attempt, 0)
    assert queue.cancel("d").state == SUCCEEDED
    with pytest.raises(JobUnknown, match="there is none"):
        queue.cancel("nobody")


def test_a_cancel_that_comes_too_late_or_fails_is_no_lie(queue: Queue) -> None:
    job = running(queue)
    queue.cancel("a")
    queue.finish("a", job.attempt, 0)
    assert queue.job("a").state == SUCCEEDED
    job = running(queue, "b")
    queue.cancel("b")
    queue.finish("b", job.attempt, 6)
    assert queue.job("b").state == FAILED
    job = running(queue, "c")
    queue.cancel("c")
    assert queue.supersede("c", job.attempt, 1).state == CANCELLED, "it did not move and was ended"


def test_stop_and_keep(queue: Queue) -> None:
    job = running(queue)
    assert queue.cancel("a", keep=True).cancel == "keep"
    queue.finish("a", job.attempt, 0, stopped_at=7)
    kept = queue.job("a")
    assert (kept.state, kept.stopped_at, kept.cancel) == (SUCCEEDED, 7, "")
    job = running(queue, "b")
    queue.cancel("b", keep=True)
    queue.supersede("b", job.attempt, -9)
    assert (queue.job("b").state, queue.job("b").cancel) == (QUEUED, "keep"), "who claims it next keeps it"
    assert queue.cancel("b").state == CANCELLED
    queue.submit(Job("n", "dream"))
    assert queue.cancel("n", keep=True).state == CANCELLED, "it has made nothing"


def test_retry_goes_on_in_the_same_folder(queue: Queue) -> None:
    job = running(queue)
    for wrong in (RUNNING,):
        with pytest.raises(Conflict, match=wrong):
            queue.retry("a")
    queue.finish("a", job.attempt, 7)
    again = queue.retry("a")
    assert (again.state, again.run, again.tries, again.error, again.exit_code) == (QUEUED, job.run, 0, None, None)
    assert again.attempt == job.attempt, "the fence only grows"
    with pytest.raises(Conflict):
        queue.retry("a")
    assert [each.what for each in queue.history("a")] == ["submitted", "claimed", "finished", "retried"]


def test_every_change_has_a_number_of_its_own(queue: Queue) -> None:
    job = running(queue)
    queue.submit(Job("b", "dream", owner="x"))
    queue.favourite("b", True)
    queue.favourite("b", True)
    queue.pause()
    queue.pause()
    queue.resume()
    queue.finish("a", job.attempt, 0)
    changes = queue.changes(0)
    whats = ["submitted", "claimed", "submitted", "favourite", "paused", "resumed", "finished"]
    assert [change.what for change in changes] == whats
    assert [change.seq for change in changes] == list(range(1, 8))
    assert [change.seq for change in queue.changes(5)] == [6, 7] and queue.changes(5, limit=1)[0].seq == 6
    assert {job.id: job.seq for job in queue.page().jobs} == {"a": 7, "b": 4}
    assert [change.job for change in queue.changes(0, "x")] == ["b", "b", "", ""], "others' jobs are not told"
    queue.forget("9999")
    assert queue.changes(0) == [] and queue.newest() == 7
    assert queue.favourite("b", False).seq == 8, "numbers go on"


def test_limits_of_all_and_of_an_owner(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MOST_WAITING", 5)
    monkeypatch.setattr(queues, "MOST_OF_AN_OWNER", 3)
    queue.submit_all([Job(f"x{i}", "dream", owner="x", key=str(i)) for i in range(3)])
    with pytest.raises(QueueFull) as own:
        queue.submit(Job("x3", "dream", owner="x"))
    assert own.value.own and own.value.retry_after > 0
    assert queue.submit(Job("x9", "dream", owner="x", key="1")).id == "x1", "what is there needs no room"
    with pytest.raises(QueueFull) as all_of_them:
        queue.submit_all([Job(f"y{i}", "dream", owner="y") for i in range(3)])
    assert not all_of_them.value.own
    assert queue.waiting() == 3 and queue.waiting("y") == 0, "all of a list or none"
    queue.cancel("x0")
    assert queue.submit(Job("x3", "dream", owner="x")).state == QUEUED


def test_paused_nothing_begins_and_what_runs_ends(queue: Queue) -> None:
    job = running(queue)
    queue.submit(Job("b", "dream"))
    queue.pause()
    assert queue.paused and queue.claim(2, "cpu") is None
    assert queue.finish("a", job.attempt, 0)
    with Queue(queue.root) as other:
        assert other.paused
        other.resume()
    claimed = queue.claim(2, "cpu")
    assert claimed is not None and claimed.id == "b"


def test_workers_hear_what_they_must_do(queue: Queue) -> None:
    assert queue.beat(7).fenced and queue.beat(7).leave, "nobody knows it"
    queue.enlist(1, "cpu", 100, 5, "boot")
    assert not queue.beat(1).fenced
    job = running(queue)
    (worker,) = queue.workers()
    assert (worker.job, worker.attempt, worker.state, worker.pid) == ("a", job.attempt, "busy", 100)
    queue.beat(1, ["sd:1"])
    assert queue.workers()[0].holds == ("sd:1",) and queue.workers()[0].heartbeat >= worker.heartbeat
    queue.cancel("a")
    assert queue.beat(1).cancel == "stop"
    queue.supersede("a", job.attempt, 137)
    assert queue.job("a").state == CANCELLED and not queue.beat(1).cancel
    job = running(queue, "b")
    with sqlite3.connect(queue.data.place.file) as db:  # it was frozen, and another has the job
        db.execute("UPDATE jobs SET attempt = attempt + 1 WHERE id = 'b'")
    assert queue.beat(1).fenced
    queue.leave(1)
    queue.submit(Job("c", "dream"))
    assert queue.beat(1).leave and queue.claim(1, "cpu") is None
    queue.dismiss(1)
    assert queue.workers() == []


def test_a_checkpoint_binds_a_job_to_its_kind_of_device(queue: Queue) -> None:
    queue.submit(Job("a", "dream"))
    claimed = queue.claim(1, "cuda:0")
    assert claimed is not None and claimed.device == "cuda:0"
    queue.finish("a", claimed.attempt, 75)
    queue.submit(Job("b", "dream"))
    on_cpu, on_cuda = queue.claim(2, "cpu"), queue.claim(1, "cuda:1")
    assert on_cpu is not None and on_cpu.id == "b" and on_cuda is not None and on_cuda.id == "a"


def test_times_are_utc_and_iso(queue: Queue) -> None:
    """Fault 24."""
    job = queue.submit(Job("a", "dream"))
    when = datetime.fromisoformat(job.created)
    assert when.utcoffset() is not None and abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert job.created.endswith("+00:00")


def test_pages_go_from_the_newest_to_the_last_and_miss_none(queue: Queue) -> None:
    queue.submit_all([Job(f"j{i:03d}", "dream", owner="xy"[i % 2], prompt=f"p_{i}%") for i in range(50)])
    for state in ("a", "b"):
        queue.cancel(f"j00{1 if state == 'a' else 4}")
    seen, cursor = list[str](), None
    while True:
        page = queue.page(limit=7, cursor=cursor)
        seen += [job.id for job in page.jobs]
        if len(seen) == 14:
            queue.submit(Job("later", "dream"))  # what comes meanwhile moves no page
        if (cursor := page.next) is None:
            break
    assert seen == [f"j{i:03d}" for i in reversed(range(50))]
    assert [job.id for job in queue.page(owner="x", states=[CANCELLED]).jobs] == ["j004"]
    assert [job.id for job in queue.page(text="_1%").jobs] == ["j001"], "signs of a pattern are letters here"
    assert queue.page(states=[RUNNING]).jobs == () and queue.page(text="\ud800").jobs == ()
    assert queue.counts() == dict.fromkeys(STATES, 0) | {QUEUED: 49, CANCELLED: 2}
    assert queue.counts("y")[QUEUED] == 24


def test_a_cursor_of_nobody_is_refused(queue: Queue) -> None:
    from dreamlab.core.errors import InputError

    for cursor in ("", "!!", "a" * 99, "\ud800", "LTE"):
        with pytest.raises(InputError, match="cursor"):
            queue.page(cursor=cursor)
    with pytest.raises(InputError, match="limit"):
        queue.page(limit=0)
    with pytest.raises(JobUnknown):
        queue.job("\ud800")

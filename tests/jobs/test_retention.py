# SPDX-License-Identifier: Apache-2.0
"""Fault 40: what is removed, when, and what never is; first said, then done."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dreamlab.core.errors import RecipeError
from dreamlab.jobs import folders, retention
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.retention import PURGED, TRASHED, Policy
from dreamlab.jobs.states import LOCAL, Conflict, Job, JobUnknown
from dreamlab.jobs.supervisor import running
from dreamlab.jobs.tidying import policy_file, policy_of, set_policy

MIB = 1 << 20


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path) as opened:
        yield opened


def ended(queue: Queue, id: str, size: int = MIB, kind: str = "dream", run: str = "", owner: str = LOCAL) -> Path:
    """A job that has ended, with a folder of so many bytes."""
    folder = queue.root / (run or f"r-{id}")
    (folder / "ckpt").mkdir(parents=True, exist_ok=True)
    (folder / "ckpt" / "scene").write_bytes(b"x" * size)
    queue.submit(Job(id, kind, owner, run=folder.name))
    claimed = queue.claim(1, "cpu")
    assert claimed is not None and queue.finish(claimed.id, claimed.attempt, 0)
    return folder


def later(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def said(queue: Queue, policy: Policy, days: float = 0.0) -> dict[str, str]:
    return {each.job.id: each.what for each in retention.plan(queue, policy, later(days)).going}


def test_the_trash_has_a_way_back(queue: Queue) -> None:
    folder = ended(queue, "a")
    queue.delete("a")
    assert not folder.exists() and (folders.trash(queue.root) / "r-a" / "ckpt" / "scene").stat().st_size == MIB
    assert queue.page().jobs == () and [job.id for job in queue.page(deleted=True).jobs] == ["a"]
    seq = queue.newest()
    assert queue.delete("a").deleted and queue.newest() == seq, "twice is once"
    assert queue.restore("a").state == "succeeded" and folder.is_dir() and queue.page().jobs[0].id == "a"
    with pytest.raises(Conflict, match="delete it first"):
        queue.purge("a")


def test_what_runs_is_not_deleted(queue: Queue) -> None:
    queue.submit(Job("a", "dream", run="r-a"))
    queue.claim(1, "cpu")
    with pytest.raises(Conflict, match="is running"):
        queue.delete("a")
    queue.submit(Job("b", "dream"))
    assert queue.delete("b").state == "cancelled" and queue.claim(1, "cpu") is None
    with pytest.raises(Conflict, match="restore it first"):
        queue.retry("b")


def test_a_death_between_row_and_folder_is_mended(queue: Queue) -> None:
    """The row says trash and the folder still lies among the runs, or the other way round."""
    folder = ended(queue, "a")
    queue.delete("a")
    folders.from_trash(queue.root, "r-a")
    assert folders.located(queue.root, "r-a") == folder
    queue.purge("a")
    assert queue.page(deleted=True).jobs == () and not folder.exists()
    folder = ended(queue, "b")
    queue.delete("b")
    folders.from_trash(queue.root, "r-b")
    assert queue.restore("b").deleted == "" and folder.is_dir()


def test_nothing_is_planned_that_nobody_asked_for(queue: Queue) -> None:
    ended(queue, "a")
    assert said(queue, Policy(), 10_000) == {}
    queue.delete("a")
    assert said(queue, Policy(), 6.9) == {} and said(queue, Policy(), 7.1) == {"a": PURGED}
    assert said(queue, Policy(trash_days=0), 0.1) == {"a": PURGED}


def test_a_plan_changes_nothing_and_is_what_is_done(queue: Queue) -> None:
    old, favourite = ended(queue, "a"), ended(queue, "f")
    queue.favourite("f", True)
    queue.submit(Job("w", "dream", run="r-w"))
    before = queue.newest()
    planned = retention.plan(queue, Policy(days=3), later(4))
    assert {each.job.id: each.what for each in planned.going} == {"a": TRASHED} and "ended on" in planned.going[0].why
    assert queue.newest() == before and old.is_dir() and planned.used == 2 * MIB and planned.freed == 0
    assert retention.carry_out(queue, planned) == list(planned.going)
    assert queue.job("a").deleted and not old.exists() and favourite.is_dir() and queue.job("w").state == "queued"
    assert queue.restore("a").id == "a", "age alone leaves a way back"


def test_above_the_quota_the_oldest_go_the_trash_first(queue: Queue) -> None:
    places = {name: ended(queue, name, size) for name, size in (("a", MIB), ("b", 2 * MIB), ("c", MIB), ("d", MIB))}
    queue.delete("c")
    policy = Policy(quota_mib=3.5)
    assert said(queue, policy) == {"c": PURGED, "a": PURGED}
    planned = retention.plan(queue, policy)
    assert planned.used == 5 * MIB and planned.freed == 2 * MIB
    retention.carry_out(queue, planned)
    assert {job.id for job in queue.page().jobs} == {"b", "d"} and said(queue, policy) == {}
    assert places["b"].is_dir() and not places["a"].exists() and list(folders.trash(queue.root).iterdir()) == []
    assert [change.what for change in queue.history("a")] == ["purged"], "who follows hears of it"


def test_favourites_and_what_is_used_survive_any_quota(queue: Queue) -> None:
    for name in "fu":
        ended(queue, name)
    queue.favourite("f", True)
    queue.submit(Job("e", "export", run="r-u", parent="u"))
    planned = retention.plan(queue, Policy(quota_mib=0))
    assert [each.job.id for each in planned.going] == ["u"]
    assert retention.carry_out(queue, planned) == [] and (queue.root / "r-u").is_dir(), "an export waits for it"
    queue.cancel("e")
    assert [each.job.id for each in retention.carry_out(queue, retention.plan(queue, Policy(quota_mib=0)))] == ["u"]
    assert {job.id for job in queue.page().jobs} == {"f"}, "its exports go with it"


def test_what_changed_since_the_plan_is_left_alone(queue: Queue) -> None:
    ended(queue, "a")
    planned = retention.plan(queue, Policy(quota_mib=0))
    queue.favourite("a", True)
    assert retention.carry_out(queue, planned) == [] and queue.job("a").favourite


def test_runs_that_the_queue_does_not_know_stay(queue: Queue) -> None:
    mine = queue.root / "of-the-command-line-0123456789ab"
    mine.mkdir()
    (mine / "x").write_bytes(b"x" * MIB)
    retention.carry_out(queue, retention.plan(queue, Policy(days=0, trash_days=0, quota_mib=0), later(99)))
    assert (mine / "x").is_file()


def test_history_is_forgotten_in_time_and_jobs_are_not(queue: Queue) -> None:
    ended(queue, "a")
    assert len(queue.history("a")) == 3
    retention.carry_out(queue, retention.plan(queue, Policy(history_days=1), later(2)))
    assert queue.history("a") == [] and queue.job("a").state == "succeeded" and queue.newest() == 3
    assert queue.favourite("a", True).seq == 4


def test_each_owner_has_a_quota_and_pays_for_nobody_else(queue: Queue) -> None:
    for name, owner in (("a", "ann"), ("b", "bob"), ("c", "ann"), ("d", "ann")):
        ended(queue, name, owner=owner)
    planned = retention.plan(queue, Policy(owner_quota_mib=1.5))
    assert {each.job.id: each.what for each in planned.going} == {"a": PURGED, "c": PURGED}
    assert "of one owner" in planned.going[0].why and planned.of_owner == {"ann": 3 * MIB, "bob": MIB}
    together = said(queue, Policy(owner_quota_mib=1.5, quota_mib=1))
    assert together == {"a": PURGED, "c": PURGED, "b": PURGED}, "what goes for an owner's quota counts for all"


BROKEN = {"{": "is no JSON", '{"days": -1}': "days: must be at least 0", '{"dys": 1}': "did you mean 'days'"}


def test_a_policy_is_kept_checked_and_taken_back(tmp_path: Path) -> None:
    (tmp_path / ".jobs").mkdir()
    assert policy_of(tmp_path) is None
    set_policy(tmp_path, Policy(days=3, owner_quota_mib=10))
    assert policy_of(tmp_path) == Policy(days=3, owner_quota_mib=10)
    for text, words in BROKEN.items():
        policy_file(tmp_path).write_text(text)
        with pytest.raises(RecipeError, match=f"retention.json: .*{words}.*; nothing is removed"):
            policy_of(tmp_path)
    set_policy(tmp_path, None)
    assert policy_of(tmp_path) is None


def test_a_supervisor_removes_what_the_policy_says_and_nothing_without_one(tmp_path: Path) -> None:
    """A real process without any worker: the row goes, the folder goes, a favourite stays."""
    call = "from pathlib import Path; import sys; from dreamlab.jobs.supervisor import supervise; "
    call += f"sys.exit(supervise(Path({str(tmp_path)!r}), ()))"

    def supervised(until: Callable[[], object]) -> str:
        with subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.PIPE, text=True) as process:
            end = time.monotonic() + 120
            while not until() and time.monotonic() < end:
                time.sleep(0.05)
            process.terminate()
            return process.communicate(timeout=60)[1]

    with Queue(tmp_path) as queue:
        folder, kept = ended(queue, "a"), ended(queue, "f")
        queue.favourite("f", True)
        queue.delete("a")
        supervised(lambda: running(tmp_path) is not None)
        assert queue.job("a").deleted, "no policy, nothing removed"
        set_policy(tmp_path, Policy(trash_days=0))
        told = supervised(lambda: not queue.page(deleted=True).jobs)
        assert "job a: purge, in the trash since" in told and kept.is_dir() and not folder.exists()
        assert not list(folders.trash(tmp_path).iterdir())
        with pytest.raises(JobUnknown):
            queue.job("a")

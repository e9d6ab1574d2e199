# SPDX-License-Identifier: Apache-2.0
"""One end to an attempt, one result to a job: whoever dies, freezes, wakes late or has a wrong clock."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from dreamlab.jobs.engines.bucket import Bucket, ObjectStore
from dreamlab.jobs.engines.ledger import KILLED, HeldJob, Ledger, Task
from dreamlab.jobs.engines.simulated import JobRows, PlainStore, Simulation
from tests.jobs.engines.s3 import S3Server, Weather

TASK = Task(0, 7, {"prompt": "a red mushroom"})


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture(params=["shelf", "memory", "folder", "s3", "s3 in bad weather"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "shelf":
        return PlainStore()
    pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")
    if request.param.startswith("s3"):
        server: S3Server = request.getfixturevalue("s3")
        if "bad" in request.param:
            server.weather = Weather(fails=0.1, loses=0.1, slow=0.1, delay=0.05)
        return ObjectStore(server.place(), pause=lambda seconds: None)
    return ObjectStore("memory://" if request.param == "memory" else str(tmp_path / "store"))


def pair(bucket: Bucket) -> tuple[Ledger, Ledger, Clock, Clock]:
    one, other = Clock(), Clock()
    return Ledger(bucket, "one", one), Ledger(bucket, "other", other), one, other


def result_of(bucket: Bucket, task: Task = TASK) -> object:
    data = bucket.get(f"done/{task.key}")
    return None if data is None else json.loads(data)


def test_two_cannot_take_one_attempt(bucket: Bucket) -> None:
    one, other, _, _ = pair(bucket)
    held = one.take(TASK, 0)
    assert held is not None and (held.attempt, held.worker) == (1, "one")
    assert other.take(TASK, 0) is None
    assert one.open_rows(0, 9) == {**{row: 0 for row in range(9)}, 7: 1}


def test_a_silent_holder_is_superseded_and_its_late_commit_changes_nothing(bucket: Bucket) -> None:
    one, other, _, clock = pair(bucket)
    first = one.take(TASK, 0)
    assert first is not None and one.beat(first, 0)
    assert other.take(TASK, 1) is None, "seen once: the lease begins now"
    clock.time += 89
    assert other.take(TASK, 1) is None
    clock.time += 1
    second = other.take(TASK, 1)
    assert second is not None and second.attempt == 2
    assert not one.beat(first, 1), "the sleeper hears it at its next beat"
    assert not one.finish(first, {"of": "first"}) and result_of(bucket) is None
    assert other.finish(second, {"of": "second"})
    assert not one.finish(first, {"of": "first"}) and not one.fail(first, 6, "late")
    assert result_of(bucket) == {"attempt": 2, "results": {"of": "second"}}
    assert one.open_rows(0, 8) == {row: 0 for row in range(7)}


def test_a_beat_keeps_a_claim_whatever_the_clocks_say(bucket: Bucket) -> None:
    one, other, slow, fast = pair(bucket)
    fast.time = 1e9
    held = one.take(TASK, 0)
    assert held is not None
    for i in range(20):
        assert one.beat(held, i)
        fast.time += 60
        slow.time += 0.001
        assert other.take(TASK, 1) is None
    assert one.finish(held, {})


def test_a_death_between_the_end_and_what_follows_is_made_good(bucket: Bucket) -> None:
    one, other, _, _ = pair(bucket)
    held = one.take(TASK, 0)
    assert held is not None and one._ended(held, {"end": "done", "results": {"of": 1}})  # and then the machine was gone
    assert result_of(bucket) is None and other.take(TASK, 1) is None
    assert result_of(bucket) == {"attempt": 1, "results": {"of": 1}}


def test_a_paused_attempt_goes_on_at_once(bucket: Bucket) -> None:
    one, other, _, _ = pair(bucket)
    held = one.take(TASK, 0)
    assert held is not None and one.pause(held)
    again = other.take(TASK, 1)
    assert again is not None and again.attempt == 2


def test_what_fails_by_itself_is_given_up_and_what_is_forgiven_is_tried_again(bucket: Bucket) -> None:
    one, other, _, _ = pair(bucket)
    held = one.take(TASK, 0)
    assert held is not None and one.fail(held, 6, "diverged")
    assert other.take(TASK, 1) is None and 7 not in other.open_rows(0, 9)
    assert other.forgive(TASK) and not other.forgive(TASK)
    assert other.open_rows(0, 9)[7] == 1
    again = other.take(TASK, 1)
    assert again is not None and other.finish(again, {"of": 2})
    assert result_of(bucket) == {"attempt": 2, "results": {"of": 2}}


def test_a_job_that_kills_its_workers_is_poison_after_three() -> None:
    shelf = PlainStore()
    world = Simulation(shelf, JobRows({0: 5}), lambda held: 2, lambda held: "dies" if held.task.row == 3 else "ends")
    world.hire("a")
    world.hire("b")
    world.run()
    assert world.started["00000/0003"] == 3
    assert json.loads(shelf.held["poison/00000/0003"])["code"] == KILLED
    assert sum(key.startswith("done/") for key in shelf.held) == 4


@pytest.mark.parametrize("seed", range(4))
def test_every_job_ends_once_under_deaths_freezes_and_wrong_clocks(seed: int) -> None:
    """Attempts die, freeze for five leases and wake to commit; clocks are minutes apart."""
    luck = random.Random(seed)
    shelf, rows = PlainStore(), JobRows({0: 60, 1: 40})
    fates = Counter[str]()

    def minutes(held: HeldJob) -> float:
        return random.Random(f"{seed} {held.task.key}").uniform(1, 6)

    def fate(held: HeldJob) -> str:
        chosen = luck.choices(["ends", "dies", "freezes"], [0.7, 0.15, 0.15])[0] if held.attempt < 3 else "ends"
        fates[chosen] += 1
        return chosen

    world = Simulation(shelf, rows, minutes, fate)
    for i in range(12):
        world.hire(f"w{i}", luck.uniform(-600, 600))
    world.run()
    done = {key: json.loads(data) for key, data in shelf.held.items() if key.startswith("done/")}
    assert len(done) == 100 and not any(key.startswith("poison/") for key in shelf.held)
    assert fates["dies"] and fates["freezes"] and world.late, "the world was too kind to show anything"
    for key, said in done.items():
        job = key.removeprefix("done/")
        assert said["results"] == {"of": f"{job}/{said['attempt']}"}
        ends = [json.loads(shelf.held[end])["end"] for end in shelf.held if end.startswith(f"ends/{job}/")]
        assert ends.count("done") == 1


def test_a_late_commit_is_refused_each_time() -> None:
    world = Simulation(
        PlainStore(), JobRows({0: 1}), lambda held: 3, lambda held: "freezes" if held.attempt == 1 else "ends"
    )
    world.hire("sleeper")
    world.hire("other")
    world.run()
    assert world.late == ["00000/0000/1"] and world.started["00000/0000"] == 2
    assert result_of(world.bucket, Task(0, 0)) == {"attempt": 2, "results": {"of": "00000/0000/2"}}

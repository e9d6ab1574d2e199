# SPDX-License-Identifier: Apache-2.0
"""Who is next, held against a model that is a few lists of Python: lanes, priorities, owners in turn, places, and the
bounded head start of what a worker holds already."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dreamlab.jobs.picking import AHEAD, MOST_PASSED
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import BACKGROUND, LANES, NORMAL, Job

OWNERS, WARMTH = ("ann", "bob", "cyd"), ("", "sd", "toybox")


@dataclass
class Waits:
    """A job of the model."""

    id: str
    owner: str
    lane: str
    priority: int
    guidance: str
    passed: int = 0


@dataclass
class Model:
    """One list, in the order of places within each lane and priority."""

    line: list[Waits] = field(default_factory=list)
    running: list[Waits] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    turn: int = 0

    def group(self, lane: str, priority: int) -> list[Waits]:
        return [job for job in self.line if (job.lane, job.priority) == (lane, priority)]

    def head_group(self) -> list[Waits]:
        return self.group(*min(((job.lane, job.priority) for job in self.line), key=self.rank))

    @staticmethod
    def rank(group: tuple[str, int]) -> tuple[int, int]:
        return LANES.index(group[0]), -group[1]

    def next(self, holds: set[str]) -> Waits | None:
        if not self.line:
            return None
        group = self.head_group()
        owners = list(dict.fromkeys(job.owner for job in group))
        owner = min(owners, key=lambda each: self.served.get(each, 0))  # the first of those who are even
        mine = [job for job in group if job.owner == owner][: AHEAD + 1]
        first = mine[0]
        warm = [job for job in mine if job.guidance and job.guidance in holds]
        chosen = first
        if first.guidance and first.guidance not in holds and first.passed < MOST_PASSED and warm:
            chosen, first.passed = warm[0], first.passed + 1
        self.turn += 1
        self.served[owner] = self.turn
        self.line.remove(chosen)
        chosen.passed = 0
        self.running.append(chosen)
        return chosen

    def order(self) -> list[str]:
        """As cold workers would claim all of it."""
        copy = Model(
            [Waits(j.id, j.owner, j.lane, j.priority, "") for j in self.line], [], dict(self.served), self.turn
        )
        return [job.id for job in iter(lambda: copy.next(set()), None)]


class Lines(RuleBasedStateMachine):
    """The queue and the model are asked the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.queue = Queue(Path(self.folder.name))
        with self.queue.data.reading() as db:  # the power stays on in this test
            db.execute("PRAGMA synchronous = OFF")
        self.model, self.count = Model(), 0

    def teardown(self) -> None:
        self.queue.close()
        self.folder.cleanup()

    @rule(
        owner=st.sampled_from(OWNERS),
        lane=st.sampled_from(LANES),
        priority=st.integers(-1, 1),
        guidance=st.sampled_from(WARMTH),
        many=st.integers(1, 6),
    )
    def submit(self, owner: str, lane: str, priority: int, guidance: str, many: int) -> None:
        for _ in range(many):
            self.count += 1
            job = Waits(f"j{self.count}", owner, lane, priority, guidance)
            self.queue.submit(Job(job.id, "dream", owner, lane=lane, priority=priority, guidance=guidance))
            self.model.line.append(job)

    @rule(holds=st.sets(st.sampled_from(WARMTH[1:])))
    def claim(self, holds: set[str]) -> None:
        expected, found = self.model.next(holds), self.queue.claim(1, "cpu", holds)
        assert (found and found.id) == (expected and expected.id)

    @precondition(lambda self: len(self.model.line) > 1)
    @rule(data=st.data(), before=st.booleans())
    def move_beside(self, data: st.DataObject, before: bool) -> None:
        moving, beside = (data.draw(st.sampled_from(self.model.line)) for _ in range(2))
        self.queue.move(moving.id, **{"before" if before else "after": beside.id})
        if moving is beside:
            return
        self.model.line.remove(moving)
        moving.lane, moving.priority, moving.passed = beside.lane, beside.priority, 0
        at = self.model.line.index(beside)
        self.model.line.insert(at if before else at + 1, moving)

    @precondition(lambda self: self.model.line)
    @rule(data=st.data(), lane=st.sampled_from([None, *LANES]), priority=st.sampled_from([None, -1, 0, 1]))
    def move_away(self, data: st.DataObject, lane: str | None, priority: int | None) -> None:
        job = data.draw(st.sampled_from(self.model.line))
        self.queue.move(job.id, lane=lane, priority=priority)
        self.model.line.remove(job)
        job.lane, job.priority, job.passed = lane or job.lane, job.priority if priority is None else priority, 0
        self.model.line.append(job)

    @precondition(lambda self: self.model.line)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.model.line))
        self.queue.cancel(job.id)
        self.model.line.remove(job)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.model.running))
        self.queue.finish(job.id, self.queue.job(job.id).attempt, 0)
        self.model.running.remove(job)

    @invariant()
    def everybody_knows_their_position(self) -> None:
        order = self.model.order()
        assert self.queue.positions() == {job: i for i, job in enumerate(order, 1)}


TestLines = Lines.TestCase
TestLines.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


def opened(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def submit(queue: Queue, *ids: str, **more: object) -> None:
    for id in ids:
        queue.submit(Job(id, "dream", **more))  # type: ignore[arg-type]


def claims(queue: Queue, count: int, *holds: str) -> list[str]:
    return [job.id for _ in range(count) if (job := queue.claim(1, "cpu", holds)) is not None]


def test_owners_take_turns_however_much_one_asks(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        submit(queue, *(f"a{i}" for i in range(9)), owner="ann")
        submit(queue, "b0", "b1", owner="bob")
        assert claims(queue, 6) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_the_background_waits_for_all_else(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        submit(queue, "slow", lane=BACKGROUND, priority=100)
        submit(queue, "low", lane=NORMAL, priority=-100)
        assert claims(queue, 3) == ["low", "slow"]


def test_a_cold_job_is_let_by_so_often_and_no_more(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        submit(queue, "cold", guidance="sdxl")
        submit(queue, *(f"w{i}" for i in range(30)), guidance="sd")
        order = claims(queue, 12, "sd")
        assert order[:MOST_PASSED] == [f"w{i}" for i in range(MOST_PASSED)] and order[MOST_PASSED] == "cold"


def test_no_one_looks_further_ahead_than_allowed(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        submit(queue, *(f"c{i}" for i in range(AHEAD + 1)), guidance="sdxl")
        submit(queue, "far", guidance="sd")
        assert claims(queue, 2, "sd") == ["c0", "far"], "the first is nine places before it, the second eight"


def test_warmth_jumps_no_priority_and_no_owner(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        submit(queue, "first", owner="ann", guidance="sdxl", priority=1)
        submit(queue, "warm", owner="ann", guidance="sd")
        assert claims(queue, 1, "sd") == ["first"]
        submit(queue, "bobs", owner="bob", guidance="sdxl")
        submit(queue, "another", owner="ann", guidance="sd")
        assert claims(queue, 1, "sd") == ["bobs"], "it is bob's turn, whatever is warm"


def test_what_comes_back_is_before_what_came_later(tmp_path: Path) -> None:
    """Fault 20: order after a restart, though the line was empty in between."""
    with opened(tmp_path) as queue:
        submit(queue, "a", "b")
        assert claims(queue, 2) == ["a", "b"]
        submit(queue, "c")
        for id in ("b", "a"):
            queue.supersede(id, 1, -9)
    with opened(tmp_path) as queue:
        assert claims(queue, 3) == ["a", "b", "c"]


def test_a_hundred_moves_into_one_gap(tmp_path: Path) -> None:
    """Halved again and again, the room between two places ends; then they are numbered anew."""
    with opened(tmp_path) as queue:
        with queue.data.reading() as db:
            db.execute("PRAGMA synchronous = OFF")
        submit(queue, "first", "x", "y")
        for i in range(100):
            moved, other = "xy"[i % 2], "xy"[(i + 1) % 2]
            queue.move(moved, after="first")
            assert list(queue.positions()) == ["first", moved, other]
        submit(queue, "late")
        assert list(queue.positions())[-1] == "late"

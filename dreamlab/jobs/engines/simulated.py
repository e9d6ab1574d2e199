# SPDX-License-Identifier: Apache-2.0
"""A simulated world for the worker's own decisions: one clock, many workers, processes that die, freeze and wake late.
Tests and `benchmarks/clusters.py` run in it."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from dreamlab.jobs.engines.ledger import BEAT_S, HeldJob, Ledger, Task
from dreamlab.jobs.engines.pull import AttemptOutcome, Rest, Step, pull


class PlainStore:
    """A store in memory, in the plainest words there are: what obstore's are held against."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self._of_shard: dict[str, dict[str, None]] = defaultdict(dict)  # by their first two names: the most there is

    def create(self, key: str, data: bytes) -> bool:
        self.asked["create"] += 1
        if key in self.held:
            return False
        self._keep(key, data)
        return True

    def put(self, key: str, data: bytes) -> None:
        self.asked["put"] += 1
        self._keep(key, data)

    def _keep(self, key: str, data: bytes) -> None:
        if key not in self.held:
            self._of_shard[shard_of(key)][key] = None
        self.held[key] = data

    def get(self, key: str) -> bytes | None:
        self.asked["get"] += 1
        return self.held.get(key)

    def names(self, prefix: str) -> list[str]:
        """In any order: who asks must not care."""
        self.asked["names"] += 1
        found = self._of_shard.get(shard_of(prefix), {})
        return list(found) if prefix.count("/") == 2 else [key for key in found if key.startswith(prefix)]

    def marks(self, prefix: str) -> dict[str, object]:
        return {key: self.held[key] for key in self.names(prefix)}

    def delete(self, key: str) -> None:
        if self.held.pop(key, None) is not None:
            del self._of_shard[shard_of(key)][key]

    def count(self, prefix: str) -> int:
        return sum(len(keys) for shard, keys in self._of_shard.items() if shard.startswith(prefix))


def shard_of(key: str) -> str:
    """What is before the second slash, with it; of a key with fewer, what is before the last."""
    first, _, rest = key.partition("/")
    second, slash, _ = rest.partition("/")
    return f"{first}/{second}/" if slash else f"{first}/"


@dataclass
class JobRows:
    """A manifest of so many jobs."""

    counts: dict[int, int]

    def shards(self) -> dict[int, int]:
        return self.counts

    def task(self, shard: int, row: int) -> Task:
        return Task(shard, row, {"prompt": f"{shard} {row}"})


@dataclass
class Life:
    """A worker of the simulation."""

    name: str
    ledger: Ledger
    steps: Generator[Step, AttemptOutcome | None, int]
    skew: float
    held: HeldJob | None = None
    alive: bool = True
    frozen_until: float = 0.0
    since: float = 0.0  # of the attempt it holds
    beats: int = 0
    fenced: bool = False


@dataclass
class Simulation:
    """Events in the order of time; `minutes` says how long a job takes, `fate` what becomes of an attempt."""

    bucket: PlainStore
    tasks: JobRows
    minutes: Callable[[HeldJob], float]
    fate: Callable[[HeldJob], str] = lambda held: "ends"  # ends, dies, freezes, fails
    lease: float = 90.0
    now: float = 0.0
    ended: float = 0.0  # when the last job did
    wasted: float = 0.0
    lives: list[Life] = field(default_factory=list)
    started: Counter[str] = field(default_factory=Counter)
    late: list[str] = field(default_factory=list)  # attempts that came to commit after they were superseded
    latency: Callable[[], float] = lambda: 0.0  # seconds that a request takes
    saves: float = 0.0  # seconds between checkpoints in the store; 0: an attempt begins from nothing
    waited: float = 0.0  # seconds of workers for the store
    commits: list[float] = field(default_factory=list)  # when jobs were done
    _saved: dict[str, float] = field(default_factory=dict)
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def at(self, time: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (time, self._count, what))

    def hire(self, name: str, skew: float = 0.0) -> None:
        """A worker whose clock is `skew` seconds wrong."""
        ledger = Ledger(self.bucket, name, lambda: self.now + skew, self.lease)
        life = Life(name, ledger, pull(ledger, self.tasks), skew)
        self.lives.append(life)
        self.at(self.now, lambda: self._go(life, None))

    def run(self, most: float = 1e9) -> None:
        while self._queue and self.now < most:
            self.now, _, what = heapq.heappop(self._queue)
            what()

    def _go(self, life: Life, outcome: AttemptOutcome | None) -> None:
        if not life.alive:
            return
        before = self.bucket.asked.total()
        try:
            step = life.steps.send(outcome)
        except StopIteration:
            life.alive = False
            return
        waits = self.latency() * (self.bucket.asked.total() - before)
        self.waited += waits
        if isinstance(step, Rest):
            self.at(self.now + waits + step.seconds, lambda: self._go(life, None))
        else:
            self.at(self.now + waits, lambda: self._begin(life, step))

    def _begin(self, life: Life, step: HeldJob) -> None:
        if not life.alive:
            return
        self.started[step.task.key] += 1
        fate, seconds = self.fate(step), 60 * self.minutes(step) - self._saved.get(step.task.key, 0.0)
        life.held, life.fenced, life.since = step, False, self.now
        self._beat(life, step)
        if fate == "dies":
            self.at(self.now + seconds / 2, lambda: self.die(life, step))
        elif fate == "freezes":  # it neither beats nor works for far longer than a lease, then goes on
            life.frozen_until = self.now + seconds / 2 + 5 * self.lease
            late = AttemptOutcome(0, {"of": step.key})
            self.at(life.frozen_until + seconds / 2, lambda: self._end(life, step, late, seconds))
        else:
            ended = AttemptOutcome(0, {"of": step.key}) if fate == "ends" else AttemptOutcome(6, why="diverged")
            self.at(self.now + seconds, lambda: self._end(life, step, ended, seconds))

    def _beat(self, life: Life, held: HeldJob) -> None:
        if not life.alive or life.held is not held:
            return
        if self.now >= life.frozen_until:
            life.fenced = life.fenced or not life.ledger.beat(held, life.beats)
            life.beats += 1
        self.at(max(self.now + BEAT_S, life.frozen_until), lambda: self._beat(life, held))

    def _end(self, life: Life, held: HeldJob, outcome: AttemptOutcome, seconds: float) -> None:
        if not life.alive:
            return
        before = self.bucket.get(f"ends/{held.key}")
        if before is not None:
            self.late.append(held.key)
            self.wasted += seconds
        else:
            self.commits.append(self.now)
        life.held, self.ended = None, self.now
        self._go(life, outcome)

    def die(self, life: Life, held: HeldJob | None, back: float = 0.0) -> None:
        """Its process is gone, at once; the engine begins another `back` seconds later. `held`: only if it still holds
        that."""
        if not life.alive or (held is not None and life.held is not held):
            return
        life.alive = False
        if life.held is not None:
            worked, key = self.now - life.since, life.held.task.key
            kept = worked // self.saves * self.saves if self.saves else 0.0
            self._saved[key] = self._saved.get(key, 0.0) + kept
            self.wasted += worked - kept
        self.at(self.now + back, lambda: self.hire(f"{life.name}'", life.skew))

# SPDX-License-Identifier: Apache-2.0
"""Which job a worker takes next, at the price of few looks into the store."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from dreamlab.jobs.engines.ledger import HeldJob, Ledger, Task

AHEAD = 32  # jobs among which a warm one is looked for: a cold one waits for no more than the rest of its shard
MISSES = 3  # claims in a row that another had, before a shard is looked at again
WATCHED = 8  # shards


class Tasks(Protocol):
    """The manifest."""

    def shards(self) -> Mapping[int, int]:
        """Number -> how many jobs."""

    def task(self, shard: int, row: int) -> Task: ...


class Search:
    """What a worker takes next. Free jobs first: those of the shard that it works in, as it last saw them, then of any
    other; a shard without a free job never has one again. Then what others had and do not hold any more, in a few
    shards that it watches: each look costs lists, and all together watch them all."""

    def __init__(self, ledger: Ledger, tasks: Tasks, dice: random.Random, warm: Callable[[Task], bool]) -> None:
        self.ledger, self.tasks, self.dice, self.warm = ledger, tasks, dice, warm
        self.left = dict(tasks.shards())  # shard -> jobs, where not all is known to be ended
        self.unseen = self._in_own_order(self.left)  # shards that may have free jobs; the last is at hand
        self.free: list[int] = []  # rows of the shard at hand that nobody had
        self.watched: dict[int, dict[int, int]] = {}  # shard -> its open rows when it was last seen

    def next(self, leave: Callable[[], bool]) -> HeldJob | None:
        """None: there is nothing now, or it must leave."""
        while self.unseen and not leave():
            shard, missed = self.unseen[-1], 0
            while self.free and missed < MISSES:
                if (held := self.ledger.take(self._free_task(shard), 0)) is not None:
                    return held
                missed += 1
            taken = self.ledger.claimed(shard)
            self.free = self._in_own_order(row for row in range(self.left[shard]) if row not in taken)
            if not self.free:
                self.unseen.pop()
        return None if leave() else self._ripe(leave)

    def _free_task(self, shard: int) -> Task:
        """The next that nobody has; of a few, one whose guidance this worker has loaded."""
        few = (self.tasks.task(shard, row) for row in self.free[: -AHEAD - 1 : -1])
        found = next(filter(self.warm, few), None) or self.tasks.task(shard, self.free[-1])
        self.free.remove(found.row)
        return found

    def _ripe(self, leave: Callable[[], bool]) -> HeldJob | None:
        seen = set[int]()
        while (shard := self._watch_another(seen)) is not None and not leave():
            seen.add(shard)
            known = self.watched.get(shard, dict.fromkeys(range(self.left[shard]), 0))
            rows = self.watched[shard] = self.ledger.still_open(shard, known)
            if not rows:
                del self.left[shard], self.watched[shard]
                continue
            for row in self._in_own_order(self.ledger.ripe(shard, rows)):
                if (held := self.ledger.take(self.tasks.task(shard, row), rows[row])) is not None:
                    return held
        return None

    def _watch_another(self, seen: Collection[int]) -> int | None:
        """A watched shard that was not looked at now, or a new one where too few are watched."""
        for shard in self.watched:
            if shard not in seen:
                return shard
        others = self.left.keys() - self.watched.keys() if len(self.watched) < WATCHED else ()
        return self.dice.choice(sorted(others)) if others else None

    def _in_own_order(self, numbers: Iterable[int]) -> list[int]:
        """Workers that look at the same should not meet at one."""
        mixed = list(numbers)
        self.dice.shuffle(mixed)
        return mixed

# SPDX-License-Identifier: Apache-2.0
"""What is decided in the store, by creating what is not there.

    manifest/SSSSS.jsonl    a shard: at most a thousand jobs, a line each, never changed
    claims/SSSSS/J/A        attempt A of job J belongs to the worker in it
    beats/SSSSS/J/A         a number that this worker changes as long as it lives
    ends/SSSSS/J/A          how attempt A ended: done, failed, or superseded by who takes the next one
    runs/SSSSS/J/A/...      checkpoints and results of attempt A
    done/SSSSS/J            which attempt's results are the job's; poison/SSSSS/J: given up, and why
    again/SSSSS/J/A         a person wants what was given up after attempt A tried again

An attempt has one end. To commit its results a worker creates `ends/.../A` saying done; to take over, another creates
the same key saying superseded. One of both fails, so a worker that wakes up late changes nothing, whatever it believes
of the time. `done` follows from an end that says done; if its writer died in between, whoever looks next writes it.
A claim is stale when its beat has not changed for a lease *on the looker's own clock*: no two clocks are compared.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

from dreamlab.core.files import Json
from dreamlab.jobs.engines.bucket import Bucket
from dreamlab.run.crash import point

LEASE_S, BEAT_S = 90.0, 30.0
MOST_ATTEMPTS = 3  # that something killed; then the job is poison
KILLED = 137
DONE, FAILED, SUPERSEDED, PAUSED = "done", "failed", "superseded", "paused"


@dataclass(frozen=True)
class Task:
    """A line of the manifest."""

    shard: int
    row: int
    wanted: Json = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.shard:05d}/{self.row:04d}"


@dataclass(frozen=True)
class HeldJob:
    """An attempt that is ours."""

    task: Task
    attempt: int
    worker: str

    @property
    def key(self) -> str:
        return f"{self.task.key}/{self.attempt}"

    @property
    def prefix(self) -> str:
        """Of its checkpoints and results."""
        return f"runs/{self.key}/"


def row_of(key: str) -> int:
    """The number that a key ends with."""
    return int(key.rpartition("/")[2])


def _last_of(claims: Container[str], prefix: str, attempt: int) -> int:
    """Attempts follow one another without a gap."""
    while f"{prefix}{attempt + 1}" in claims:
        attempt += 1
    return attempt


def encoded(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()


class Ledger:
    """The store as one worker sees it; `now` is its own clock, which only has to go forward."""

    def __init__(self, bucket: Bucket, worker: str, now: Callable[[], float], lease: float = LEASE_S) -> None:
        self.bucket, self.worker, self.now, self.lease = bucket, worker, now, lease
        self._beats: dict[str, tuple[object, float]] = {}  # attempt -> the mark of its last beat, and since when

    # ---- looking ------------------------------------------------------------------------------------------------
    def claimed(self, shard: int) -> set[int]:
        """Rows of a shard that somebody took."""
        return {int(key.split("/")[2]) for key in self.bucket.names(f"claims/{shard:05d}/")}

    def open_rows(self, shard: int, rows: int) -> dict[int, int]:
        """Rows of a shard that are neither done nor given up -> the newest attempt at each, 0: none yet."""
        return self.still_open(shard, dict.fromkeys(range(rows), 0))

    def still_open(self, shard: int, known: Mapping[int, int]) -> dict[int, int]:
        """Of rows that were open, with the newest attempt known then, those that are, with the newest now."""
        place = f"{shard:05d}"
        done, poison = (set(self.bucket.names(f"{kind}/{place}/")) for kind in ("done", "poison"))
        rows = [r for r in known if f"done/{place}/{r:04d}" not in done and f"poison/{place}/{r:04d}" not in poison]
        claims = set(self.bucket.names(f"claims/{place}/")) if rows else set()
        return {row: _last_of(claims, f"claims/{place}/{row:04d}/", known[row]) for row in rows}

    def ripe(self, shard: int, rows: Mapping[int, int]) -> list[int]:
        """Of open rows that somebody took, those whose newest attempt is ended or silent: two lists, however many."""
        ends, beats = set(self.bucket.names(f"ends/{shard:05d}/")), self.bucket.marks(f"beats/{shard:05d}/")
        keys = {row: f"{shard:05d}/{row:04d}/{attempt}" for row, attempt in rows.items() if attempt}
        return [
            row for row, key in keys.items() if f"ends/{key}" in ends or self._unchanged(key, beats.get(f"beats/{key}"))
        ]

    # ---- taking -------------------------------------------------------------------------------------------------
    def take(self, task: Task, newest: int) -> HeldJob | None:
        """The job's next attempt, if it is free to take now: nobody has it, or its holder ended or went silent."""
        if newest and not self._over(task, newest):
            return None
        held = HeldJob(task, newest + 1, self.worker)
        said = {"worker": self.worker, "nonce": secrets.token_hex(8), "lease": self.lease}
        if not self.bucket.create(f"claims/{held.key}", encoded(said)):
            return None
        point("batch.claimed", task.key)
        return held

    def _over(self, task: Task, attempt: int) -> bool:
        """Whether attempt `attempt` is ended, by us if its holder is silent; settles what follows from it."""
        key = f"{task.key}/{attempt}"
        end = self._end(key)
        if end is None:
            if not self._silent(key):
                return False
            said = {"end": SUPERSEDED, "by": self.worker, "nonce": secrets.token_hex(8)}
            if not self.bucket.create(f"ends/{key}", encoded(said)):
                end = self._end(key)
        self._beats.pop(key, None)
        kind = SUPERSEDED if end is None else end["end"]
        if kind == DONE:
            self._settle(task, attempt, (end or {}).get("results", {}))
            return False
        forgiven = self._forgiven(task) if kind in (FAILED, SUPERSEDED) else 0
        if kind == FAILED and end is not None and attempt > forgiven:
            self._give_up(task, attempt, int(end["code"]), str(end["why"]))
            return False
        if kind == SUPERSEDED and self._deaths(task, forgiven, attempt) >= MOST_ATTEMPTS:
            self._give_up(task, attempt, KILLED, f"its worker died {MOST_ATTEMPTS} times")
            return False
        return True

    def _silent(self, key: str) -> bool:
        """Looked at once more, and read: what is only listed a network's file system may know from a minute ago."""
        self.bucket.get(f"beats/{key}")
        return self._unchanged(key, self.bucket.marks(f"beats/{key.rpartition('/')[0]}/").get(f"beats/{key}"))

    def _unchanged(self, key: str, mark: object) -> bool:
        """For a lease, on this clock, since it was first seen so."""
        said, since = self._beats.get(key, (None, 0.0))
        if key not in self._beats or said != mark:
            self._beats[key] = mark, self.now()
            return False
        return self.now() - since >= self.lease

    def _end(self, key: str) -> Json | None:
        data = self.bucket.get(f"ends/{key}")
        return None if data is None else json.loads(data)

    def _deaths(self, task: Task, forgiven: int, attempts: int) -> int:
        ends = (self._end(f"{task.key}/{attempt}") for attempt in range(forgiven + 1, attempts + 1))
        return sum(end is not None and end["end"] == SUPERSEDED for end in ends)

    def _forgiven(self, task: Task) -> int:
        """The attempts up to which a person said: try again."""
        return max((row_of(key) for key in self.bucket.names(f"again/{task.key}/")), default=0)

    def _give_up(self, task: Task, attempt: int, code: int, why: str) -> None:
        self.bucket.create(f"poison/{task.key}", encoded({"attempt": attempt, "code": code, "why": why}))

    def forgive(self, task: Task) -> bool:
        """A job that was given up is open again; its attempts so far count no more."""
        given_up = self.bucket.get(f"poison/{task.key}")
        if given_up is None:
            return False
        self.bucket.create(f"again/{task.key}/{json.loads(given_up)['attempt']}", b"{}")
        self.bucket.delete(f"poison/{task.key}")
        return True

    # ---- holding ------------------------------------------------------------------------------------------------
    def beat(self, held: HeldJob, count: int) -> bool:
        """Alive; False: the attempt was superseded, and nothing of it counts any more."""
        if self.bucket.get(f"ends/{held.key}") is not None:
            return False
        self.bucket.put(f"beats/{held.key}", str(count).encode())
        return True

    def finish(self, held: HeldJob, results: Json) -> bool:
        """Results are in the store: they are the job's from here on. False: too late, and nothing is changed."""
        if not self._ended(held, {"end": DONE, "results": results}):
            return False
        point("batch.ended", held.task.key)
        return self._settle(held.task, held.attempt, results)

    def fail(self, held: HeldJob, code: int, why: str) -> bool:
        """It would fail again: given up at once."""
        ended = self._ended(held, {"end": FAILED, "code": code, "why": why})
        if ended:
            self._give_up(held.task, held.attempt, code, why)
        return ended

    def pause(self, held: HeldJob) -> bool:
        """Stopped with a checkpoint in the store: whoever comes next goes on, and no lease is waited for."""
        return self._ended(held, {"end": PAUSED})

    def _ended(self, held: HeldJob, end: Json) -> bool:
        said = {**end, "worker": self.worker, "attempt": held.attempt}
        return self.bucket.create(f"ends/{held.key}", encoded(said))

    def _settle(self, task: Task, attempt: int, results: Json) -> bool:
        """Of one end follow the same bytes, whoever writes them."""
        self.bucket.create(f"done/{task.key}", encoded({"attempt": attempt, "results": results}))
        return True

# SPDX-License-Identifier: Apache-2.0
"""What the queue's calls take with a hundred thousand jobs in it, of which a thousand wait, and how long a disk's flush
takes beside them: each change is one."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dreamlab.jobs.queue import Queue
from dreamlab.jobs.rows import COLUMNS, row_of
from dreamlab.jobs.states import SUCCEEDED, Job
from dreamlab.metrics.figures import Check, report

MANY, WAITING, OWNERS, REPEATS = 100_000, 1000, 10, 60
PAGE_FLOOR, SEARCH_FLOOR = 300.0, 1000.0  # ms; what a person feels, and waits for


def fill(queue: Queue, many: int, waiting: int) -> None:
    """Jobs of ten owners, most of them done long ago, and their changes; the newest wait."""
    usual = row_of(Job("", "dream", prompt="a red mushroom with a white stem", state=SUCCEEDED))
    every = max(many // waiting, 2)
    own = {
        "id": "printf('j%011d', i)",
        "owner": f"'o' || (i % {OWNERS})",
        "run": "printf('r-j%011d', i)",
        "state": f"CASE i % {every} WHEN 0 THEN 'queued' WHEN 1 THEN 'failed' ELSE 'succeeded' END",
        "place": "i",
        "priority": "i % 3",
        "batch": "CASE i % 2 WHEN 1 THEN 'b' || (i / 50) ELSE '' END",
    }
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {many - 1})"
    values = ", ".join(own.get(name, f":{name}") for name in COLUMNS)
    change = f"printf('j%011d', i), 'o' || (i % {OWNERS}), 'succeeded', 1, 'finished', '2026'"
    with queue.data.writing() as db:
        db.execute(f"INSERT INTO jobs ({', '.join(COLUMNS)}) {numbers} SELECT {values} FROM n", usual)
        db.execute(f"INSERT INTO changes (job, owner, state, attempt, what, time) {numbers} SELECT {change} FROM n")


def milliseconds(call: Callable[[int], object], repeats: int = REPEATS) -> list[float]:
    found = []
    for i in range(repeats):
        began = time.perf_counter()
        call(i)
        found.append(1e3 * (time.perf_counter() - began))
    return found


def flush(folder: Path) -> Callable[[int], object]:
    handle = os.open(folder / "flushed", os.O_RDWR | os.O_CREAT)

    def once(i: int) -> None:
        os.pwrite(handle, b"x" * 4096, 4096 * i)
        os.fsync(handle)

    return once


def check(name: str, times: Sequence[float], floor: float | None = None) -> Check:
    at = statistics.quantiles(times, n=20)[-1]
    more = {"median_ms": round(statistics.median(times), 2), "calls": len(times)}
    return Check(name, round(at, 2), "ms", floor, "lower", "95th percentile", more)


def checks(folder: Path) -> list[Check]:
    with Queue(folder) as queue:
        fill(queue, MANY, WAITING)
        beside = milliseconds(flush(folder))
        queue.enlist(1, "cpu", 1, 1, "boot")

        def claim(i: int) -> None:
            job = queue.claim(1, "cpu", ["sd"])
            assert job is not None
            queue.finish(job.id, job.attempt, 0)

        claims = milliseconds(claim)
        submits = milliseconds(lambda i: queue.submit(Job(f"new{i}", "dream", owner="n", key=str(i))))
        return [
            check("flush", beside),
            check("submit", submits),
            check("claim_and_finish", claims),
            check("heartbeat", milliseconds(lambda i: queue.beat(1))),
            check("page", milliseconds(lambda i: queue.page(owner=f"o{i % OWNERS}")), PAGE_FLOOR),
            check("page_of_failed", milliseconds(lambda i: queue.page(states=["failed"])), PAGE_FLOOR),
            check("page_by_words", milliseconds(lambda i: queue.page(text="nothing of it"), 20), SEARCH_FLOOR),
            check("positions", milliseconds(lambda i: queue.positions()), PAGE_FLOOR),
            check("changes", milliseconds(lambda i: queue.changes(MANY - 100, f"o{i % OWNERS}")), PAGE_FLOOR),
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if report(checks(Path(folder)), given.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

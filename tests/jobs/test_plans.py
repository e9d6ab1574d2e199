# SPDX-License-Identifier: Apache-2.0
"""At a hundred thousand jobs every question is a look into an index: what SQLite itself says it does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from benchmarks.job_queue import fill
from dreamlab.jobs import listing, picking
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import STATES, SUCCEEDED, Job

MANY = 100_000


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    """Mostly finished jobs of ten owners, a few hundred that wait."""
    with Queue(tmp_path_factory.mktemp("many")) as opened:
        fill(opened, MANY, 300)
        yield opened


def steps(db: sqlite3.Connection, query: str, values: object) -> list[str]:
    return [row["detail"] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values)]


def watched(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Every statement that runs, as it runs."""
    seen: list[tuple[str, object]] = []
    with queue.data.reading() as db:

        class Watching:
            in_transaction = property(lambda self: db.in_transaction)

            def execute(self, query: str, values: object = ()) -> sqlite3.Cursor:
                if query.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE")):
                    seen.append((query, values))
                return db.execute(query, values)  # type: ignore[arg-type]

        monkeypatch.setattr(queue.data, "_open", Watching)
    return seen


def test_no_question_reads_a_whole_table(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    with queue.data.reading() as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] == MANY
    seen = watched(queue, monkeypatch)
    claimed = queue.claim(1, "cpu", ["sd"])
    assert claimed is not None and queue.job(claimed.id).state == "running"
    queue.cancel(claimed.id)
    queue.finish(claimed.id, claimed.attempt, 0)
    queue.page(), queue.page(owner="o3"), queue.page(owner="o3", states=[SUCCEEDED])
    queue.page(states=["failed"], cursor=queue.page(limit=1).next), queue.page(batch="b77"), queue.page(deleted=True)
    queue.positions(), queue.waiting(), queue.waiting("o1"), queue.counts(), queue.running()
    queue.changes(MANY - 5), queue.changes(MANY - 5, "o1"), queue.history(claimed.id), queue.newest()
    queue.submit(Job("new", "dream", owner="o1", key="k")), queue.by_key("o1", "k"), queue.has_run("x")
    queue.move("new", before=next(iter(queue.positions())))
    queue.favourite("new", True), queue.page(favourite=True, owner="o1"), queue.delete("new"), queue.purge("new")
    monkeypatch.undo()
    assert len(seen) > 60
    with queue.data.reading() as db:
        for query, values in seen:
            for step in steps(db, query, values):
                assert not step.startswith("SCAN jobs") or "USING" in step, f"{step}: {query}"
                assert not step.startswith("SCAN changes"), f"{step}: {query}"


def test_a_page_sorts_nothing(queue: Queue) -> None:
    """It takes the first rows of an index, however many there are."""
    with queue.data.reading() as db:
        for owner in (None, "o3"):
            for state in STATES:
                query, values = listing._query(listing.Filter(owner), [state])
                found = steps(db, query, [*values, 1 << 62, 51])
                assert len(found) == 1 and "SEARCH jobs USING COVERING INDEX" in found[0], found
                assert "TEMP B-TREE" not in found[0] and "state=?" in found[0]


def test_a_claim_steps_from_owner_to_owner(queue: Queue) -> None:
    said: picking.Bound = {"kind": "cpu", "lane": "normal", "priority": 1, "owner": "o1"}
    with queue.data.reading() as db:
        for query in (picking.HIGHEST, picking.NEXT_OWNER, picking.FIRST):
            found = steps(db, query, said)
            assert len(found) == 1 and "SEARCH jobs USING " in found[0] and "TEMP" not in found[0], found
            assert "(lane=?" in found[0] and ("owner" in found[0] or query is picking.HIGHEST), found

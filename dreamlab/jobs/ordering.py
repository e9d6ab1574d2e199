# SPDX-License-Identifier: Apache-2.0
"""A place in the line between two others. Places are numbers with room between them; where that is used up, those of
one lane and priority are numbered anew."""

from __future__ import annotations

import sqlite3

from dreamlab.jobs.states import Job

_SAME = "state = 'queued' AND deleted = '' AND lane = ? AND priority = ?"


def put_between(db: sqlite3.Connection, beside: Job, moving: str, before: bool) -> float:
    """A place right before or after `beside`, as if the moving job were not there."""
    found = _between(db, beside, moving, before)
    if found is None:
        _number_anew(db, beside.lane, beside.priority)
        found = _between(db, beside, moving, before)
    assert found is not None
    return found


def _between(db: sqlite3.Connection, beside: Job, moving: str, before: bool) -> float | None:
    at = db.execute("SELECT place FROM jobs WHERE id = ?", (beside.id,)).fetchone()["place"]
    side, order = ("<", "DESC") if before else (">", "ASC")
    query = f"SELECT place FROM jobs WHERE {_SAME} AND place {side} ? AND id != ? ORDER BY place {order} LIMIT 1"
    next_one = db.execute(query, (beside.lane, beside.priority, at, moving)).fetchone()
    if next_one is None:
        return at - 1 if before else at + 1
    middle = (at + next_one["place"]) / 2
    return middle if middle not in (at, next_one["place"]) else None


def _number_anew(db: sqlite3.Connection, lane: str, priority: int) -> None:
    """Whole numbers up to the last place, which stays: what comes later, or comes back, knows where it belongs."""
    rows = db.execute(f"SELECT id, place FROM jobs WHERE {_SAME} ORDER BY place", (lane, priority)).fetchall()
    first = rows[-1]["place"] - len(rows) + 1
    db.executemany("UPDATE jobs SET place = ? WHERE id = ?", [(first + i, row["id"]) for i, row in enumerate(rows)])

# SPDX-License-Identifier: Apache-2.0
"""Who is next: lanes before priorities, priorities before owners in turn, an owner's own order; and within that, what a
worker has loaded already. A recent one of a few may go first, and only so often."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator

from dreamlab.jobs.states import LANES

AHEAD = 8  # how far behind an owner's first job a warm one is looked for
MOST_PASSED = 8  # how often a first job lets a warm one by

_WAITS = "state = 'queued' AND deleted = ''"
_HERE = f"{_WAITS} AND lane = :lane AND wants IN ('', :kind)"
HIGHEST = f"SELECT priority FROM jobs WHERE {_HERE} ORDER BY priority DESC LIMIT 1"
NEXT_OWNER = f"""SELECT owner FROM jobs WHERE {_HERE} AND priority = :priority AND owner > :owner
  ORDER BY owner LIMIT 1"""
FIRST = f"""SELECT id, place, guidance, passed FROM jobs WHERE {_HERE} AND priority = :priority AND owner = :owner
  ORDER BY place LIMIT {1 + AHEAD}"""
SERVED = "SELECT served FROM owners WHERE owner = ?"
Bound = dict[str, str | int]


def pick(db: sqlite3.Connection, device: str, holds: Collection[str]) -> str | None:
    """The id of the job that a worker of `device` takes now; the one it lets by for it counts that."""
    said: Bound = {"kind": device.partition(":")[0]}
    for lane in LANES:
        said["lane"] = lane
        highest = db.execute(HIGHEST, said).fetchone()
        if highest is None:
            continue
        said["priority"] = highest["priority"]
        lines = [db.execute(FIRST, said | {"owner": owner}).fetchall() for owner in _owners(db, said)]
        turns = [(_served(db, owner), line[0]["place"]) for owner, line in zip(_owners(db, said), lines, strict=True)]
        return _warmest(db, lines[turns.index(min(turns))], holds)
    return None


def _owners(db: sqlite3.Connection, said: Bound) -> Iterator[str]:
    """Those with a job here, by one step in the index each, however many jobs they have."""
    owner = ""
    while (found := db.execute(NEXT_OWNER, said | {"owner": owner}).fetchone()) is not None:
        owner = found["owner"]
        yield owner


def _served(db: sqlite3.Connection, owner: str) -> int:
    found = db.execute(SERVED, (owner,)).fetchone()
    return 0 if found is None else found["served"]


def _warmest(db: sqlite3.Connection, line: list[sqlite3.Row], holds: Collection[str]) -> str:
    first = line[0]
    if not first["guidance"] or first["guidance"] in holds or first["passed"] >= MOST_PASSED:
        return first["id"]
    warm = next((row for row in line if row["guidance"] and row["guidance"] in holds), None)
    if warm is None:
        return first["id"]
    db.execute("UPDATE jobs SET passed = passed + 1 WHERE id = ?", (first["id"],))
    return warm["id"]

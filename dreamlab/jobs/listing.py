# SPDX-License-Identifier: Apache-2.0
"""Questions about many jobs: pages of them, how many there are, who waits for whom."""

from __future__ import annotations

import base64
import binascii
import heapq
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from dreamlab.core.errors import InputError
from dreamlab.jobs.rows import job_of
from dreamlab.jobs.states import LANES, STATES, Job

MOST_A_PAGE = 500
# No index has it as a first column, but the rowid is the order of arrival, and the last column of every one.
WAITING = """SELECT id, owner, lane, priority FROM jobs INDEXED BY jobs_order WHERE state = 'queued' AND deleted = ''
  AND lane = ? ORDER BY lane, priority DESC, place"""


@dataclass(frozen=True)
class Page:
    """Some jobs, the newest first, and the cursor that goes on from there; none: these were the last."""

    jobs: tuple[Job, ...]
    next: str | None


@dataclass(frozen=True)
class Filter:
    """Which jobs a page is of."""

    owner: str | None = None
    states: Sequence[str] = ()
    text: str = ""
    batch: str | None = None
    favourite: bool | None = None
    deleted: bool = False


def page(db: sqlite3.Connection, wanted: Filter, limit: int, cursor: str | None) -> Page:
    """First which, then those rows alone."""
    if not 1 <= limit <= MOST_A_PAGE:
        raise InputError(f"limit: {limit}; 1 to {MOST_A_PAGE}")
    before = 1 << 62 if cursor is None else _rowid(cursor)
    for state in wanted.states:
        if state not in STATES:
            raise InputError(f"state: {state!r} is none of {', '.join(STATES)}")
    states = tuple(dict.fromkeys(wanted.states or STATES))
    # By words the rows themselves are read, once, the newest first; else a look into an index for every state.
    looks = [states] if wanted.text else [(state,) for state in states]
    found: list[int] = []
    for each in looks:
        query, values = _query(wanted, each)
        found += [row["rowid"] for row in db.execute(query, [*values, before, limit + 1])]
    found = sorted(found, reverse=True)[: limit + 1]
    more = len(found) > limit
    jobs = tuple(job_of(db.execute("SELECT * FROM jobs WHERE rowid = ?", (row,)).fetchone()) for row in found[:limit])
    return Page(jobs, _cursor(found[limit - 1]) if more else None)


def _query(wanted: Filter, states: Sequence[str]) -> tuple[str, list[str]]:
    parts, values = [f"state IN ({', '.join('?' * len(states))})"], list(states)
    if wanted.owner is not None:
        parts.append("owner = ?")
        values.append(wanted.owner)
    parts.append("deleted != ''" if wanted.deleted else "deleted = ''")
    if wanted.batch is not None:
        parts.append("batch = ? AND batch != ''")
        values.append(wanted.batch)
    if wanted.favourite is not None:
        parts.append(f"favourite = {int(wanted.favourite)}")
    if wanted.text:
        parts.append("(prompt LIKE ? ESCAPE '\\' OR id = ?)")
        text = wanted.text.encode("utf-8", "replace").decode()
        values += [_like(text), text]
    where, how = " AND ".join(parts), "NOT INDEXED" if wanted.text else ""
    return f"SELECT rowid FROM jobs {how} WHERE {where} AND rowid < ? ORDER BY rowid DESC LIMIT ?", values


def _like(text: str) -> str:
    for sign in "\\%_":
        text = text.replace(sign, f"\\{sign}")
    return f"%{text}%"


def _cursor(rowid: int) -> str:
    return base64.urlsafe_b64encode(str(rowid).encode()).decode().rstrip("=")


def _rowid(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        if text.isdecimal() and len(text) < 19:
            return int(text)
    except (binascii.Error, ValueError):
        pass
    raise InputError("cursor: is none that a page gave; leave it out to begin with the newest")


def counts(db: sqlite3.Connection, owner: str | None) -> dict[str, int]:
    """How many jobs are in each state; those in the trash are not counted."""
    where, values = ("", []) if owner is None else ("AND owner = ?", [owner])
    query = f"SELECT state, count(*) AS n FROM jobs WHERE deleted = '' {where} GROUP BY state"
    return dict.fromkeys(STATES, 0) | {row["state"]: row["n"] for row in db.execute(query, values)}


def positions(db: sqlite3.Connection) -> dict[str, int]:
    """Job -> how many claims away it is, 1: the next; as `picking` would go on if nothing came and no worker held
    what another job needs."""
    served = {row["owner"]: row["served"] for row in db.execute("SELECT owner, served FROM owners")}
    order: list[str] = []
    turn = max(served.values(), default=0)
    for lane in LANES:
        for _, rows in groupby(db.execute(WAITING, (lane,)).fetchall(), key=lambda row: row["priority"]):
            lines: dict[str, list[str]] = {}
            for row in rows:
                lines.setdefault(row["owner"], []).append(row["id"])
            # Owners who were never served come in the order of their first jobs, as does the dict.
            heap = [(served.get(owner, 0), i, owner) for i, owner in enumerate(lines)]
            heapq.heapify(heap)
            done = dict.fromkeys(lines, 0)
            while heap:
                _, i, owner = heapq.heappop(heap)
                order.append(lines[owner][done[owner]])
                done[owner] += 1
                turn += 1
                served[owner] = turn
                if done[owner] < len(lines[owner]):
                    heapq.heappush(heap, (turn, i, owner))
    return {job: i for i, job in enumerate(order, 1)}

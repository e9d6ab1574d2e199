# SPDX-License-Identifier: Apache-2.0
"""All run folders of a root, to be listed, searched and paged: an SQLite file of its own that says nothing which the
folders and the queue do not say, so it is thrown away whenever anything is wrong with it.

A run that the queue knows has its state, owner, favourite and trash there; one of the command line has what
`marks.json` in its folder says.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from dreamlab.core.errors import DiskError, InputError
from dreamlab.core.files import Json, disk_errors, write_json
from dreamlab.core.text import did_you_mean, short
from dreamlab.jobs.database import FOLDER
from dreamlab.jobs.facts import DAMAGED, MARKS, folded
from dreamlab.jobs.folders import empty, from_trash, located, to_trash
from dreamlab.jobs.gathering import TABLES, VERSION, WORDS, look, stale
from dreamlab.run.folder import now

FILE = "index.sqlite"
MOST = 200  # rows a page
BUSY_MS = 30_000  # of another process, which builds the index for the first time
SORTS = {  # columns, and which way
    "newest": (("created", "folder"), "DESC"),
    "oldest": (("created", "folder"), "ASC"),
    "name": (("name", "folder"), "ASC"),
    "favourite": (("favourite", "created", "folder"), "DESC"),
}
DEEPEST, MOST_FAMILY = 64, 500  # generations of a tree, up and down; members of it
# What is no fault of the file: it is not thrown away for it.
OUTSIDE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY}
OUTSIDE |= {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM}
Made = TypeVar("Made")


@dataclass(frozen=True)
class RunRow:
    """A run in a list."""

    id: str
    folder: str
    prompt: str
    recipe: str
    seed: int | None
    state: str
    step: int
    created: str
    seconds: float | None
    poster: str  # within the folder; "" where there is no picture yet
    favourite: bool
    trashed: str  # when it came to the trash
    parent: str
    owner: str
    damage: str  # what is wrong with the folder
    job: bool  # whether the queue knows it

    def plain(self) -> Json:
        """As REST shows it."""
        shown = asdict(self) | {"parent": self.parent or None, "poster": None}
        if self.poster:
            shown["poster"] = f"/v1/runs/{quote(self.id, safe='')}/files/{quote(self.poster)}"
        return shown


@dataclass(frozen=True)
class RunPage:
    """Some rows, and where the next begin; "" where there are none."""

    rows: tuple[RunRow, ...]
    next: str


@dataclass(frozen=True)
class Descent:
    """A run and what was made of it; of one that is gone only its id is known."""

    id: str
    prompt: str = ""
    state: str = "gone"
    children: tuple[Descent, ...] = ()

    def plain(self) -> Json:
        below = [child.plain() for child in self.children]
        return {"id": self.id, "prompt": self.prompt, "state": self.state, "children": below}


class RunIndex:
    """The runs under `root`; any number of threads and processes at once."""

    def __init__(self, root: Path, file: Path | None = None) -> None:
        self.root, self.file = root, file or root / FOLDER / FILE
        self._looking = threading.Lock()  # a look at every folder is under way

    def refresh(self) -> int:
        """Look at every folder now; how many rows changed."""
        return self._do(lambda db: look(db, self.root, thorough=True))

    def rebuild(self) -> int:
        """The same, from nothing."""
        self._forget()
        return self.refresh()

    def page(
        self,
        *,
        text: str = "",
        owner: str | None = None,
        favourite: bool | None = None,
        states: Sequence[str] = (),
        trash: bool = False,
        sort: str = "newest",
        limit: int = 50,
        cursor: str = "",
    ) -> RunPage:
        """Rows after `cursor`: what comes or goes meanwhile moves none of the others to another page."""
        if sort not in SORTS:
            raise InputError(f"sort: {short(sort)!r} is no order{did_you_mean(sort, SORTS)}")
        if not 1 <= limit <= MOST:
            raise InputError(f"limit: must be 1 to {MOST}, not {limit}")
        columns, way = SORTS[sort]
        where, values = ["trashed > ''" if trash else "trashed = ''"], list[str | int]()
        if owner is not None:
            where, values = [*where, "owner = ?"], [*values, owner]
        if favourite is not None:
            where, values = [*where, "favourite = ?"], [*values, int(favourite)]
        if states:
            where, values = [*where, f"state IN ({', '.join('?' * len(states))})"], [*values, *states]
        if cursor:
            where.append(f"({', '.join(columns)}) {'<' if way == 'DESC' else '>'} ({', '.join('?' * len(columns))})")
            values += _opened(cursor, sort, len(columns))
        order = ", ".join(f"{column} {way}" for column in columns)

        def work(db: sqlite3.Connection) -> RunPage:
            self._glance(db)
            found, terms = _words(db, text)
            said = " AND ".join(where + found)
            # What is put together are words of this file; whatever a user says is bound.
            query = f"SELECT *, {', '.join(columns)} FROM listed WHERE {said} ORDER BY {order} LIMIT ?"
            rows = db.execute(query, [*values, *terms, limit + 1]).fetchall()
            after = _cursor(sort, rows[limit - 1][-len(columns) :]) if len(rows) > limit else ""
            return RunPage(tuple(_row(row) for row in rows[:limit]), after)

        return self._do(work)

    def row(self, id: str, owner: str | None = None) -> RunRow:
        """One of them, by its id; also from the trash."""

        def work(db: sqlite3.Connection) -> sqlite3.Row | None:
            self._glance(db)
            found: sqlite3.Row | None = db.execute("SELECT * FROM listed WHERE id = ?", (id,)).fetchone()
            return found

        found = self._do(work)
        if found is None or owner not in (None, found["owner"]):
            raise InputError(f"run {short(id)!r}: there is none under {self.root}")
        return _row(found)

    def count(self, owner: str | None = None, trash: bool = False) -> int:
        """How many there are."""

        def work(db: sqlite3.Connection) -> int:
            self._glance(db)
            query = "SELECT count(*) FROM listed WHERE (? IS NULL OR owner = ?) AND (trashed > '') = ?"
            return int(db.execute(query, (owner, owner, trash)).fetchone()[0])

        return self._do(work)

    def tree(self, id: str, owner: str | None = None) -> Descent:
        """The family of a run, from its eldest known ancestor down."""
        self.row(id, owner)

        return self._do(lambda db: _family(db, id, owner))

    def mark(self, id: str, *, favourite: bool | None = None, trashed: bool | None = None) -> RunRow:
        """Say something of a run that no queue knows; what the queue knows it is told itself."""
        row = self.row(id)
        if row.job:
            raise InputError(f"run {id}: is a job, whose marks the queue keeps")
        if trashed and row.state == "running":
            raise InputError(f"run {id}: is running; stop it first")
        said = {
            "favourite": row.favourite if favourite is None else favourite,
            "deleted": row.trashed if trashed is None else now() if trashed else "",
        }
        folder = located(self.root, row.folder)
        with disk_errors("marking a run", folder):
            write_json(folder / MARKS, said)
        if trashed is not None:
            (to_trash if trashed else from_trash)(self.root, row.folder)
        self.refresh()
        return self.row(id)

    def purge(self, id: str) -> None:
        """Remove a run that no queue knows from the trash for good."""
        row = self.row(id)
        if row.job or not row.trashed:
            raise InputError(f"run {id}: {'is a job: the queue removes it' if row.job else 'is not in the trash'}")
        empty(self.root, row.folder)
        self.refresh()

    def _glance(self, db: sqlite3.Connection) -> None:
        """What has just come or changed is seen now; what may have changed elsewhere soon, and nobody waits for it."""
        look(db, self.root, thorough=False)
        if stale(db) and self._looking.acquire(blocking=False):
            threading.Thread(target=self._look_behind, name="index", daemon=True).start()

    def _look_behind(self) -> None:
        try:
            with suppress(DiskError, sqlite3.Error):  # whoever asks next meets it again
                self.refresh()
        finally:
            self._looking.release()

    def _do(self, work: Callable[[sqlite3.Connection], Made]) -> Made:
        """With a connection of its own; a file that is damaged, or of another version, is made anew."""
        for again in (True, False):
            try:
                with closing(self._connection()) as db:
                    return work(db)
            except sqlite3.Error as error:
                if not again or getattr(error, "sqlite_errorcode", 0) & 0xFF in OUTSIDE:
                    raise DiskError(
                        f"{self.file}: the index cannot be kept ({error}); free some space, or allow writing there"
                    ) from error
                self._forget()
        raise AssertionError

    def _connection(self) -> sqlite3.Connection:
        with disk_errors("making the index", self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.file, timeout=BUSY_MS / 1000, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            # Nothing in it is worth a flush; one file, so that it works on file systems without shared memory.
            db.executescript("PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = OFF; PRAGMA cache_spill = OFF;")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError("of another version")
            if version == 0:
                _create(db)
        except BaseException:
            db.close()
            raise
        return db

    def _forget(self) -> None:
        with disk_errors("making the index anew", self.file):
            for name in (self.file, self.file.with_name(f"{self.file.name}-journal")):
                name.unlink(missing_ok=True)


def _create(db: sqlite3.Connection) -> None:
    """All tables, once, whoever is first."""
    db.execute("BEGIN IMMEDIATE")
    if db.execute("PRAGMA user_version").fetchone()[0] == 0:
        for statement in TABLES:
            db.execute(statement)
        if _has_words(db):
            for statement in WORDS:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _has_words(db: sqlite3.Connection) -> bool:
    return any(row[0] == "ENABLE_FTS5" for row in db.execute("PRAGMA compile_options"))


def _words(db: sqlite3.Connection, text: str) -> tuple[list[str], list[str]]:
    """Conditions and their values: every word of the text begins a word of the prompt."""
    terms = [phrase for word in text.split() if (phrase := folded(word))]
    if not terms:
        return [], []
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone() is None:
        return ["name LIKE ?"] * len(terms), [f"%{term}%" for term in terms]
    wanted = " AND ".join(f'"{term.strip()}" *' for term in terms)
    return ["number IN (SELECT rowid FROM words WHERE words MATCH ?)"], [wanted]


def _row(row: sqlite3.Row) -> RunRow:
    found = {field.name: row[field.name] for field in fields(RunRow)}
    return RunRow(**found | {"favourite": bool(row["favourite"]), "job": bool(row["job"])})


def _cursor(sort: str, values: Sequence[str | int]) -> str:
    return base64.urlsafe_b64encode(json.dumps([sort, *values]).encode()).decode().rstrip("=")


def _opened(cursor: str, sort: str, count: int) -> list[str | int]:
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        order, values = found[0], found[1:]
        sound = len(values) == count and all(type(value) in (str, int) for value in values)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        sound, order = False, ""
    if not sound or order != sort:
        raise InputError(f"cursor: is none of this list (sort {sort}); leave it out to begin with the first page")
    return list(values)


def _family(db: sqlite3.Connection, id: str, owner: str | None) -> Descent:
    """By a few looks into the tables' own indices, however many runs there are."""
    one = "SELECT id, prompt, state, parent FROM listed WHERE id = ? AND (? IS NULL OR owner = ?)"
    more = """SELECT id, prompt, state FROM listed WHERE parent = ? AND (? IS NULL OR owner = ?) AND folder IN
      (SELECT folder FROM runs WHERE parent = ? UNION SELECT run FROM known WHERE parent = ?)
      ORDER BY created, folder"""
    eldest, seen = id, {id}
    row = db.execute(one, (id, owner, owner)).fetchone()
    while row is not None and row["parent"] and row["parent"] not in seen and len(seen) < DEEPEST:
        eldest = row["parent"]
        seen.add(eldest)
        row = db.execute(one, (eldest, owner, owner)).fetchone()
    known = {eldest: Descent(eldest) if row is None else Descent(eldest, row["prompt"], row["state"])}
    below, wave = dict[str, list[str]](), [eldest]
    for _ in range(2 * DEEPEST):
        parents, wave = wave, []
        for parent in parents:
            found = db.execute(more, (parent, owner, owner, parent, parent)).fetchall()
            new = {
                row["id"]: Descent(row["id"], row["prompt"], row["state"]) for row in found if row["id"] not in known
            }
            new = dict(list(new.items())[: max(MOST_FAMILY - len(known), 0)])
            known |= new
            below[parent] = list(new)
            wave += new
    return _joined(eldest, known, below)


def _joined(id: str, known: dict[str, Descent], below: dict[str, list[str]]) -> Descent:
    return replace(known[id], children=tuple(_joined(child, known, below) for child in below.get(id, [])))


__all__ = ["DAMAGED", "Descent", "RunIndex", "RunPage", "RunRow"]

# SPDX-License-Identifier: Apache-2.0
"""From the folders and the queue into the tables of the index: only what has changed since the last look is read."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from dreamlab.core.errors import DiskError
from dreamlab.jobs.database import FILE, FOLDER
from dreamlab.jobs.facts import DAMAGED, FolderFacts, folded, read_folder, signature
from dreamlab.jobs.folders import trash

VERSION = 2  # of the tables, and of what is read off a folder
FRESH_S = 1.0  # a look at every folder is believed at least so long
HOT_NS = 2_000_000_000  # what changed so lately may change again within one tick of a file system's clock
TABLES = (
    """CREATE TABLE runs (number INTEGER PRIMARY KEY, folder TEXT UNIQUE NOT NULL, id TEXT NOT NULL,
  own_id TEXT NOT NULL, signature TEXT, name TEXT NOT NULL, prompt TEXT NOT NULL, recipe TEXT NOT NULL, seed INTEGER,
  state TEXT NOT NULL, step INTEGER NOT NULL, created TEXT NOT NULL, seconds REAL, poster TEXT NOT NULL,
  favourite INTEGER NOT NULL, trashed TEXT NOT NULL, parent TEXT NOT NULL, damage TEXT NOT NULL)""",
    "CREATE INDEX runs_id ON runs(id)",
    "CREATE INDEX runs_own_id ON runs(own_id)",
    "CREATE INDEX runs_parent ON runs(parent)",
    "CREATE INDEX runs_created ON runs(created, folder)",
    "CREATE INDEX runs_name ON runs(name, folder)",
    """CREATE TABLE known (run TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, recipe TEXT NOT NULL,
  favourite INTEGER NOT NULL, trashed TEXT NOT NULL, parent TEXT NOT NULL)""",
    "CREATE INDEX runs_restless ON runs(folder) WHERE signature IS NULL",
    "CREATE INDEX known_parent ON known(parent)",
    "CREATE TABLE notes (key TEXT PRIMARY KEY, value NOT NULL)",
    """CREATE VIEW listed AS SELECT r.number, r.id, r.folder, r.name, r.prompt,
  CASE WHEN k.recipe > '' THEN k.recipe ELSE r.recipe END AS recipe, r.seed,
  CASE WHEN r.damage > '' OR k.run IS NULL THEN r.state ELSE k.state END AS state, r.step, r.created, r.seconds,
  r.poster, coalesce(k.favourite, r.favourite) AS favourite, coalesce(k.trashed, r.trashed) AS trashed,
  CASE WHEN k.parent > '' THEN k.parent ELSE r.parent END AS parent, coalesce(k.owner, 'local') AS owner, r.damage,
  k.run IS NOT NULL AS job FROM runs r LEFT JOIN known k ON k.run = r.folder""",
)
WORDS = (  # `name` holds folded words with spaces between, and the tokenizer splits there alone
    "CREATE VIRTUAL TABLE words USING fts5(name, content='runs', content_rowid='number', tokenize='ascii')",
    "CREATE TRIGGER came AFTER INSERT ON runs BEGIN INSERT INTO words(rowid, name) VALUES (new.number, new.name); END",
    """CREATE TRIGGER went AFTER DELETE ON runs BEGIN
  INSERT INTO words(words, rowid, name) VALUES ('delete', old.number, old.name); END""",
    """CREATE TRIGGER changed AFTER UPDATE OF name ON runs BEGIN
  INSERT INTO words(words, rowid, name) VALUES ('delete', old.number, old.name);
  INSERT INTO words(rowid, name) VALUES (new.number, new.name); END""",
)
COLUMNS = (
    *("folder", "id", "own_id", "signature", "name", "prompt", "recipe", "seed", "state", "step", "created"),
    *("seconds", "poster", "favourite", "trashed", "parent", "damage"),
)


@dataclass(frozen=True)
class Lying:
    """A folder that may be a run, where it lies."""

    path: str
    in_trash: bool

    def seen(self) -> tuple[str, int]:
        """What changes with it, and the newest time in that."""
        words, newest = signature(self.path)
        return f"{words} {self.in_trash}", newest


def stale(db: sqlite3.Connection) -> bool:
    """Whether the folders should be looked at one by one again: after a second, or ten times as long as that takes."""
    looked, took = (float(_noted(db, key) or 0) for key in ("looked", "took"))
    return not abs(time.time() - looked) < max(FRESH_S, 10 * took)  # a clock may be set back


def look(db: sqlite3.Connection, root: Path, thorough: bool) -> int:
    """Bring the tables up to date; how many rows changed. A glance sees folders that came or went, runs that are
    running, and what the queue says; a thorough look all else, by the times of the files."""
    began, thorough = time.time(), thorough or not _noted(db, "looked")
    listed = _listed(root)
    if not thorough and listed and listed == _noted(db, "listed"):
        restless = db.execute("SELECT folder FROM runs WHERE signature IS NULL").fetchall()
        suspects, gone = {name: _lying(root, name) for (name,) in restless}, list[str]()
    else:
        before = dict(db.execute("SELECT folder, signature FROM runs").fetchall())
        # One that lies in both places, as a death between two renames could not leave it, is not in the trash.
        there = {name: Lying(path, place != root) for place in (trash(root), root) for name, path in _entries(place)}
        known = {name for name in there if before.get(name) is not None}
        same = {name for name in known if not thorough or before[name] == there[name].seen()[0]}
        suspects = {name: lying for name, lying in there.items() if name not in same}
        gone = [name for name in before if name not in there]
    _begin(db, patient=thorough)
    if not db.in_transaction:
        return 0
    try:
        changed = _folders(db, suspects, gone, root) + _jobs(db, root)
        _note(db, "listed", listed)
        if changed:
            _tell_apart(db)
        if thorough:
            _note(db, "took", time.time() - began)
            _note(db, "looked", began)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return changed


def _listed(root: Path) -> str:
    """What changes when a folder comes or goes; "" while another may within the same tick of a clock."""
    times = [place.stat().st_mtime_ns for place in (root, trash(root)) if place.is_dir()]
    return "" if max(times, default=0) > time.time_ns() - HOT_NS else " ".join(map(str, times))


def _lying(root: Path, name: str) -> Lying:
    """One that is listed, where it lies now."""
    in_trash = not (root / name).is_dir()
    return Lying(str(trash(root) / name if in_trash else root / name), in_trash)


def _begin(db: sqlite3.Connection, patient: bool) -> None:
    """A transaction that writes; none when another process is at it and nobody asked to wait for that."""
    before = db.execute("PRAGMA busy_timeout").fetchone()[0]
    if not patient:
        db.execute("PRAGMA busy_timeout = 0")
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if patient or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    finally:
        db.execute(f"PRAGMA busy_timeout = {int(before)}")


def _folders(db: sqlite3.Connection, suspects: dict[str, Lying], gone: list[str], root: Path) -> int:
    """All of it is read with the tables held, so that an older look never takes away what a newer one found."""
    rows = list[tuple[object, ...]]()
    gone = [name for name in gone if not any((place / name).is_dir() for place in (root, trash(root)))]
    for name, lying in suspects.items():
        seen, newest = lying.seen()
        try:
            facts = read_folder(Path(lying.path), lying.in_trash)
        except OSError:  # it went while it was read
            facts = None
        if facts is None:
            gone.append(name)
            continue
        if name != facts.folder:
            facts = replace(facts, folder=name, state=DAMAGED, damage="its name is no text")
        # What runs is looked at every time: its process may be killed, which no file says.
        settled = newest < time.time_ns() - HOT_NS and facts.state != "running"
        rows.append(_values(facts, seen if settled else None))
    places, news = ", ".join("?" * len(COLUMNS)), ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])
    db.executemany(
        f"INSERT INTO runs({', '.join(COLUMNS)}) VALUES ({places}) ON CONFLICT(folder) DO UPDATE SET {news}",
        rows,
    )
    left = db.executemany("DELETE FROM runs WHERE folder = ?", [(name,) for name in gone])
    return len(rows) + max(left.rowcount, 0)


def _entries(place: Path) -> list[tuple[str, str]]:
    """Names and paths of the folders there; bytes of a name that are no text are spelt out."""
    try:
        with os.scandir(place) as found:
            folders = [entry for entry in found if not entry.name.startswith(".") and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DiskError(f"{place}: cannot be listed ({error.strerror}); allow reading there") from None
    return [(entry.name.encode("utf-8", "backslashreplace").decode(), entry.path) for entry in folders]


def _values(facts: FolderFacts, seen: str | None) -> tuple[object, ...]:
    own = (facts.folder, facts.own_id, facts.own_id, seen, folded(facts.prompt) or folded(facts.folder), facts.prompt)
    how = (facts.recipe, facts.seed, facts.state, facts.step, facts.created, facts.seconds, facts.poster)
    return (*own, *how, facts.favourite, facts.trashed, facts.parent, facts.damage)


def _tell_apart(db: sqlite3.Connection) -> None:
    """Of folders with one id, a copy of a run and the run, the one that is named by it keeps it."""
    twice = db.execute("SELECT own_id FROM runs GROUP BY own_id HAVING count(*) > 1").fetchall()
    db.execute("UPDATE runs SET id = own_id WHERE id != own_id")
    for (own,) in twice:
        folders = [row[0] for row in db.execute("SELECT folder FROM runs WHERE own_id = ?", (own,))]
        first = min(folders, key=lambda folder: (not folder.endswith(f"-{own}"), folder))
        others = [(folder,) for folder in folders if folder != first]
        db.executemany("UPDATE runs SET id = folder WHERE folder = ?", others)


def _jobs(db: sqlite3.Connection, root: Path) -> int:
    """What the queue has said since the last look. A queue that cannot be read is an error: without it nobody knows
    whose runs these are."""
    path = root / FOLDER / FILE
    since = int(_noted(db, "sequence") or 0)
    if not path.is_file():
        if since:
            db.execute("DELETE FROM known")
            _note(db, "sequence", 0)
        return 0
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as queue:
            if queue.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is None:
                return 0
            newest = queue.execute("SELECT coalesce(max(seq), 0) FROM jobs").fetchone()[0]
            if newest < since:  # another queue, or its last job was purged
                db.execute("DELETE FROM known")
                since = 0
            rows = queue.execute(
                """SELECT run, owner, state, recipe, favourite, deleted, parent FROM jobs
                WHERE seq > ? AND kind != 'export' AND run > ''""",
                (since,),
            ).fetchall()
    except sqlite3.Error as error:
        raise DiskError(f"{path}: the queue cannot be read ({error}); is it of another version?") from None
    db.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    _note(db, "sequence", newest)
    return len(rows)


def _note(db: sqlite3.Connection, key: str, value: float | str) -> None:
    db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))


def _noted(db: sqlite3.Connection, key: str) -> float | str:
    found = db.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
    return "" if found is None else found[0]

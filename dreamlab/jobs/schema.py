# SPDX-License-Identifier: Apache-2.0
"""The queue's tables, how an older file becomes a newer one, and how the disk below it wants to be written."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.core.files import fsync_path
from dreamlab.run.folder import now

VERSION = 1
BUSY_SECONDS = 30.0

# Text columns are never NULL, so that no comparison has a third answer; times are UTC, ISO 8601.
JOBS = """
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL, run TEXT NOT NULL,
  prompt TEXT NOT NULL, recipe TEXT NOT NULL, seed INTEGER NOT NULL, request TEXT NOT NULL,
  parent TEXT NOT NULL, retried_from TEXT NOT NULL, batch TEXT NOT NULL, batch_values TEXT NOT NULL,
  lane TEXT NOT NULL, priority INTEGER NOT NULL, key TEXT, guidance TEXT NOT NULL, wants TEXT NOT NULL,
  webhook TEXT NOT NULL, state TEXT NOT NULL, place REAL NOT NULL, device TEXT NOT NULL,
  attempt INTEGER NOT NULL, tries INTEGER NOT NULL, passed INTEGER NOT NULL, worker INTEGER NOT NULL,
  cancel TEXT NOT NULL, created TEXT NOT NULL, queued TEXT NOT NULL, started TEXT NOT NULL,
  finished TEXT NOT NULL, exit_code INTEGER, error TEXT, stopped_at INTEGER, favourite INTEGER NOT NULL,
  deleted TEXT NOT NULL, seq INTEGER NOT NULL
)"""
TABLES: Sequence[str] = (
    JOBS,
    # No key is NULL, and those are all different to UNIQUE.
    "CREATE UNIQUE INDEX jobs_key ON jobs(owner, key)",
    # What waits is a small part of what is kept: its indices hold nothing else.
    "CREATE INDEX jobs_waiting ON jobs(lane, priority DESC, owner, place) WHERE state = 'queued' AND deleted = ''",
    "CREATE INDEX jobs_order ON jobs(lane, priority DESC, place) WHERE state = 'queued' AND deleted = ''",
    # By state and, as in every index, in the order of arrival.
    "CREATE INDEX jobs_state ON jobs(deleted, state)",
    "CREATE INDEX jobs_owner ON jobs(owner, deleted, state)",
    "CREATE INDEX jobs_batch ON jobs(batch) WHERE batch != ''",
    "CREATE INDEX jobs_favourite ON jobs(owner) WHERE favourite = 1",
    "CREATE INDEX jobs_run ON jobs(run)",
    """CREATE TABLE changes (
      seq INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, owner TEXT NOT NULL, state TEXT NOT NULL,
      attempt INTEGER NOT NULL, what TEXT NOT NULL, time TEXT NOT NULL
    )""",
    "CREATE INDEX changes_job ON changes(job)",
    "CREATE INDEX changes_owner ON changes(owner)",
    """CREATE TABLE workers (
      id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, started INTEGER NOT NULL, boot TEXT NOT NULL,
      device TEXT NOT NULL, job TEXT NOT NULL, attempt INTEGER NOT NULL, holds TEXT NOT NULL,
      heartbeat REAL NOT NULL, state TEXT NOT NULL
    )""",
    "CREATE TABLE owners (owner TEXT PRIMARY KEY, served INTEGER NOT NULL)",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
# What makes a file of version N one of N + 1.
STEPS: Mapping[int, Sequence[str]] = {}

# File systems on which SQLite's shared memory does not work, or locks are kept by a server: one writer, no WAL.
_KINDS = (
    "nfs nfs4 cifs smb3 smbfs lustre gpfs beegfs ceph glusterfs afs 9p ncpfs virtiofs vboxsf "
    "fuse.sshfs fuse.glusterfs fuse.ceph fuse.s3fs fuse.rclone fuse.gcsfuse"
)
NETWORK = frozenset(_KINDS.split())


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of file system that a path lies on; empty where nobody says."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    place, found, longest = os.path.realpath(path), "", -1
    for line in lines:
        words = line.split()
        if len(words) < 3:
            continue
        # Blanks in a name are written in octal.
        at = words[1].encode("latin-1", "backslashreplace").decode("unicode_escape").rstrip("/")
        if (place == at or place.startswith(f"{at}/")) and len(at) >= longest:
            found, longest = words[2], len(at)
    return found


def journal_mode_for(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    return "DELETE" if file_system(path, mounts) in NETWORK else "WAL"


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection whose commits are on the disk when they return."""
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    db.row_factory = sqlite3.Row
    _journal(db, mode)
    db.execute("PRAGMA synchronous = FULL")
    return db


def _journal(db: sqlite3.Connection, mode: str) -> None:
    """Of two that change a new file's journal at once SQLite refuses one without the wait that it has for all else."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute(f"PRAGMA journal_mode = {mode}").fetchall()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.01)


def version_of(db: sqlite3.Connection) -> int:
    """0: an empty file."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        return 0
    found = db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
    return int(found["value"])


def migrate(db: sqlite3.Connection, path: Path) -> int:
    """Make the file one of this version, whoever else opens it just now; returns what it was. An older one is copied
    first, beside it."""
    was = version_of(db)
    if was == VERSION:
        return was
    db.execute("BEGIN IMMEDIATE")  # from here on no other process changes it
    try:
        was = version_of(db)
        if was > VERSION:
            raise InputError(
                f"{path}: was made by a newer DreamLab (schema {was}, this one reads {VERSION}); "
                "install that version again, or use another folder of runs"
            )
        if was == 0:
            _run(db, TABLES)
        elif was < VERSION:
            back_up(path, was)
            for version in range(was, VERSION):
                _run(db, STEPS[version])
        db.execute("INSERT OR REPLACE INTO meta VALUES ('version', ?)", (str(VERSION),))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite ends it by itself where the disk is full
            db.execute("ROLLBACK")
        raise
    return was


def _run(db: sqlite3.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        db.execute(statement)


def back_up(path: Path, version: int) -> Path:
    """A whole copy of the file as it is, under a name that says its version and the time."""
    stamp = now().replace(":", "").replace("-", "").partition(".")[0]
    final = path.with_name(f"{path.stem}.v{version}.{stamp}{path.suffix}")
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    source, target = sqlite3.connect(path), sqlite3.connect(temporary)
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()
    fsync_path(temporary)
    temporary.replace(final)
    fsync_path(final.parent)
    return final

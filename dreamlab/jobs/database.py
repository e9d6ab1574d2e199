# SPDX-License-Identifier: Apache-2.0
"""One connection per thread and process; transactions; what the database refuses, in one line."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.errors import DiskError, DreamError, InputError
from dreamlab.core.files import disk_errors
from dreamlab.jobs.schema import connect, journal_mode_for, migrate
from dreamlab.jobs.states import QueueBusy

FOLDER, FILE = ".jobs", "queue.sqlite"


class _Connections(threading.local):
    """This thread's connection, and the process that opened it: a child of fork must not use its parent's."""

    db: sqlite3.Connection | None = None
    pid = 0


@dataclass(frozen=True)
class Station:
    """Where a queue lies, below a folder of runs."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / FOLDER

    @property
    def file(self) -> Path:
        return self.folder / FILE


class Database:
    """The queue's file, made or brought up to date when it is opened."""

    def __init__(self, root: Path) -> None:
        self.place = Station(root)
        with disk_errors("opening the queue", self.place.folder):
            if root.exists() and not root.is_dir():
                raise InputError(f"{root}: is a file; the queue needs a folder of runs")
            self.place.folder.mkdir(parents=True, exist_ok=True)
        self.mode = journal_mode_for(self.place.folder)
        self._mine = _Connections()
        with self._explained():
            self._open()

    def close(self) -> None:
        """This thread's connection; others go with their threads."""
        if self._mine.db is not None and self._mine.pid == os.getpid():
            self._mine.db.close()
        self._mine.db = None

    def _open(self) -> sqlite3.Connection:
        if self._mine.db is None or self._mine.pid != os.getpid():
            db = connect(self.place.file, self.mode)
            migrate(db, self.place.file)
            self._mine.db, self._mine.pid = db, os.getpid()
        return self._mine.db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            yield self._open()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Several questions about one state of things."""
        with self.reading() as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:
                    db.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other writer is in; all of it happens, or nothing."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite ends it by itself where the disk is full
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explained(error, self.place.file) from error


def explained(error: sqlite3.Error, path: Path) -> DreamError:
    """The database's complaint, and what to do about it."""
    said = str(error)
    if "locked" in said or "busy" in said:
        return QueueBusy(f"{path}: others write to it without end; try again, or see what holds it")
    if "full" in said or "I/O error" in said:
        return DiskError(f"{path}: cannot be written ({said}); free some space, then ask again: nothing was changed")
    if "readonly" in said or "unable to open" in said:
        return DiskError(f"{path}: cannot be written ({said}); allow writing there, or choose another folder of runs")
    if "malformed" in said or "not a database" in said:
        return InputError(
            f"{path}: is damaged ({said}); move it away: the runs beside it are whole, and a copy that an upgrade made "
            "(queue.v*.sqlite) may be put in its place"
        )
    return DreamError(f"{path}: {said} (a defect)")

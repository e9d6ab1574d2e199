# SPDX-License-Identifier: Apache-2.0
"""The file itself: made, brought up to date, refused, and where it may lie (faults 41 and 42)."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dreamlab.core.errors import DiskError, InputError
from dreamlab.jobs import database, schema
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.schema import file_system, journal_mode_for
from dreamlab.jobs.states import Job, QueueBusy

ROOT = Path(__file__).parents[2]
STEP = ("ALTER TABLE jobs ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'", "CREATE TABLE later (id TEXT)")


def older(root: Path) -> Path:
    """A queue as this version makes it, with a job; the tests then read it with a version that is one newer."""
    with Queue(root) as queue:
        queue.submit(Job("a", "dream", prompt="of before"))
    return root / ".jobs" / "queue.sqlite"


def newer(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    monkeypatch.setattr(schema, "STEPS", {schema.VERSION - 1: steps})


def backups(root: Path) -> list[Path]:
    return sorted((root / ".jobs").glob("queue.v*.sqlite"))


def query(path: Path, text: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as db:
        return db.execute(text).fetchall()


def test_an_older_file_is_copied_and_then_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, was = older(tmp_path), schema.VERSION
    newer(monkeypatch, *STEP)
    with Queue(tmp_path) as queue:
        assert queue.job("a").prompt == "of before" and queue.submit(Job("b", "dream")).seq == 2
    assert query(path, "SELECT id, mood FROM jobs") == [("a", "calm"), ("b", "calm")]
    assert query(path, "SELECT value FROM meta WHERE key = 'version'") == [(str(was + 1),)]
    (copy,) = backups(tmp_path)
    assert query(copy, "PRAGMA integrity_check") == [("ok",)] and query(copy, "SELECT id FROM jobs") == [("a",)]
    assert query(copy, "SELECT value FROM meta WHERE key = 'version'") == [(str(was),)]
    Queue(tmp_path).close()
    assert backups(tmp_path) == [copy], "once"


def test_an_upgrade_that_fails_half_way_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, was = older(tmp_path), schema.VERSION
    with monkeypatch.context() as patch:
        newer(patch, STEP[0], "CREATE TABLE jobs (id TEXT)")
        with pytest.raises(Exception, match="already exists"):
            Queue(tmp_path)
    columns = [row[1] for row in query(path, "PRAGMA table_info(jobs)")]
    assert "mood" not in columns and query(path, "SELECT value FROM meta WHERE key = 'version'") == [(str(was),)]
    with Queue(tmp_path) as queue:
        assert queue.job("a").prompt == "of before"


def test_an_upgrade_that_is_killed_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    older(tmp_path)
    code = f"""
import os, signal, sys
from pathlib import Path
from dreamlab.jobs import schema
from dreamlab.jobs.queue import Queue
schema.VERSION += 1
class Steps(dict):
    def __getitem__(self, version):
        yield {STEP[0]!r}
        os.kill(os.getpid(), signal.SIGKILL)
schema.STEPS = Steps()
Queue(Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    with Queue(tmp_path) as queue:
        assert queue.job("a").prompt == "of before"
    assert len(backups(tmp_path)) == 1


def test_many_processes_upgrade_it_once(tmp_path: Path) -> None:
    path = older(tmp_path)
    code = f"""
import sys
from pathlib import Path
from dreamlab.jobs import schema
from dreamlab.jobs.queue import Queue
schema.VERSION += 1
schema.STEPS = {{schema.VERSION - 1: {STEP!r}}}
print("ready", flush=True)
sys.stdin.readline()
with Queue(Path({str(tmp_path)!r})) as queue:
    assert queue.job("a").prompt == "of before"
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, **pipes) for _ in range(4)]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        _, err = process.communicate("go\n", timeout=60)
        assert process.returncode == 0, err
    assert query(path, "SELECT id, mood FROM jobs") == [("a", "calm")] and len(backups(tmp_path)) == 1


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    path = older(tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    before = query(path, "SELECT * FROM jobs")
    with pytest.raises(InputError, match=r"newer DreamLab \(schema 99.*install that version again"):
        Queue(tmp_path)
    assert query(path, "SELECT * FROM jobs") == before


def test_what_is_no_database_is_said_and_left(tmp_path: Path) -> None:
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "queue.sqlite").write_bytes(b"no database, but somebody's letter" * 100)
    with pytest.raises(InputError, match="is damaged"):
        Queue(tmp_path)
    assert (tmp_path / ".jobs" / "queue.sqlite").read_bytes().startswith(b"no database")


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        Queue(tmp_path / "runs")
    (tmp_path / ".jobs").write_text("x")
    with pytest.raises(DiskError, match="something else stands in its place"):
        Queue(tmp_path)


def test_names_with_blanks_and_letters_of_all_alphabets(tmp_path: Path) -> None:
    root = tmp_path / "my runs \u00e9\u4e2d\U0001f344 'x' %41"
    with Queue(root) as queue:
        queue.submit(Job("a", "dream"))
    with Queue(root) as queue:
        assert queue.job("a").id == "a"


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/data /data nfs4 rw 0 0
/dev/sdb1 /data/local xfs rw 0 0
//server/share /mnt/my\\040share\\040\u00e9 cifs rw 0 0
me@host:/ /mnt/ssh fuse.sshfs rw 0 0
tmpfs /data/local/tmp tmpfs rw 0 0
"""
WHERE = {
    "/var/runs": ("ext4", "WAL"),
    "/data/me/runs": ("nfs4", "DELETE"),
    "/data/local/runs": ("xfs", "WAL"),
    "/datas/runs": ("ext4", "WAL"),
    "/mnt/my share \u00e9/runs": ("cifs", "DELETE"),
    "/mnt/ssh": ("fuse.sshfs", "DELETE"),
    "/data/local/tmp/x": ("tmpfs", "WAL"),
}


def test_network_file_systems_get_no_shared_memory(tmp_path: Path) -> None:
    """SQLite's write-ahead log needs memory that all its processes share, which no file server gives."""
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    for place, (kind, mode) in WHERE.items():
        assert (file_system(Path(place), mounts), journal_mode_for(Path(place), mounts)) == (kind, mode), place
    assert journal_mode_for(tmp_path, tmp_path / "nothing") == "WAL"


def test_on_a_network_file_system_the_queue_works_with_one_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older(tmp_path)
    monkeypatch.setattr(database, "journal_mode_for", lambda path: "DELETE")
    with Queue(tmp_path) as queue:
        with queue.data.reading() as db:
            assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
            assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
        queue.submit(Job("b", "dream"))
        assert [job.id for job in queue.page().jobs] == ["b", "a"]
    assert not (tmp_path / ".jobs" / "queue.sqlite-wal").exists()


def test_commits_are_flushed_on_a_local_disk_too(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue, queue.data.reading() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL: a power cut takes no job"


def test_one_who_holds_it_for_ever_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older(tmp_path)
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(tmp_path / ".jobs" / "queue.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Queue(tmp_path) as queue:
        assert queue.job("a").id == "a", "readers wait for no writer"
        with pytest.raises(QueueBusy, match="try again"):
            queue.submit(Job("b", "dream"))
        holder.execute("ROLLBACK")
        holder.close()
        assert queue.submit(Job("b", "dream")).id == "b"

# SPDX-License-Identifier: Apache-2.0
"""Many processes at one file, some of them killed: nothing is lost, nothing is doubled, the file stays sound."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dreamlab.jobs import queue as queues
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.schema import connect
from dreamlab.jobs.states import RUNNING, SUCCEEDED, Job

ROOT = Path(__file__).parents[2]
PROCESSES, UNIQUE, SUBMITS = 8, 400, 500

SUBMIT = """
import itertools, sys
from pathlib import Path
from dreamlab.jobs import queue as queues
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job, new_id
queues.MOST_OF_AN_OWNER = 1000
root, how, *keys = sys.argv[1:]
with Queue(Path(root)) as queue:
    print("ready", flush=True)
    sys.stdin.readline()
    for key in itertools.cycle(keys) if how == "endlessly" else keys:
        print(key, queue.submit(Job(new_id(), "dream", key=key)).id, flush=True)
"""

CLAIM = """
import sys
from pathlib import Path
from dreamlab.jobs.queue import Queue
with Queue(Path(sys.argv[1])) as queue:
    print("ready", flush=True)
    sys.stdin.readline()
    while (job := queue.claim(int(sys.argv[2]), "cpu")) is not None:
        print(job.id, job.attempt, flush=True)
        assert queue.finish(job.id, job.attempt, 0)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def begin_together(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n", (
            process.stderr and process.stderr.read()
        )
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def killed_after(process: subprocess.Popen[str], lines: int) -> list[str]:
    """In the middle of its work; what it had said by then."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    return said


def sound(root: Path) -> None:
    with sqlite3.connect(root / ".jobs" / "queue.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_racing_submits_with_two_of_eight_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults 21 and 22: what was told to a client is there afterwards, once."""
    monkeypatch.setattr(queues, "MOST_OF_AN_OWNER", 1000)
    draw = random.Random(7)
    keys = [f"k{i}" for i in range(UNIQUE)] + [f"k{draw.randrange(UNIQUE)}" for _ in range(SUBMITS - UNIQUE)]
    draw.shuffle(keys)
    # The victims come to no end, so that they are in the middle of something whenever the signal comes.
    parts = [("endlessly" if i < 2 else "once", *keys[i::PROCESSES]) for i in range(PROCESSES)]
    processes = [start(SUBMIT, str(tmp_path), *part) for part in parts]
    begin_together(processes)
    said = [*killed_after(processes[0], 5), *killed_after(processes[1], 20)]
    told: dict[str, set[str]] = {}
    for i, process in enumerate(processes):
        out, err = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if i < 2 else 0), err
        for line in [*said, *out.splitlines()] if i == 0 else out.splitlines():
            if len(words := line.split()) == 2 and len(words[1]) == 12:  # the last line of a victim may be cut
                told.setdefault(words[0], set()).add(words[1])
    assert all(len(ids) == 1 for ids in told.values()), "one key, one job, whoever asked"
    with Queue(tmp_path) as queue:
        for key in keys:  # clients of the victims ask again, by the same key
            made = queue.by_key("local", key) or queue.submit(Job(f"again-{key}", "dream", key=key))
            assert {made.id} == told.get(key, {made.id}), "lost, or doubled"
        assert queue.counts()["queued"] == UNIQUE
    sound(tmp_path)


def test_racing_claims_take_each_job_once(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        with queue.data.reading() as db:
            db.execute("PRAGMA synchronous = OFF")
        queue.submit_all([Job(f"j{i:03d}", "dream", owner=f"o{i % 5}") for i in range(120)])
        processes = [start(CLAIM, str(tmp_path), str(i)) for i in range(4)]
        begin_together(processes)
        taken = killed_after(processes[0], 1)  # a line, or the end if the others were quicker in everything
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode in (0, -signal.SIGKILL), err
            taken += out.splitlines()
        taken = [line.strip() for line in taken if line.strip()]
        assert len(taken) == len(set(taken))
        counts = queue.counts()
        assert counts[SUCCEEDED] + counts[RUNNING] == 120 and counts[RUNNING] <= 1, "the victim's is for its supervisor"
        assert all(line.split()[1] == "1" for line in taken if len(line.split()) == 2)
        claimed = [change for change in queue.changes(0, limit=1000) if change.what == "claimed"]
        assert len(claimed) == 120 and len({change.job for change in claimed}) == 120
    sound(tmp_path)


def test_a_writer_that_dies_in_the_middle_leaves_all_or_nothing(tmp_path: Path) -> None:
    """SIGKILL within the transaction: no row, no number, and the next writer waits for nobody."""
    code = """
import os, signal, sys
from pathlib import Path
from dreamlab.jobs import store
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job
queue = Queue(Path(sys.argv[1]))
plain = store.insert
store.insert = lambda db, job: os.kill(os.getpid(), signal.SIGKILL) if job.id == "b" else plain(db, job)
queue.submit_all([Job("a", "dream"), Job("b", "dream")])
"""
    with Queue(tmp_path) as queue:
        process = start(code, str(tmp_path))
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert queue.page().jobs == () and queue.newest() == 0
        assert queue.submit(Job("c", "dream")).seq == 1
    sound(tmp_path)


def test_a_child_of_fork_has_a_connection_of_its_own(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        queue.submit(Job("a", "dream"))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                queue.submit(Job("b", "dream"))
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert {job.id for job in queue.page().jobs} == {"a", "b"}


def test_all_who_open_a_new_file_at_once_are_let_in(tmp_path: Path) -> None:
    """The first change of a file's journal is the one thing for which SQLite itself does not wait."""

    def opened(path: Path, together: threading.Barrier) -> str:
        together.wait()
        db = connect(path, "WAL")
        try:
            return str(db.execute("PRAGMA journal_mode").fetchone()[0])
        finally:
            db.close()

    with ThreadPoolExecutor(PROCESSES) as pool:
        for i in range(150):
            together, path = threading.Barrier(PROCESSES), tmp_path / f"{i}.sqlite"
            said = list(pool.map(opened, [path] * PROCESSES, [together] * PROCESSES))
            assert said == ["wal"] * PROCESSES

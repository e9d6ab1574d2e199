# SPDX-License-Identifier: Apache-2.0
"""Fault 7: no room for the queue. What was asked is refused in one line, nothing that was there is lost, and with room
it goes on. A file system of two megabytes where this process may mount one; else a limit on the size of files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamlab.core.errors import DiskError
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mount: this process may mount no file system; the limit on files is tested below")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def sound(root: Path) -> list[str]:
    with sqlite3.connect(root / ".jobs" / "queue.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in db.execute("SELECT id FROM jobs ORDER BY rowid")]


def test_a_full_disk_refuses_and_forgets_nothing(small: Path) -> None:
    with Queue(small) as queue:
        queue.enlist(1, "cpu", 1, 1, "b")
        queue.submit(Job("a", "dream"))
        claimed = queue.claim(1, "cpu")
        queue.submit(Job("b", "dream"))
        free = shutil.disk_usage(small).free
        (small / "filler").write_bytes(os.urandom(free - (free % 4096)))
        while shutil.disk_usage(small).free:
            with (small / "more").open("ab") as more:
                more.write(b"x" * 4096)
        long = "x" * 900
        with pytest.raises(DiskError, match="nothing was changed") as refused:
            for i in range(2000):  # what room the log had already goes first
                queue.submit(Job(f"c{i}", "dream", prompt=long, owner=f"o{i}"))
        assert refused.value.exit_code == 7 and "free some space" in str(refused.value)
        kept = [job.id for job in queue.page(limit=500).jobs]
        assert claimed is not None and {"a", "b"} <= set(kept) and queue.job("a").attempt == 1, "it can still be read"
        with pytest.raises(DiskError):
            for _ in range(2000):
                queue.beat(1, ["y" * 3000])
        (small / "filler").unlink()
        assert queue.finish("a", 1, 0) and queue.submit(Job("z", "dream")).id == "z"
        count = sum(queue.counts().values())
    assert len(sound(small)) == count


LIMITED = """
import os, resource, signal, sys
from pathlib import Path
from dreamlab.core.errors import DiskError
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
queue = Queue(Path(sys.argv[1]))
queue.submit(Job("a", "dream"))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
made = 0
try:
    for i in range(2000):
        queue.submit(Job(f"b{i}", "dream", prompt="x" * 900, owner=f"o{i}"))
        made += 1
except DiskError as error:
    assert "nothing was changed" in str(error), error
    assert queue.job("a").id == "a"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    queue.submit(Job("z", "dream"))
    print(made)
"""


def test_a_limit_on_files_refuses_and_forgets_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(400_000)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert sound(tmp_path) == ["a", *(f"b{i}" for i in range(int(done.stdout))), "z"]

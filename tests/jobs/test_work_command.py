# SPDX-License-Identifier: Apache-2.0
"""`dreamlab jobs work` refuses in one line what cannot be, and stops when it is told to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from dreamlab.jobs.queue import Queue
from dreamlab.jobs.supervisor import running
from tests.conftest import Commands


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--device", "tpu"), 2, "--device 'tpu'"),
        (("--root", "a-file"), 3, "is a file"),
        (("--root", "a-file/below"), 7, "a-file"),
    ],
)
def test_what_cannot_be(dreamlab: Commands, words: tuple[str, ...], code: int, said: str) -> None:
    (dreamlab.folder / "a-file").write_text("")
    ended = dreamlab("jobs", "work", *words)
    assert ended.code == code, ended.err
    assert said in ended.err
    assert len(ended.err.strip().splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_stops_its_workers_with_it(dreamlab: Commands, number: int, code: int) -> None:
    root = dreamlab.folder / "runs"
    process, _, err = dreamlab.start("jobs", "work", "--root", str(root))
    try:
        until = time.monotonic() + 120
        while running(root) != process.pid and time.monotonic() < until:
            time.sleep(0.05)
        assert process.pid is not None
        assert running(root) == process.pid
        while "started as process" not in err.read_text() and time.monotonic() < until:
            time.sleep(0.05)
        (line,) = [line for line in err.read_text().splitlines() if "started as process" in line]
        worker = int(line.split()[-1])
        assert Path(f"/proc/{worker}").exists()
        os.kill(process.pid, number)
        process.join(100)
        assert process.exitcode == code
        assert not Path(f"/proc/{worker}").exists()
        with Queue(root) as queue:
            assert queue.workers() == []
    finally:
        process.kill()

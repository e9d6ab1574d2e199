# SPDX-License-Identifier: Apache-2.0
"""The thread count of a new run: what others leave alone, kept by the run, overruled by the user."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamlab.core import threads
from dreamlab.core.threads import Watch, choose, cores, fitting, quota

LINE = "cpu{n} {user} {niced} {system} 100000 55 1 2 {steal} 0 0\n"


def stat(path: Path, **busy: int) -> Path:
    """As the system writes it: a sum, our cores, and one that is not ours; niced work and waiting count for nothing."""
    own = "".join(LINE.format(n=n, **busy) for n in cores())
    other = LINE.format(n=max(cores()) + 1, user=10**6, niced=0, system=0, steal=0)
    path.write_text(f"cpu  1 2 3 4 5 6 7 8 9 10\n{own}{other}intr 5\n", "ascii")
    return path


def test_what_others_use_is_told_from_what_we_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of our cores was busy for 0.9 s of a second by the file's clock; 0.25 s of them all is ours."""
    monkeypatch.setattr(threads, "STAT", stat(tmp_path / "stat", user=50, niced=7, system=10, steal=0))
    before = Watch.now()
    stat(tmp_path / "stat", user=100, niced=7777, system=40, steal=10)
    after = Watch.now()
    assert before is not None and after is not None
    tick = 100
    used = after.used - before.used
    assert used == pytest.approx(0.9 * len(cores()) * 100 / tick)
    begun, ended = Watch(0.0, before.used, 3.0), Watch(1.0, after.used, 3.25)
    assert begun.others(ended) == pytest.approx(used - 0.25)
    assert Watch(0.9, before.used, 3.0).others(ended) is None  # a tenth of a second says nothing
    assert begun.others(Watch(1.0, before.used, 4.0)) == 0.0


@pytest.mark.parametrize(
    ("there", "most", "others", "count"),
    [(2, 2, 0.0, 2), (2, 2, 0.4, 2), (2, 2, 0.6, 1), (2, 2, 3.0, 1), (64, 32, 10.0, 32), (64, 32, 50.2, 14)],
)  # fmt: skip
def test_half_a_core_counts_as_free(there: int, most: int, others: float, count: int) -> None:
    assert fitting(there, most, others) == count


def test_a_container_has_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_began", [])
    monkeypatch.setattr(threads, "cores", lambda: list(range(64)))
    for text, share, count in (("150000 100000", 1.5, 2), ("max 100000", math.inf, 16), ("nonsense", math.inf, 16)):
        monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
        threads.QUOTA.write_text(text, "ascii")
        assert quota() == share and choose(16)[0] == count


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_busy_neighbour_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many programs as there are cores that do nothing but count."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * len(cores()))]
    try:
        time.sleep(0.2)  # until they have started
        threads.watch()
        time.sleep(0.6)
        count, why = choose(len(cores()))
        assert count == 1
        assert len(cores()) == 1 or ("1 thread of" in why and f"of {len(cores())} cores busy" in why)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert choose(2) == (2, "")
    finally:
        for other in others:
            other.kill()
            other.wait()
        threads._began.clear()


def test_every_command_begins_the_watch() -> None:
    from dreamlab.cli import main

    threads._began.clear()
    with pytest.raises(SystemExit):
        main(["--version"])
    assert (len(threads._began) == 1) is (Watch.now() is not None)
    threads._began.clear()


def test_many_small_pieces_run_on_one_thread(two_threads: None) -> None:
    import torch

    with threads.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2

# SPDX-License-Identifier: Apache-2.0
"""Processes are known by more than their number, and end with all that they have started."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dreamlab.jobs.leases import Lease, resident_bytes
from dreamlab.jobs.workplace import held, holder

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc tells when a process began")
# A parent that starts a child in its own session, says the child's number, and waits.
FAMILY = "import subprocess,sys,time; c=subprocess.Popen(['sleep','100']); print(c.pid, flush=True); time.sleep(100)"


def soon(what: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    return what()


def family() -> tuple[subprocess.Popen[bytes], int]:
    parent = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@linux
def test_a_number_that_is_another_s_by_now_is_not_it() -> None:
    mine = Lease.mine()
    assert mine.alive()
    assert not replace(mine, started=mine.started - 1).alive()
    assert not replace(mine, boot="another").alive()
    stranger = subprocess.Popen(["sleep", "100"], start_new_session=True)
    try:
        wrong = replace(Lease.of(stranger.pid), started=1)
        wrong.kill_group()
        wrong.ask()
        replace(Lease.of(stranger.pid), boot="another").kill_group()
        time.sleep(0.1)
        assert stranger.poll() is None, "a stranger is left alone"
        right = Lease.of(stranger.pid)
        right.ask()
        assert stranger.wait(10) == -signal.SIGTERM
        assert not right.alive()
    finally:
        stranger.kill()
        stranger.wait()


@linux
def test_the_dead_that_nobody_buried_are_dead() -> None:
    child = subprocess.Popen(["sleep", "100"])
    lease = Lease.of(child.pid)
    child.send_signal(signal.SIGKILL)
    assert soon(lambda: not lease.alive())
    assert Path(f"/proc/{child.pid}").exists(), "its number is still taken"
    child.wait()
    assert not lease.alive()


@linux
def test_children_end_with_a_parent_that_is_dead_already() -> None:
    parent, child = family()
    lease, other = Lease.of(parent.pid), Lease.of(child)
    parent.kill()
    parent.wait()
    assert other.alive(), "alone it would go on"
    assert lease.group() == [child]
    lease.kill_group()
    assert soon(lambda: not other.alive())
    lease.kill_group()


def test_nobody_ends_their_own_group() -> None:
    replace(Lease.mine(), pid=os.getpgrp(), started=0).kill_group()
    Lease(0, 0, Lease.mine().boot).kill_group()
    Lease(1, Lease.of(1).started, Lease.mine().boot).kill_group()


@linux
def test_memory_is_that_of_the_kernel() -> None:
    before = resident_bytes()
    # Pages of its own from the kernel: the allocator keeps what it once had, and would give from that.
    with mmap.mmap(-1, 64 << 20) as kept:
        kept.write(b"1" * (64 << 20))
        assert (60 << 20) < resident_bytes() - before < (80 << 20)
    assert resident_bytes(os.getppid()) > 0


def test_a_lock_lasts_as_long_as_its_process(tmp_path: Path) -> None:
    path = tmp_path / "a" / "lock"
    assert holder(path) is None
    code = f"from pathlib import Path; from dreamlab.jobs.workplace import held; import time; held(Path({str(path)!r}))"
    other = subprocess.Popen([sys.executable, "-c", f"{code}; print(1, flush=True); time.sleep(100)"], stdout=-1)
    assert other.stdout is not None
    other.stdout.readline()
    assert holder(path) == other.pid
    assert held(path) is None
    other.kill()
    other.wait()
    assert holder(path) is None
    mine = held(path)
    assert mine is not None
    os.close(mine)


def test_a_log_is_bounded_and_fails_nobody(tmp_path: Path) -> None:
    path = tmp_path / "worker-1.log"
    code = (
        "import sys, os, subprocess; from pathlib import Path; from dreamlab.jobs.workplace import Log\n"
        f"log = Log(Path({str(path)!r}), most=1000); log.take_over()\n"
        "for i in range(100):\n    print(f'line {i:03d} ' + 'x' * 40); log.turn()\n"
        "subprocess.run(['echo', f'a library says in {sys.stdout.encoding}'], stdout=sys.stderr)\n"
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "print('lost'); print('also', file=sys.stderr)\n"
        "os._exit(7)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, b"", b"")
    newest, before = path.read_text(), path.with_suffix(".log.1").read_text()
    assert newest.endswith("a library says in utf-8\n")
    assert "line 099" in newest + before
    assert len(newest) < 1200
    assert len(before) < 1200

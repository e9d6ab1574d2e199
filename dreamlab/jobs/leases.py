# SPDX-License-Identifier: Apache-2.0
"""Which process is meant: a number alone is given to another one as soon as the first has ended."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_STATE, _GROUP, _STARTED = 0, 2, 19  # fields of /proc/PID/stat behind the name, which may hold anything


def _stat(pid: int) -> list[str] | None:
    """What the kernel says of a process, from its state on; none: there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def boot() -> str:
    """Of this start of the machine: ticks count from it, and so do process numbers."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def started(pid: int) -> int:
    """Ticks after the start of the machine at which a process began; 0 where the system does not say."""
    found = _stat(pid)
    return int(found[_STARTED]) if found else 0


@dataclass(frozen=True)
class Lease:
    """A process, whatever becomes of its number."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Lease:
        return cls(pid, started(pid), boot())

    @classmethod
    def mine(cls) -> Lease:
        return cls.of(os.getpid())

    def alive(self) -> bool:
        """Whether it still runs: neither gone, nor dead and unburied, nor another under its number."""
        if self.boot != boot():
            return False
        if sys.platform != "linux":
            return _answers(self.pid)
        found = _stat(self.pid)
        return found is not None and found[_STATE] not in "ZX" and int(found[_STARTED]) == self.started

    def ask(self) -> None:
        """SIGTERM to the process alone: it checkpoints and leaves."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill_group(self) -> None:
        """SIGKILL to all that it has started, and to itself. A group outlives its first process, whose number is taken
        as long as one of them is there; where another process has that number, none of them is."""
        if self.boot != boot() or self.pid <= 1 or self.pid == os.getpgrp():
            return
        found = _stat(self.pid)
        if found is not None and int(found[_STARTED]) != self.started:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def group(self) -> list[int]:
        """The living of its group."""
        found = []
        for entry in PROC.glob("[0-9]*"):
            stat = _stat(int(entry.name))
            if stat and stat[_STATE] not in "ZX" and int(stat[_GROUP]) == self.pid:
                found.append(int(entry.name))
        return found


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def resident_bytes(pid: int | None = None) -> int:
    """Memory that a process has in RAM; 0 where the system does not say."""
    try:
        return int((PROC / str(pid or "self") / "statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def ram_bytes() -> int:
    """Memory of this machine; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0

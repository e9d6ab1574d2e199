# SPDX-License-Identifier: Apache-2.0
"""How many threads a new run computes with. Threads that meet at the end of every small piece of work wait for the one
that a neighbour keeps from its core: beside a busy program one thread is faster than two. So a run takes the cores that
others left alone while the program was starting; it keeps the number, because bytes depend on it.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds, or max, in a period
LEAST_S = 0.3  # of watching; the clock of /proc/stat ticks a hundred times a second
# user, system, irq, softirq and steal of a line cpuN; what runs niced gives way to us.
BUSY = (1, 3, 6, 7, 8)


def cores() -> list[int]:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def quota() -> float:
    """How many cores' time a container's process is given; infinite where nobody says."""
    try:
        most, period = QUOTA.read_text("ascii").split()
        return math.inf if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        return math.inf


@dataclass(frozen=True)
class Watch:
    """A moment: what all programs and this one had used of our cores by then, in seconds."""

    when: float
    used: float
    own: float

    @classmethod
    def now(cls) -> Watch | None:
        try:
            lines = STAT.read_text("ascii").splitlines()
        except OSError:
            return None
        ours, tick = {f"cpu{n}" for n in cores()}, os.sysconf("SC_CLK_TCK")
        fields = [line.split() for line in lines]
        used = sum(int(field[i]) for field in fields if field[0] in ours for i in BUSY) / tick
        return cls(time.monotonic(), used, sum(os.times()[:4]))

    def others(self, then: Watch) -> float | None:
        """The cores that other programs kept busy between this moment and `then`; None: too short to tell."""
        passed = then.when - self.when
        return None if passed < LEAST_S else max(then.used - self.used - (then.own - self.own), 0.0) / passed


_began: list[Watch] = []


def watch() -> None:
    """From now on, until `choose` is asked."""
    if (now := Watch.now()) is not None:
        _began[:] = [now]


def choose(most: int) -> tuple[int, str]:
    """Threads for a new run, at most `most`, and in one line why they are fewer. OMP_NUM_THREADS is a user's word."""
    if os.environ.get("OMP_NUM_THREADS"):
        return most, ""
    allowed = max(1, math.ceil(min(most, quota())))
    now = Watch.now()
    others = (_began[0].others(now) if _began and now is not None else None) or 0.0
    count = fitting(len(cores()), allowed, others)
    if count == most:
        return most, ""
    busy = f"other programs keep {others:.1f} of {len(cores())} cores busy"
    why = busy if count < allowed else "that is the container's share"
    return count, f"{count} thread{'s' if count > 1 else ''} of {most}: {why}; OMP_NUM_THREADS={most} overrules it"


def fitting(there: int, most: int, others: float) -> int:
    """As many threads as there are cores that nobody else uses; half a core counts as free."""
    return max(1, min(most, math.floor(there - others + 0.5)))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For many small pieces of work, where a second thread is only waited for."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

# SPDX-License-Identifier: Apache-2.0
"""Plants faults in a copy of the tree, one at a time, and sees whether the tests that must notice do: `make mutants`.

The faults are rows of `benchmarks/faults/*.toml`: a file, the text as it is (exactly once in the file), the text that
is planted, the tests that must fail, and in a few words what would be wrong. A row whose text is not there is stale,
and as bad as a survivor. A fault counts as noticed only when a test failed: a module that cannot be imported, a test
that is not found or a run past its limit say nothing about the tests; nor does a test that is skipped.

Each row runs in a fork of this process, which has imported torch and pytest and nothing of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAULTS = Path(__file__).resolve().parent / "faults"
LIMIT_S = 400.0  # of one row's tests
NOTICED, SURVIVED, BROKEN, STALE = "noticed", "SURVIVED", "BROKEN", "STALE"
UNJUDGED = "unjudged"  # its tests were all skipped: Blender, the validator or another judge is not there
WARM = ("torch", "numpy", "pytest", "hypothesis", "safetensors.torch", "yaml", "omegaconf", "typer")


@dataclass(frozen=True)
class Fault:
    """One row."""

    file: str
    was: str
    now: str
    tests: tuple[str, ...]
    why: str

    def stale(self, root: Path) -> str:
        """What is wrong with the row in this tree; empty when it can be planted."""
        path = root / self.file
        count = path.read_text("utf-8").count(self.was) if path.is_file() else 0
        if count != 1:
            return f"{self.file}: {self.was.strip().splitlines()[0]!r} is there {count} times, not once"
        return "" if self.was != self.now else f"{self.file}: {self.why}: nothing is changed"


@dataclass
class Result:
    """What became of a fault."""

    fault: Fault
    verdict: str
    seconds: float = 0.0
    said: str = ""


@dataclass
class Job:
    """A row that runs in a tree of its own."""

    fault: Fault
    tree: Path
    pid: int
    log: Path
    undo: Callable[[], None] = lambda: None
    began: float = field(default_factory=time.monotonic)


def read(folder: Path = FAULTS) -> list[Fault]:
    """All rows, file by file."""
    rows = []
    for path in sorted(folder.glob("*.toml")):
        for row in tomllib.loads(path.read_text("utf-8"))["fault"]:
            rows.append(Fault(row["file"], row["was"], row["now"], tuple(row["tests"]), row["why"]))
    return rows


def copied(root: Path, to: Path) -> Path:
    """A copy of what git knows of, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return to


def plant(fault: Fault, tree: Path, stamp: int) -> Callable[[], None]:
    """Put the fault in the tree; what is returned takes it out again. `stamp`: a time of change of its own, or Python
    would believe its cached bytecode."""
    path = tree / fault.file
    before, times = path.read_text("utf-8"), path.stat()
    path.write_text(before.replace(fault.was, fault.now), "utf-8")
    os.utime(path, (stamp, stamp))

    def undo() -> None:
        path.write_text(before, "utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return undo


def started(tests: Sequence[str], tree: Path, log: Path) -> int:
    """The tests in a fork, a session of its own; its number. The fork's exit code is pytest's."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        os.chdir(tree)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path.insert(0, str(tree))
        for name in [n for n in sys.modules if n.split(".")[0] == "benchmarks"]:
            del sys.modules[name]  # the copy's own, should a test want it
        import pytest

        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", *tests]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def ended(job: Job) -> int | None:
    """The exit code of a job that is over (None: it runs); one past its limit is killed and counts as -1."""
    pid, status = os.waitpid(job.pid, os.WNOHANG)
    if pid == 0 and time.monotonic() - job.began < LIMIT_S:
        return None
    if pid == 0:
        os.killpg(job.pid, signal.SIGKILL)
        os.waitpid(job.pid, 0)
        return -1
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)  # what its tests left running
    return os.waitstatus_to_exitcode(status)


def judged(job: Job, code: int) -> Result:
    seconds = time.monotonic() - job.began
    lines = job.log.read_text("utf-8", "replace").strip().splitlines() if job.log.exists() else []
    said = " | ".join(line.strip() for line in lines[-3:])[-300:]
    verdict = {0: SURVIVED, 1: NOTICED}.get(code, BROKEN)
    if verdict == SURVIVED and lines and "skipped" in lines[-1] and "passed" not in lines[-1]:
        verdict = UNJUDGED
    return Result(job.fault, verdict, seconds, f"past {LIMIT_S:.0f} s" if code == -1 else said)


def run(faults: Sequence[Fault], root: Path, jobs: int) -> list[Result]:
    """Every fault, `jobs` at a time, each in its own copy of the tree."""
    results = [Result(fault, STALE, said=complaint) for fault in faults if (complaint := fault.stale(root))]
    waiting = deque(fault for fault in faults if not fault.stale(root))
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        free = [copied(root, Path(place) / f"tree{i}") for i in range(max(min(jobs, len(waiting)), 1))]
        named = sorted({test for fault in waiting for test in fault.tests})
        if named and (complaint := sound(named, free[0], Path(place))):
            return [*results, *(Result(fault, BROKEN, said=complaint) for fault in waiting)]
        running: list[Job] = []
        stamp = int(time.time()) - 100_000
        try:
            while waiting or running:
                while waiting and free:
                    fault, tree, stamp = waiting.popleft(), free.pop(), stamp + 1
                    undo, log = plant(fault, tree, stamp), Path(place) / f"{tree.name}.log"
                    running.append(Job(fault, tree, started(fault.tests, tree, log), log, undo))
                for job in list(running):
                    if (code := ended(job)) is None:
                        continue
                    job.undo()
                    running.remove(job)
                    free.append(job.tree)
                    results.append(judged(job, code))
                    print(line(results[-1]), flush=True)
                time.sleep(0.05)
        finally:  # a session of its own does not hear Ctrl-C
            for job in running:
                os.killpg(job.pid, signal.SIGKILL)
    return results


def sound(tests: Sequence[str], tree: Path, place: Path) -> str:
    """What is wrong with the tests when nothing is planted."""
    log = place / "unplanted.log"
    job = Job(Fault("", "", "", (), ""), tree, started(tests, tree, log), log)
    _, status = os.waitpid(job.pid, 0)
    result = judged(job, os.waitstatus_to_exitcode(status))
    return "" if result.verdict in (SURVIVED, UNJUDGED) else f"without any fault the tests do not pass: {result.said}"


def line(result: Result) -> str:
    fault = result.fault
    more = "" if result.verdict == NOTICED else f"  [{result.said}]"
    return f"{result.verdict:8} {result.seconds:6.1f} s  {fault.file}: {fault.why}{more}"


def warm() -> None:
    """What every fork needs, imported once; one thread each, for several run beside each other."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in WARM:
        __import__(name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", metavar="WORD", help="rows whose file, reason or tests hold this word")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4), help="rows beside each other")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    parser.add_argument("--cold", action="store_true", help="import nothing ahead of the forks")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--faults", type=Path, default=FAULTS, help="folder of the lists")
    given = parser.parse_args(arguments)
    faults = [f for f in read(given.faults) if not given.only or given.only in " ".join([f.file, f.why, *f.tests])]
    if not faults:
        print(f"error: no row holds {given.only!r}", file=sys.stderr)
        return 2
    if not given.cold:
        warm()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the copies of the tree go too
    began = time.monotonic()
    results = run(faults, given.root, given.jobs)
    bad = [result for result in results if result.verdict not in (NOTICED, UNJUDGED)]
    unjudged = sum(result.verdict == UNJUDGED for result in results)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", "utf-8")
    noticed = len(results) - len(bad) - unjudged
    without = f", {unjudged} not judged for want of a program" if unjudged else ""
    print(f"{len(results)} faults, {noticed} noticed{without}, in {time.monotonic() - began:.0f} s")
    for result in bad:
        print(line(result))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

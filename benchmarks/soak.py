# SPDX-License-Identifier: Apache-2.0
"""The studio, its supervisor and its workers are killed at random for a while, and jobs are submitted to it all the
time; then every one that was asked for must be there once, must have ended once, and with the bytes of one that nobody
disturbed.

    python -m benchmarks.soak --seconds 120

A studio that was killed is started again, as a user would; jobs that were killed more often than the queue retries by
itself are retried, as a person would.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from configs import find
from dreamlab import pipeline
from dreamlab.core.errors import DreamError
from dreamlab.jobs.leases import PROC, Lease
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import CANCELLED, FAILED, INTERRUPTED, RUNNING, SUCCEEDED
from dreamlab.jobs.supervisor import lease_of, running
from dreamlab.metrics.figures import Check, report
from dreamlab.python.client import Client
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run

PROMPT = "a red mushroom with a white stem"
SETTINGS: dict[str, Any] = {
    "steps": 150,
    "size": 24,
    "stages.0.scene.count": 48,
    "stages.0.scene.radius": 0.5,
    "stages.0.terms.0.guidance.others": 1,
    "export.resolution": 24,
    "export.texture": 0,
    "export.fit": False,
    "export.turntable": 3,
    "export.size": 32,
    "keeping.checkpoint": 10,
    "keeping.keep": 2,
    "keeping.preview": 100,
    "keeping.log": 5,
}
SEEDS = 3
WORKERS = 2
APART_S = (0.5, 9.0)  # between kills
VICTIMS = ("worker", "supervisor", "server", "all")  # in any order, then again
LEAST_KILLS = len(VICTIMS)
PATIENCE_S = 600.0  # for what is left when the killing is over


@dataclass
class Soak:
    """What happened."""

    jobs: list[str] = field(default_factory=list)  # that the studio has answered for
    kills: Counter[str] = field(default_factory=Counter)
    retried: int = 0  # by hand
    attempts: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


class House:
    """A studio on a folder of runs, always at the same address."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, 0
        self.open()

    def open(self) -> None:
        named = [part for _ in range(WORKERS) for part in ("--device", "cpu")]
        command = [sys.executable, "-m", "dreamlab", "studio", "--no-page", "--root", str(self.root), *named]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rstrip("/\n").rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """As Ctrl-C does: its supervisor, whichever studio has started it, saves what runs, and leaves."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)


class Person(threading.Thread):
    """Asks the studio for another job whenever there are too few, whether it is there or not."""

    def __init__(self, house: House, jobs: int, found: Soak) -> None:
        super().__init__(daemon=True)
        self.client = Client(f"http://127.0.0.1:{house.port}", patience=PATIENCE_S)
        self.root, self.wanted, self.found = house.root, jobs, found
        self.over = threading.Event()

    def run(self) -> None:
        try:
            with Queue(self.root) as queue:
                while not self.over.wait(0.2):
                    if unfinished(queue) < self.wanted:
                        seed = len(self.found.jobs) % SEEDS
                        self.found.jobs.append(self.client.dream(PROMPT, recipe="oracle", seed=seed, **SETTINGS).id)
        except DreamError as error:
            self.found.faults.append(f"a submission: {error}")

    def leave(self) -> None:
        """When what was asked for last has been answered."""
        self.over.set()
        self.join(PATIENCE_S)


def soak(folder: Path, seconds: float, jobs: int, seed: int = 0) -> Soak:
    """In an empty folder, for so long and at least `LEAST_KILLS`; jobs that are done are followed by others. Nothing of
    it runs on afterwards."""
    root = folder / "runs"
    expected = [undisturbed(folder / "undisturbed", number) for number in range(SEEDS)]
    found, rng = Soak(), random.Random(seed)
    with Queue(root) as queue:
        began = time.monotonic()
        house = House(root)
        person = Person(house, jobs, found)
        try:
            person.start()
            deck: list[str] = []
            while time.monotonic() - began < seconds or found.kills.total() < LEAST_KILLS:
                deck = deck or rng.sample(VICTIMS, len(VICTIMS))
                time.sleep(rng.uniform(*APART_S))
                if at_work(queue):
                    strike(queue, house, deck.pop(), rng, found)
                found.retried += retried(queue)
            person.leave()
            until = time.monotonic() + PATIENCE_S
            while unfinished(queue) and time.monotonic() < until:
                found.retried += retried(queue)
                time.sleep(0.2)
        finally:
            person.over.set()
            house.close()
        found.seconds = time.monotonic() - began
        found.faults += judged(queue, root, expected, found.jobs)
        found.attempts = sum(job.attempt for job in queue.page(limit=500).jobs)
    return found


def at_work(queue: Queue) -> list[Lease]:
    """The workers, if one of them has a job."""
    workers = [lease_of(row) for row in queue.workers() if lease_of(row).alive()]
    return workers if queue.counts()[RUNNING] else []


def strike(queue: Queue, house: House, victim: str, rng: random.Random, found: Soak) -> None:
    """Kill one of them, or all at once. Supervisors and workers come back by themselves, the studio by its user."""
    workers = at_work(queue)
    supervisor = running(house.root)
    if not workers or supervisor is None:
        return  # it ended, or was not yet there, in this instant
    found.kills[victim] += 1
    if victim in ("server", "all"):
        house.kill()
    if victim in ("supervisor", "all"):
        os.kill(supervisor, signal.SIGKILL)
    chosen = workers if victim == "all" else [rng.choice(workers)] if victim == "worker" else []
    for lease in chosen:  # the process alone: its children are left to whoever comes next
        if lease.alive():
            os.kill(lease.pid, signal.SIGKILL)
    if victim in ("server", "all"):
        time.sleep(rng.uniform(0, 2))
        house.open()


def retried(queue: Queue) -> int:
    """Those that were killed too often, once more; how many."""
    there = queue.page(states=(INTERRUPTED,), limit=500).jobs
    for job in there:
        queue.retry(job.id)
    return len(there)


def unfinished(queue: Queue) -> int:
    counts = queue.counts()
    return sum(counts.values()) - sum(counts[state] for state in (SUCCEEDED, FAILED, CANCELLED))


def undisturbed(folder: Path, seed: int) -> dict[str, bytes]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    given = [f"{path}={json.dumps(value)}" for path, value in SETTINGS.items()]
    run = pipeline.create(PROMPT, find("oracle"), folder, [*given, f"seed={seed}"], None, [])
    pipeline.execute(run)
    torch.set_num_threads(before)
    return made_by(run)


def made_by(run: Run) -> dict[str, bytes]:
    """Assets and the tensors of the last checkpoint."""
    tensors = committed(run.ckpt)[-1].glob("*.safetensors")
    paths = [run.export / "model.glb", run.export / "contact.png", *tensors]
    return {path.name: path.read_bytes() for path in paths}


def judged(queue: Queue, root: Path, expected: list[dict[str, bytes]], asked: list[str]) -> list[str]:
    """Everything that is not as it must be, a line each; the database is asked by a connection of its own."""
    there = queue.page(limit=500).jobs
    known = {job.id for job in there}
    faults = [f"{each}: was answered for, and is lost" for each in asked if each not in known]
    faults += [f"{each}: was asked for once, and is there twice" for each in sorted(known - set(asked))]
    for job in there:
        ends = [change.what for change in queue.history(job.id) if change.state == SUCCEEDED]
        if job.state != SUCCEEDED or ends != ["finished"]:
            faults.append(f"{job.id}: is {job.state} ({job.error}), and ended by {ends}")
        elif made_by(Run(root / job.run)) != expected[job.seed]:
            faults.append(f"{job.id}: other bytes")
    with sqlite3.connect(root / ".jobs" / "queue.sqlite") as db:
        (said,) = db.execute("PRAGMA integrity_check").fetchone()
    if said != "ok":
        faults.append(f"queue.sqlite: {said}")
    return faults + [f"process {pid} was left behind" for pid in left_behind(root)]


def left_behind(root: Path) -> list[int]:
    """Processes, beside this one, that name the folder of runs in their command line."""
    found = []
    for entry in PROC.glob("[0-9]*"):
        pid = int(entry.name)
        try:
            named = str(root).encode() in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if named and pid != os.getpid() and Lease.of(pid).alive():
            found.append(pid)
    return found


def measure(seconds: float = 120.0, jobs: int = 3, seed: int = 0) -> list[Check]:
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), seconds, jobs, seed)
    for fault in found.faults:
        print(fault, file=sys.stderr)
    kills = ", ".join(f"{count} of {who}" for who, count in sorted(found.kills.items()))
    note = f"{len(found.jobs)} jobs, {found.attempts} attempts, {found.retried} retried by hand, {found.seconds:.0f} s"
    return [
        Check("soak_kills", found.kills.total(), "", None, note=f"{kills}; {note}"),
        Check(
            "soak_faults",
            len(found.faults),
            "",
            0,
            "lower",
            "jobs lost, doubled, ended twice; other bytes; processes left",
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--jobs", type=int, default=3, help="that wait or run at any time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    return 0 if report(measure(asked.seconds, asked.jobs, asked.seed), asked.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

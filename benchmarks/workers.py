# SPDX-License-Identifier: Apache-2.0
"""What the queue costs: supervisor and worker that wait for jobs, in CPU seconds a minute; a job by a resident worker
beside the same by the command line in a process of its own, in CPU seconds and in seconds to the first step.

    python -m benchmarks.workers --json docs/benchmarks/workers.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.startup import cpu_seconds
from dreamlab import pipeline
from dreamlab.jobs.leases import PROC, resident_bytes
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job
from dreamlab.metrics.figures import Check, report
from dreamlab.run.folder import Run

IDLE_S = 60.0
REPEATS = 5
SETTINGS = ["steps=10", "keeping.log=1"]
RECIPE, PROMPT = "toybox", "a red mushroom with a white stem"
IDLE_FLOOR = 1.0  # CPU seconds a minute, of both
JOB_FLOOR = 0.75  # of the CPU time that a process of its own takes for the same job


def used(pid: int) -> float:
    """CPU seconds of a process and of the children that it has waited for."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def wait_for(what: object, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        if time.monotonic() > until:
            raise TimeoutError("the worker did not do it")
        time.sleep(0.02)


def first_step_s(run: Run, since: float) -> float:
    """Seconds from a moment to the first metrics of a run."""
    times = [event["time"] for event in run.events() if event["kind"] == "metrics"]
    return datetime.fromisoformat(times[0]).timestamp() - since


def new(root: Path, seed: int) -> Run:
    from configs import find

    return pipeline.create(PROMPT, find(RECIPE), root, [*SETTINGS, f"seed={seed}"], None, [])


def by_command(folder: Path, seed: int) -> tuple[float, float]:
    """CPU seconds of a run in a process of its own, and seconds to its first step."""
    run, began = new(folder, seed), time.time()
    spent = cpu_seconds("-m", "dreamlab", "resume", str(run.path))
    return spent, first_step_s(run, began)


def by_worker(root: Path, queue: Queue, seed: int) -> tuple[float, float]:
    """The same of a job in a worker that has had one before."""
    (worker,) = queue.workers()
    run, before, began = new(root, seed), used(worker.pid), time.time()
    job = queue.submit(Job(id=run.spec()["id"], kind="dream", run=run.path.name, guidance="the same"))
    wait_for(lambda: queue.job(job.id).ended)
    if queue.job(job.id).state != "succeeded":
        raise RuntimeError(f"the job {queue.job(job.id).error}")
    return used(worker.pid) - before, first_step_s(run, began)


def measure() -> list[Check]:
    with tempfile.TemporaryDirectory() as folder:
        return measured(Path(folder))


def measured(folder: Path) -> list[Check]:
    root = folder / "runs"
    with Queue(root) as queue:
        command = [sys.executable, "-m", "dreamlab", "jobs", "work", "--root", str(root)]
        supervisor = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_for(queue.workers)
            by_worker(root, queue, 0)  # the first loads what all need
            pids = {"supervisor": supervisor.pid, "worker": queue.workers()[0].pid}
            before = {name: used(pid) for name, pid in pids.items()}
            time.sleep(IDLE_S)
            idle = {name: (used(pid) - before[name]) * 60 / IDLE_S for name, pid in pids.items()}
            size = {name: resident_bytes(pid) >> 20 for name, pid in pids.items()}
            pairs = [(by_worker(root, queue, i), by_command(folder, i)) for i in range(1, REPEATS + 1)]
        finally:
            supervisor.terminate()
            supervisor.wait(60)
    (cpu, start), (own_cpu, own_start) = (
        tuple(statistics.median(pair[side][part] for pair in pairs) for part in (0, 1)) for side in (0, 1)
    )
    ratio = statistics.median(ours[0] / own[0] for ours, own in pairs)
    note = ", ".join(f"{name} {idle[name]:.2f} and {size[name]} MiB" for name in idle)
    details = {"worker_cpu_s": [ours[0] for ours, _ in pairs], "command_cpu_s": [own[0] for _, own in pairs]}
    return [
        Check("idle_cpu_per_minute", round(sum(idle.values()), 3), "s", IDLE_FLOOR, "lower", note),
        Check("job_cpu_vs_process", round(ratio, 3), "x", JOB_FLOOR, "lower", f"{cpu:.2f} s, {own_cpu:.2f} s", details),
        Check("second_job_first_step", round(start, 2), "s", None, note=f"{own_start:.2f} s in a process of its own"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    return 0 if report(measure(), parser.parse_args().json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.ray_overhead`: what Ray and the store cost beside the runs, on a cluster of this machine: CPU
seconds a job of everything that is no run, seconds until the first job begins, and what N workers get done on N cores
against one, for workers of Ray and for processes of this machine.

What others do on the machine must not count: of a worker's time those seconds are taken away that its thread was ready
to run and the kernel had given its core to somebody else (`schedstat`). What is left is what it would have taken alone
on its core: computing, and waiting for the store, the disk or another worker. One worker and N take turns. The same by
the clock is kept beside it, with the share of the machine that others had.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamlab.core.files import Json
from dreamlab.core.threads import cores
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.courier import Courier
from dreamlab.jobs.engines.ledger import HeldJob, Ledger
from dreamlab.jobs.engines.manifest import read_manifest, write_manifest
from dreamlab.jobs.engines.pull import AttemptOutcome, serve
from dreamlab.jobs.engines.runner import Runner
from dreamlab.pipeline import load_recipe
from dreamlab.run.assemble import Assembler
from dreamlab.run.signals import StopSignal
from dreamlab.run.train import train

GOALS = {"cpu_per_job": 0.2, "first_job": 5.0, "speed_up_per_core": 0.9}
SMALL = {
    "stages.0.steps": 60,
    "stages.0.size": 24,
    "stages.0.scene.count": 256,
    "export.faces": 300,
    "export.texture": 64,
    "export.pictures": "poster",
}
FIXED = {"stages.0.steps": 200, "stages.0.size": 24, "stages.0.scene.count": 256, "keeping.checkpoint": 50}


def batch(place: Path, count: int, **more: object) -> str:
    jobs = ({"prompt": "a red mushroom with a white stem", "recipe": "oracle", "seed": i, **more} for i in range(count))
    write_manifest(ObjectStore(str(place)), jobs)
    return str(place)


def nothing(url: str) -> tuple[int, float]:
    """A worker whose runs are free: claims, beats, results and commits are real."""
    bucket, began = ObjectStore(url), time.process_time()

    def perform(held: HeldJob, lost: threading.Event, stop: threading.Event) -> AttemptOutcome:
        bucket.put(f"{held.prefix}export/model.glb", bytes(1000))
        return AttemptOutcome(0, {"files": {}})

    ledger = Ledger(bucket, f"w{os.getpid()}", time.monotonic)
    return serve(ledger, read_manifest(bucket), perform, threading.Event()), time.process_time() - began


def cpu_of_ray() -> float:
    """Of this process and all that it started: driver, raylet, its control store, workers."""
    tick, mine, total = os.sysconf("SC_CLK_TCK"), {os.getpid()}, 0.0
    rows = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, text = int(path.parent.name), path.read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        rows.append((pid, int(text[3]), sum(map(int, text[11:15])) / tick))  # its session; with ended children
    session = os.getsid(0)
    for pid, of, seconds in rows:
        total += seconds if of == session or pid in mine else 0.0
    return total


def timed(url: str, workers: int) -> tuple[float, float]:
    """Seconds until the first claim, and until all is done."""
    from dreamlab.jobs.engines import ray as engine

    began, wall = time.time(), time.monotonic()
    engine.run(url, workers, 0, 60)
    first = min(path.stat().st_mtime for path in Path(url).glob("claims/00000/*/1"))
    return first - began, time.monotonic() - wall


@dataclass(frozen=True)
class WorkerSpell:
    """What a worker did between the beginning of its first attempt and the end of its last."""

    jobs: int
    began: float
    ended: float
    cpu: float
    robbed: float  # seconds that it was ready to run and did not

    @property
    def rate(self) -> float:
        """Jobs a second, had its core been its own."""
        return self.jobs / (self.ended - self.began - self.robbed)


def working(url: str) -> WorkerSpell:
    """A worker whose runs are trained, with checkpoints in the store, but not exported: that is done by processes of
    their own in part, of which nobody could tell the time that they lost."""
    bucket = ObjectStore(url)
    with tempfile.TemporaryDirectory() as place:
        runner, spans = Runner(bucket, Path(place), "cpu"), list[tuple[float, float, float]]()

        def now() -> tuple[float, float, float]:
            return time.time(), time.process_time(), robbed()

        def perform(held: HeldJob, lost: threading.Event, stop: threading.Event) -> AttemptOutcome:
            spans.append(now())
            run = runner.begin(held, Path(place, held.key.replace("/", "-")))
            wanted, courier = load_recipe(run), Courier(bucket, run, held)
            train(run, wanted, Assembler(wanted, "cpu", run.path), courier.tick, StopSignal())
            courier.send()
            spans.append(now())
            return AttemptOutcome(0, {"files": {}})

        ledger = Ledger(bucket, f"w{os.getpid()}", time.monotonic)
        jobs = serve(ledger, read_manifest(bucket), perform, threading.Event(), beat=1.0)
    (began, cpu, lost), (ended, cpu_then, lost_then) = spans[0], spans[-1]
    return WorkerSpell(jobs, began, ended, cpu_then - cpu, lost_then - lost)


def robbed() -> float:
    """Of this thread, which does the runs: seconds in the queue of a core, since it began."""
    told = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    return int(told[1]) / 1e9


Crew = Callable[[str, int], Sequence[WorkerSpell]]  # so many workers at a batch; what each did


@contextmanager
def local_crew(many: int) -> Iterator[Crew]:
    with ProcessPoolExecutor(many, multiprocessing.get_context("spawn")) as pool:
        yield lambda url, count: list(pool.map(working, [url] * count))


@contextmanager
def ray_crew() -> Iterator[Crew]:
    import ray

    from dreamlab.jobs.engines import ray as engine

    each: Any = ray.remote(working).options(**engine.asked(0))
    yield lambda url, count: ray.get([each.remote(url) for _ in range(count)])


def side_by_side(crew: Crew, place: Path, many: int, runs: int, rounds: int) -> Json:
    """One worker with so many runs, and N with as many each, in turn."""
    crew(batch(place / "warm", 2 * many, settings=FIXED), many)
    alone, together, clock, others = [], [], [], []
    for turn in range(rounds):
        (one,), _, _ = watched(crew, batch(place / f"one {turn}", runs, settings=FIXED), 1)
        all_of, wall, share = watched(crew, batch(place / f"many {turn}", runs * many, settings=FIXED), many)
        alone.append(one)
        together.append(all_of)
        clock.append(runs * many / wall / (runs / (one.ended - one.began)) / many)
        others.append(share)
    ratio = [sum(each.rate for each in all_of) / one.rate / many for one, all_of in zip(alone, together, strict=True)]
    cpu = [statistics.mean(each.cpu / each.jobs for each in all_of if each.jobs) for all_of in together]
    return {
        "speed_up_per_core": round(statistics.median(ratio), 3),
        "of_each_round": [round(each, 3) for each in ratio],
        "by_the_clock": [round(each, 3) for each in clock],
        "cores_that_others_had": [round(each, 2) for each in others],
        "cpu_per_run_of_one": round(statistics.median(one.cpu / one.jobs for one in alone), 2),
        "cpu_per_run_of_many": round(statistics.median(cpu), 2),
        "runs_of_each": [[each.jobs for each in all_of] for all_of in together],
    }


def watched(crew: Crew, url: str, count: int) -> tuple[Sequence[WorkerSpell], float, float]:
    """What they did, seconds until the last was ready, and how many cores others had meanwhile, on average."""
    busy, mine, began = busy_of_machine(), cpu_of_ray(), time.monotonic()
    spells = [each for each in crew(url, count) if each.jobs]
    taken = time.monotonic() - began
    others = (busy_of_machine() - busy - (cpu_of_ray() - mine)) / taken
    return spells, max(each.ended for each in spells) - min(each.began for each in spells), others


def busy_of_machine() -> float:
    """CPU seconds of everybody since it was started."""
    user, nice, system, _, _, irq, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="free ones, of which the cost is counted")
    parser.add_argument("--runs", type=int, default=8, help="real ones of each worker in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    if os.getsid(0) != os.getpid():
        os.setsid()  # all that Ray starts is in this session
    found = measured(told.jobs, told.runs, told.rounds, len(cores()))
    print(json.dumps(found, indent=1))
    if told.json:
        told.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(found["cpu_per_job"] > GOALS["cpu_per_job"])


def measured(jobs: int, runs: int, rounds: int, many: int) -> Json:
    from dreamlab.jobs.engines import ray as engine

    engine.authenticate("")
    import ray

    with tempfile.TemporaryDirectory() as folder, engine.cluster("", many, 0):
        place = Path(folder)
        costing: Any = ray.remote(nothing).options(**engine.asked(0))
        ray.get(costing.remote(batch(place / "warm", 1)))
        before, url = cpu_of_ray(), batch(place / "free", jobs)
        ended = ray.get([costing.remote(url) for _ in range(many)])
        cost, worker = cpu_of_ray() - before, sum(seconds for _, seconds in ended)
        assert sum(count for count, _ in ended) == jobs
        cold, _ = timed(batch(place / "cold", 1, settings=SMALL), 1)
        warm, _ = timed(batch(place / "one", 1, settings=SMALL), 1)
        with ray_crew() as crew:
            of_ray = side_by_side(crew, place / "ray", many, runs, rounds)
    with tempfile.TemporaryDirectory() as folder, local_crew(many) as crew:
        of_machine = side_by_side(crew, Path(folder), many, runs, rounds)
    return {
        "jobs": jobs,
        "workers": many,
        "cpu_per_job": round(cost / jobs, 4),
        "cpu_per_job_of_workers": round(worker / jobs, 4),
        "first_job_cold": round(cold, 2),
        "first_job": round(warm, 2),
        "ray": of_ray,
        "local": of_machine,
        "load": [round(each, 1) for each in os.getloadavg()],
        "goals": GOALS,
    }


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.ray_overhead`: what Ray and the store cost beside the runs, on a cluster of this machine: CPU
seconds a job of everything that is no run, seconds until the first job begins, and what N workers get done on N cores
against one. Wall times are those of the machine as it is: its load is printed beside them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from dreamlab.core.files import Json
from dreamlab.core.threads import cores
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.ledger import HeldJob, Ledger
from dreamlab.jobs.engines.manifest import read_manifest, write_manifest
from dreamlab.jobs.engines.pull import AttemptOutcome, serve

GOALS = {"cpu_per_job": 0.2, "first_job": 5.0, "speed_up_per_core": 0.9}
SMALL = {
    "stages.0.steps": 60,
    "stages.0.size": 24,
    "stages.0.scene.count": 256,
    "export.faces": 300,
    "export.texture": 64,
    "export.pictures": "poster",
}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="free ones, of which the cost is counted")
    parser.add_argument("--runs", type=int, default=8, help="real ones for each core")
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    if os.getsid(0) != os.getpid():
        os.setsid()  # all that Ray starts is in this session
    found = measured(told.jobs, told.runs, len(cores()))
    print(json.dumps(found, indent=1))
    if told.json:
        told.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(found["cpu_per_job"] > GOALS["cpu_per_job"])


def measured(jobs: int, runs: int, many: int) -> Json:
    from dreamlab.jobs.engines import ray as engine

    engine.authenticate("")
    import ray

    engine.join("", many, 0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        costing: Any = ray.remote(nothing).options(**engine.asked(0))
        ray.get(costing.remote(batch(place / "warm", 1)))
        before, url = cpu_of_ray(), batch(place / "free", jobs)
        ended = ray.get([costing.remote(url) for _ in range(many)])
        cost, worker = cpu_of_ray() - before, sum(seconds for _, seconds in ended)
        assert sum(count for count, _ in ended) == jobs
        cold, _ = timed(batch(place / "cold", 1, settings=SMALL), 1)
        warm, alone = timed(batch(place / "one", runs, settings=SMALL), 1)
        _, together = timed(batch(place / "many", runs * many, settings=SMALL), many)
    ray.shutdown()
    return {
        "jobs": jobs,
        "workers": many,
        "cpu_per_job": round(cost / jobs, 4),
        "cpu_per_job_of_workers": round(worker / jobs, 4),
        "first_job_cold": round(cold, 2),
        "first_job": round(warm, 2),
        "speed_up_per_core": round(alone / together, 3),
        "load": [round(each, 1) for each in os.getloadavg()],
        "goals": GOALS,
    }


if __name__ == "__main__":
    main()

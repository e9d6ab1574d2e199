# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.batch_soak`: a batch of jobs of seconds whose workers are killed at random for three minutes,
and whose clocks are minutes apart. Each job must be done exactly once, with the bytes of a run that nobody touched."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.manifest import write_manifest
from dreamlab.jobs.engines.report import retry_failed, standing

EXPORT = {"export.turntable": 2, "export.texture": 0, "export.fit": False, "export.resolution": 16, "export.size": 32}
SMALL = {"stages.0.steps": 30, "stages.0.size": 16, "stages.0.scene.count": 48, "keeping.checkpoint": 3}
JOB = {"prompt": "a red mushroom with a white stem", "recipe": "oracle", "settings": SMALL | EXPORT}
KINDS = 4  # jobs that differ: so many undisturbed runs are held against
LEASE_S, SKEW_S, LOOK_S = 5.0, 420.0, 0.1
MODEL = "export/model.glb"
WORKER = """
import sys, time
skew = float(sys.argv.pop())
for name in ("time", "monotonic"):
    setattr(time, name, lambda real=getattr(time, name): real() + skew)
from dreamlab.jobs.engines.worker import main
main()
"""


@dataclass
class Soaked:
    jobs: int
    workers: int
    store: str
    kills: int = 0  # SIGKILL
    asked: int = 0  # SIGTERM
    seconds: float = 0.0
    attempts: int = 0
    ends: dict[str, int] = field(default_factory=dict)  # no Counter: asdict makes nonsense of it
    given_up: int = 0  # whose workers died three times; opened again, as a person would
    wrong: list[str] = field(default_factory=list)


def worker(url: str, skew: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WORKER, url, "--lease", str(LEASE_S), str(skew)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def jobs(count: int) -> Iterator[dict[str, object]]:
    return ({**JOB, "seed": i % KINDS} for i in range(count))


def undisturbed(url: str) -> list[bytes]:
    bucket = ObjectStore(url)
    write_manifest(bucket, jobs(KINDS))
    if worker(url, 0).wait():
        raise SystemExit("the undisturbed worker failed")
    return [result(bucket, row)[1] for row in range(KINDS)]


def result(bucket: ObjectStore, row: int) -> tuple[int, bytes]:
    """The attempt that counts, and its model."""
    key = f"{row // 1000:05d}/{row % 1000:04d}"
    attempt = json.loads(bucket.get(f"done/{key}") or b'{"attempt": 0}')["attempt"]
    return attempt, bucket.get(f"runs/{key}/{attempt}/{MODEL}") or b""


def disturbed(url: str, told: Soaked, seconds: float, gap: float, dice: random.Random) -> None:
    """Keep workers alive, and kill them, until nothing is open."""
    bucket, began = ObjectStore(url), time.monotonic()
    write_manifest(bucket, jobs(told.jobs))
    while standing(bucket).done < told.jobs:
        running = [worker(url, dice.uniform(-SKEW_S, SKEW_S)) for _ in range(told.workers)]
        strike = time.monotonic() + dice.expovariate(1 / gap)
        while any(each.poll() is None for each in running):
            now = time.monotonic()
            running = [
                each if each.poll() in (None, 0) else worker(url, dice.uniform(-SKEW_S, SKEW_S)) for each in running
            ]
            alive = [each for each in running if each.poll() is None]
            if alive and strike < now < began + seconds:
                kind = dice.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
                dice.choice(alive).send_signal(kind)
                told.kills, told.asked = told.kills + (kind == signal.SIGKILL), told.asked + (kind == signal.SIGTERM)
                strike = now + dice.expovariate(1 / gap)
            time.sleep(LOOK_S)
        told.given_up += retry_failed(bucket)
    told.seconds = round(time.monotonic() - began, 1)


def judged(url: str, told: Soaked, models: Sequence[bytes]) -> None:
    """One end that says done to each job, that of the attempt that counts, and the right bytes."""
    bucket = ObjectStore(url)
    told.attempts, ends = standing(bucket).attempts, Counter[str]()
    for shard in range((told.jobs + 999) // 1000):
        done = Counter[str]()
        for key in bucket.names(f"ends/{shard:05d}/"):
            end = json.loads(bucket.get(key) or b"{}")["end"]
            ends[end] += 1
            done[key.split("/")[2]] += end == "done"
        told.wrong += [f"{shard}/{row}: {count} times done" for row, count in done.items() if count != 1]
    told.ends = dict(ends)
    for row in range(told.jobs):
        attempt, model = result(bucket, row)
        if model != models[row % KINDS] or not attempt:
            told.wrong.append(f"job {row}, attempt {attempt}: other bytes than undisturbed")


def soak(place: str, calm: str, told: Soaked, seconds: float, gap: float, seed: int = 0) -> Soaked:
    """In a folder or bucket `place`, held against what is made in `calm`."""
    models = undisturbed(f"{calm}/undisturbed")
    disturbed(f"{place}/soaked", told, seconds, gap, random.Random(seed))
    judged(f"{place}/soaked", told, models)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=180.0, help="of killing")
    parser.add_argument("--gap", type=float, default=6.0, help="seconds between two, on average")
    parser.add_argument("--out", help="a folder or bucket; none: a folder that is removed")
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        wanted = Soaked(told.jobs, told.workers, told.out or "a folder")
        found = soak(told.out or place, place, wanted, told.seconds, told.gap)
    print(json.dumps(asdict(found), indent=1))
    if told.json:
        kept = json.loads(told.json.read_text()) if told.json.exists() else {}
        told.json.write_text(json.dumps(kept | {f"{told.seconds:g} s of killing": asdict(found)}, indent=1) + "\n")
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()

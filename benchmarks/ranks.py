# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.ranks`: steps of one process beside the same shared by two, in turn: seconds of the clock, CPU
seconds of the busiest process, and what each has to tell the other per step. One thread each.

    python -m benchmarks.ranks --json docs/benchmarks/ranks.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from dreamlab.metrics.figures import Check, report
from dreamlab.recipe import load
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.ranks import ALONE, Alone, Ranks
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step

REPEATS = 3
QUIET = 1.15  # of wall time over CPU time, below which the clock says something
FLOOR = 1.6  # times as fast as one, in CPU time of the busiest process

RECIPES = {
    "prior": (
        "{kind: gaussians, count: 4096}",
        "{guidance: toybox, system: {kind: ism, cfg: 7.5}}",
        "views: 8, size: 64",
        4,
    ),
    "field": (
        "{kind: field}",
        "{guidance: {kind: toybox}, system: {kind: sds}}",
        "views: 4, size: 48",
        3,
    ),
    "particles": (
        "{kind: gaussians, count: 4096}",
        "{guidance: toybox, system: {kind: vsd, width: 16}}",
        "views: 8, size: 64, particles: 2, at_once: 2",
        4,
    ),
    "prompts": (
        "{kind: hyper_field}",
        "{guidance: toybox, system: sds}",
        "views: 4, size: 48, at_once: 2",
        3,
    ),
}
OTHERS = {"prompts": "prompts: [a blue mug, a green pear, a white dice]"}


def recipe(name: str) -> str:
    scene, term, more, _ = RECIPES[name]
    stage = f"{{name: shape, scene: {scene}, terms: [{term}], steps: 1000, {more}}}"
    return f"prompt: a red mushroom with a white stem\nstages: [{stage}]\n{OTHERS.get(name, '')}\n"


@dataclass(frozen=True)
class RankCost:
    """Of one step, the mean."""

    wall: float
    cpu: float
    sent: float  # bytes


class RankedStage:
    """A stage that is gone on with."""

    def __init__(self, name: str, ranks: Alone) -> None:
        self.ranks, self.done, self.count = ranks, 0, RECIPES[name][3]
        self.stage = Assembler(load(recipe(name), TABLES), "cpu", ranks=ranks).stage(0)
        self.spend()

    def spend(self) -> RankCost:
        ring = Ring(METRICS, self.count, "cpu")
        sent = self.ranks.sent if isinstance(self.ranks, Ranks) else 0
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(self.count):
            step(self.stage, self.done, ring)
            self.done += 1
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        sent = self.ranks.sent - sent if isinstance(self.ranks, Ranks) else 0
        return RankCost(wall / self.count, cpu / self.count, sent / self.count)


def beside(rank: int, store: str, told: Connection) -> None:
    """One of two processes: measures its part whenever it is told to."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    while (name := told.recv()) is not None:
        steps = RankedStage(name, Ranks(rank, 2))
        told.send(None)
        for _ in range(REPEATS):
            told.recv()
            told.send(steps.spend())
    dist.destroy_process_group()


def measure(name: str, pipes: list[Connection]) -> list[Check]:
    """One process and two, in turn."""
    for pipe in pipes:
        pipe.send(name)
    one = RankedStage(name, ALONE)
    for pipe in pipes:
        pipe.recv()
    alone: list[RankCost] = []
    shared: list[list[RankCost]] = []
    for _ in range(REPEATS):
        alone.append(one.spend())
        for pipe in pipes:
            pipe.send(None)
        shared.append([pipe.recv() for pipe in pipes])
    wall = [a.wall / max(s.wall for s in both) for a, both in zip(alone, shared, strict=True)]
    cpu = [a.cpu / max(s.cpu for s in both) for a, both in zip(alone, shared, strict=True)]
    everybody = [*alone, *(s for both in shared for s in both)]
    quiet = statistics.median(s.wall / s.cpu for s in everybody) < QUIET
    sent = statistics.median(max(s.sent for s in both) for both in shared)
    details = {
        "wall_ratio": round(statistics.median(wall), 2),
        "cpu_ratio": round(statistics.median(cpu), 2),
        "quiet": quiet,
        "one_ms": round(1e3 * statistics.median(s.wall for s in alone), 1),
        "one_cpu_ms": round(1e3 * statistics.median(s.cpu for s in alone), 1),
        "busiest_cpu_ms": round(1e3 * statistics.median(max(s.cpu for s in both) for both in shared), 1),
    }
    clock = wall if quiet else cpu
    note = "" if quiet else "machine is busy: CPU time of the busiest process"
    speed = Check(f"two_ranks_vs_one_{name}", round(statistics.median(clock), 2), "x", FLOOR, "higher", note, details)
    return [speed, Check(f"two_ranks_sent_{name}", round(sent / 1e6, 3), "MB a step", None, "lower")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=sorted(RECIPES))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = [context.Pipe() for _ in range(2)]
        workers = [
            context.Process(target=beside, args=(rank, f"{folder}/store", pair[1])) for rank, pair in enumerate(pairs)
        ]
        for worker in workers:
            worker.start()
        pipes = [pair[0] for pair in pairs]
        for name in [asked.only] if asked.only else RECIPES:
            checks += measure(name, pipes)
        for pipe in pipes:
            pipe.send(None)
        for worker in workers:
            worker.join()
    sys.exit(not report(checks, asked.json))


if __name__ == "__main__":
    main()

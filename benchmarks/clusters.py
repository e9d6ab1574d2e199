# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.clusters`: a thousand workers and up to a million jobs of minutes, simulated: the worker's own
decisions on a store that counts, with workers and whole nodes that die, stragglers, sleepers that wake to write, and a
slow store. Prints what the store is asked per job, what work is lost, how long it takes against the shortest possible,
what it costs, and what a million assets of each recipe would."""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.plots import Plot, svg
from dreamlab.jobs.engines.courier import SEND_S
from dreamlab.jobs.engines.ledger import HeldJob
from dreamlab.jobs.engines.simulated import JobRows, PlainStore, Simulation

LEAST_MIN, MOST_MIN, STRAGGLERS, LONGER = 1, 6, 0.001, 8  # minutes of a GPU a job; one in a thousand takes eight times
PUT, GET, LIST, STORED = 5.0e-6, 0.4e-6, 5.0e-6, 0.023  # dollars: a request of S3, a gigabyte and month
GPU_HOUR = 2.5  # dollars
NODE, BACK_S = 8, 300.0  # workers that die with a node, and when others are there in their place
FILES, OF_CHECKPOINT = 25, 7  # of a run's beginning and results; of a checkpoint with its state and name
PICTURE = Path("docs/images/clusters/simulation.svg")
# Seconds of one H200 at half its roof, for the published number of steps (the table in docs/clusters.md).
RECIPES = {"dreamgaussian": 5, "gaussiandreamer": 47, "dreamfusion-sd": 98, "mvdream": 146, "luciddreamer": 438}
MILLION = 1_000_000


@dataclass(frozen=True)
class World:
    """What is simulated; shares are of attempts, nodes of a day."""

    workers: int
    jobs: int
    deaths: float = 0.0
    freezes: float = 0.0
    nodes_a_day: float = 0.0  # that die, of all
    latency: float = 0.05  # seconds of a request: exponential, with this mean


@dataclass(frozen=True)
class Figures:
    world: World
    done: int
    given_up: int
    hours: float  # of the clock
    ideal: float  # hours: all work, divided by the workers
    nine_tenths: float  # hours until nine tenths were done, of what an ideal needs for them
    wasted: float  # share of all work that was done for nothing
    waited: float  # share of all worker hours that the store took
    creates: float  # requests a job
    puts: float
    gets: float
    lists: float
    files: float  # of the runs themselves: their checkpoints and results
    busiest: float  # requests a second of all workers while they work
    store_dollars: float
    gpu_dollars: float
    late: int  # commits of attempts that had been superseded, all refused
    simulated_in: float  # seconds of CPU

    @property
    def efficiency(self) -> float:
        return self.ideal / self.hours

    def line(self) -> str:
        w = self.world
        return (
            f"{w.workers:5d} workers, {w.jobs:7d} jobs, {w.deaths:.0%} die, {w.freezes:.1%} freeze, {w.nodes_a_day:g} "
            f"nodes a day, {1000 * w.latency:g} ms: {self.done} done, {self.hours:.2f} h ({self.efficiency:.1%} of "
            f"ideal, {self.nine_tenths:.1%} to nine tenths), {self.wasted:.2%} for nothing, {self.waited:.2%} for the "
            f"store; a job {self.creates:.2f} creates, {self.puts:.1f} puts, {self.gets:.1f} gets, {self.lists:.2f} "
            f"lists, {self.files:.0f} files; {self.busiest:.0f} requests a second; store ${self.store_dollars:.2f}, "
            f"GPUs ${self.gpu_dollars:.0f}; {self.late} late commits refused; {self.simulated_in:.0f} s of CPU"
        )


def minutes_of(key: str, seed: int = 0) -> float:
    own = random.Random(f"{seed} {key}")
    return own.uniform(LEAST_MIN, MOST_MIN) * (LONGER if own.random() < STRAGGLERS else 1)


def simulate(told: World, seed: int = 0) -> Figures:
    store, dice, began = PlainStore(), random.Random(seed), time.process_time()
    rows = JobRows({shard: min(1000, told.jobs - 1000 * shard) for shard in range((told.jobs + 999) // 1000)})

    def fate(held: HeldJob) -> str:
        drawn = dice.random()
        return "dies" if drawn < told.deaths else "freezes" if drawn < told.deaths + told.freezes else "ends"

    world = Simulation(store, rows, lambda held: minutes_of(held.task.key, seed), fate)
    world.latency = lambda: dice.expovariate(1 / told.latency) if told.latency else 0.0
    world.saves = SEND_S
    for i in range(told.workers):
        world.hire(f"w{i}", dice.uniform(-300, 300))
    if told.nodes_a_day:
        strike(world, told.nodes_a_day, dice)
    gc.disable()  # nothing in a world refers in circles, and there is much of it
    world.run()
    gc.enable()
    return figures(
        told,
        world,
        sum(60 * minutes_of(rows.task(s, r).key, seed) for s, n in rows.counts.items() for r in range(n)),
        began,
    )


def strike(world: Simulation, nodes_a_day: float, dice: random.Random) -> None:
    """Now and then a node is gone: the workers on it, at once."""

    def one() -> None:
        alive = [life for life in world.lives if life.alive]
        if not alive:
            return
        for life in dice.sample(alive, min(NODE, len(alive))):
            world.die(life, None, BACK_S)
        world.at(world.now + dice.expovariate(nodes_a_day / 86400), one)

    world.at(dice.expovariate(nodes_a_day / 86400), one)


def figures(told: World, world: Simulation, work: float, began: float) -> Figures:
    store, asked, jobs = world.bucket, world.bucket.asked, told.jobs
    checkpoints = (work + world.wasted) / SEND_S
    files = FILES * world.started.total() + OF_CHECKPOINT * checkpoints
    dollars = PUT * (asked["create"] + asked["put"] + files) + GET * asked["get"] + LIST * asked["names"]
    total, most = asked.total() + files, sorted(world.commits)
    nine = most[int(0.9 * len(most)) - 1]
    return Figures(
        world=told,
        done=store.count("done/"),
        given_up=store.count("poison/"),
        hours=world.ended / 3600,
        ideal=work / told.workers / 3600,
        nine_tenths=0.9 * work / told.workers / nine,
        wasted=world.wasted / (work + world.wasted),
        waited=world.waited / (world.ended * told.workers),
        creates=asked["create"] / jobs,
        puts=asked["put"] / jobs,
        gets=asked["get"] / jobs,
        lists=asked["names"] / jobs,
        files=files / jobs,
        busiest=0.9 * total / nine,
        store_dollars=dollars,
        gpu_dollars=told.workers * world.ended / 3600 * GPU_HOUR,
        late=len(world.late),
        simulated_in=time.process_time() - began,
    )


def worlds(most: int) -> list[World]:
    """The share of each kind of harm, one after the other, then all of it at once."""
    harm = World(1000, 100_000, 0.02, 0.002, 24, 0.05)
    found = [World(10, 1_000), World(100, 1_000), World(100, 10_000), World(1000, 10_000), World(1000, 100_000)]
    found += [World(100, 10_000, deaths) for deaths in (0.01, 0.03, 0.1)]
    found += [World(100, 10_000, 0.02, 0.002, 24, latency) for latency in (0.01, 0.1, 1.0)]
    found += [harm, World(1000, most, 0.02, 0.002, 24, 0.05)]
    return [world for world in dict.fromkeys(found) if world.jobs <= most]


def million(told: Figures) -> list[str]:
    """The paper's calculation, with the efficiency and the requests that were simulated."""
    said = []
    for name, seconds in RECIPES.items():
        hours = MILLION * seconds / 3600 / told.efficiency
        requests = told.creates + told.lists + FILES + (seconds / 30 + OF_CHECKPOINT * seconds / SEND_S)
        said.append(
            f"{name:16s} {seconds:4d} s an asset: a million take {hours:8.0f} GPU hours, {hours / 24000:5.1f} days of "
            f"1,000 GPUs, ${hours * GPU_HOUR:9,.0f}; the store's requests ${MILLION * requests * PUT:6,.0f}"
        )
    return said


def pictured(found: Sequence[Figures]) -> str:
    """Against workers with a hundred jobs each: what is lost of the ideal, and lists; against deaths, waste; against
    latency, waiting."""

    def points(which: Sequence[Figures], across: str, up: str) -> list[tuple[float, float]]:
        pairs = sorted((float(asdict(f.world)[across]), 100 * float(asdict(f)[up])) for f in which)
        return [(x, y) for x, y in pairs if x > 0 and y > 0]

    calm = [f for f in found if not (f.world.deaths or f.world.nodes_a_day)]
    alike = [f for f in calm if f.world.jobs == 100 * f.world.workers]
    lost = sorted((f.world.workers, 100 * (1 - f.efficiency)) for f in alike)
    asked = sorted((f.world.workers, f.lists) for f in alike)
    deaths = [f for f in found if f.world.deaths and not f.world.nodes_a_day]
    slow = [f for f in found if f.world.nodes_a_day and f.world.jobs == 10_000]
    by_latency = [(1000 * x, y) for x, y in points(slow, "latency", "waited")]
    return svg(
        [
            Plot("Lost of the ideal, %", "workers, 100 jobs each", "stragglers at the end", lost),
            Plot("Lists a job", "workers, 100 jobs each", "looks of who has nothing", asked),
            Plot(
                "Work done for nothing, %",
                "% of attempts that die",
                "20 s between checkpoints",
                [(100 * x, y) for x, y in points(deaths, "deaths", "wasted")],
            ),
            Plot("Worker time for the store, %", "ms a request", "decisions alone", by_latency),
        ],
        columns=2,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=100_000, help="jobs of the largest simulation")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help=f"e.g. {PICTURE}")
    told = parser.parse_args()
    found = []
    for world in worlds(told.most):
        found.append(simulate(world))
        print(found[-1].line(), flush=True)
        if told.json:
            kept = [asdict(each) | {"efficiency": each.efficiency} for each in found]
            told.json.write_text(json.dumps({"simulated": kept}, indent=1) + "\n")
    print("\n".join(million(found[-1])))
    if told.picture:
        told.picture.parent.mkdir(parents=True, exist_ok=True)
        told.picture.write_text(pictured(found))
    sys.exit(any(each.done + each.given_up != each.world.jobs for each in found))


if __name__ == "__main__":
    main()

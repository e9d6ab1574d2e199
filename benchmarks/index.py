# SPDX-License-Identifier: Apache-2.0
"""How long the index of 10,000 run folders takes: to be built, to be looked at again, to be paged and searched. The
folders are in the system's cache; a page sees what came and went, and begins a look at all of them behind it."""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.harness import QUIET
from dreamlab.core.files import Json
from dreamlab.jobs.index import SORTS, RunIndex
from dreamlab.metrics.figures import Check, report

RUNS = 10_000
BUILD_FLOOR, LOOK_FLOOR, PAGE_FLOOR = 10.0, 2.0, 0.3  # s
REPEATS = 15
COLOURS = ("red", "green", "blue", "white", "golden", "purple", "black", "grey")
THINGS = ("mushroom", "chair", "cactus", "rocket", "fish", "house", "tree", "robot", "lamp", "teapot")
Made = TypeVar("Made")
METRICS = 30  # lines of a log, as the default recipe writes


def folders(root: Path, count: int) -> None:
    """Run folders as finished ones are, but for the bytes of their assets."""
    draw = random.Random(0)
    recipe = "prompt: x\nstages:\n" + "- name: shape\n  steps: 300\n" * 40 + "seed: {}\n"
    for i in range(count):
        prompt = f"a {draw.choice(COLOURS)} {draw.choice(THINGS)} with {draw.choice(COLOURS)} spots {i}"
        identity = f"{i:012d}"
        path = root / f"{prompt.replace(' ', '-')[:40]}-{identity}"
        (path / "export").mkdir(parents=True)
        (path / "previews").mkdir()
        (path / "export" / "poster.png").write_bytes(b"\x89PNG")
        created = f"2026-{1 + i % 12:02d}-{1 + i % 28:02d}T{i % 24:02d}:{i % 60:02d}:00.{i % 1000:03d}+00:00"
        spec: Json = {"id": identity, "prompt": prompt, "created": created, "command": ["dreamlab", "dream", prompt]}
        if i % 10 == 9:
            spec["parent"] = {"id": f"{i - 1:012d}", "step": 100, "run": ""}
        (path / "spec.json").write_text(json.dumps(spec))
        (path / "recipe.yaml").write_text(recipe.format(i))
        (path / "state.json").write_text(json.dumps({"state": "succeeded", "step": 300, "updated": created}))
        lines = [json.dumps({"time": created, "kind": "start", "device": "cpu"})]
        more = {"stage": "shape", "seconds": 1.0, "loss": 0.1, "grad_rms": 0.01, "alpha": 0.2, "healthy": 1.0}
        lines += [json.dumps({"time": created, "kind": "metrics", "global_step": k} | more) for k in range(METRICS)]
        (path / "events.jsonl").write_text("\n".join(lines) + "\n")


@dataclass
class Clock:
    """Seconds by the clock and of the processor, call by call."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], Made]) -> Made:
        wall, cpu = time.perf_counter(), time.process_time()
        made = call()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        return made

    def check(self, name: str, floor: float, what: Callable[[list[float]], float], note: str, **more: object) -> Check:
        """By the clock where the machine was quiet, else of the processor: a neighbour's time is not ours."""
        quiet = sum(self.wall) <= QUIET * sum(self.cpu)
        details = {"clock": "wall" if quiet else "cpu", "wall_s": round(what(self.wall), 4)}
        details |= {"cpu_s": round(what(self.cpu), 4), "calls": len(self.wall)}
        return Check(name, round(what(self.wall if quiet else self.cpu), 4), "s", floor, "lower", note, details | more)


def walked(index: RunIndex) -> Clock:
    """Every page of 50, to the end."""
    clock, cursor = Clock(), ""
    while True:
        page = clock.time(functools.partial(index.page, cursor=cursor))
        if not (cursor := page.next):
            return clock


def measure(count: int = RUNS) -> list[Check]:
    build, again, search, tree = (Clock() for _ in range(4))
    with tempfile.TemporaryDirectory(prefix="index-") as place:
        root = Path(place)
        folders(root, count)
        index = RunIndex(root)
        build.time(index.rebuild)
        time.sleep(2.1)  # what is younger than that is read once more
        index.refresh()
        for _ in range(REPEATS):
            again.time(index.refresh)
        pages = walked(index)
        for sort in SORTS:
            for text in ("", "red mush", "spots 77"):
                search.time(functools.partial(index.page, text=text, sort=sort))
        for i in range(9, min(count, 200), 10):
            tree.time(functools.partial(index.tree, f"{i:012d}"))
        size = index.file.stat().st_size
    return [
        build.check("index_built", BUILD_FLOOR, max, f"{count} folders", runs=count, bytes=size),
        again.check("index_looked_at", LOOK_FLOOR, statistics.median, "nothing has changed; no page waits for it"),
        pages.check("index_page", PAGE_FLOOR, _p95, "95 % of all pages of 50", most_wall_s=round(max(pages.wall), 4)),
        search.check("index_search", PAGE_FLOOR, max, "slowest: words in every order"),
        tree.check("index_tree", PAGE_FLOOR, max, "slowest"),
    ]


def _p95(values: list[float]) -> float:
    return sorted(values)[min(int(0.95 * len(values)), len(values) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    return 0 if report(measure(given.runs), given.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

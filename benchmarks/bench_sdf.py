# SPDX-License-Identifier: Apache-2.0
"""Benches of `sdf`: pictures of the whole toy world per second, and against the torch twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.harness import Timing, fitted_exponent, interleave, ratio_check, time_once
from cuda_ext import sdf as op
from dreamlab.core.cameras import turntable
from dreamlab.metrics.figures import Check
from dreamlab.toybox.draw import Light
from dreamlab.toybox.program import Program, stack
from dreamlab.toybox.shapes import CATEGORIES, program

SIZE, SAMPLES = 64, 2


@dataclass(frozen=True)
class Case:
    """Programs seen from `views` cameras around them, `size` pixels wide."""

    programs: Program
    views: int
    size: int

    @property
    def pictures(self) -> int:
        return len(self.programs) * self.views

    def draw(self, backend: str = "native") -> op.Drawn:
        cameras, count = turntable(self.views), len(self.programs)
        pose, focal = cameras.camera_to_world.expand(count, -1, -1, -1), cameras.focal_px(self.size).expand(count, -1)
        tables = (self.programs.rows, self.programs.parts, self.programs.bound, pose, focal, Light().packed())
        return op.draw(*tables, self.size, self.size, SAMPLES, backend=backend)


def world() -> Program:
    """One instance of every category."""
    return stack([program(name, seed=1) for name in CATEGORIES])


def rate(name: str, case: Case, timing: Timing, floor: float, threads: int) -> Check:
    """Pictures per second: of the wall on a quiet machine, else of CPU time as if every thread had a core."""
    wall, shared = timing.wall_median, timing.cpu_median / threads
    quiet = wall <= 1.15 * shared
    details = {
        "clock": "wall" if quiet else "cpu",
        "wall_per_s": round(case.pictures / wall),
        "cpu_ms_per_picture": round(1e3 * timing.cpu_median / case.pictures, 3),
        "threads": threads,
    }
    return Check(name, round(case.pictures / (wall if quiet else shared)), "pictures/s", floor, details=details)


def making() -> Check:
    """Writing a program (Python) must not cost more than drawing a few of its pictures."""
    names = list(CATEGORIES)

    def write() -> None:
        for seed, name in enumerate(names):
            program(name, seed=seed)

    timing = interleave({"write": write})["write"]
    each = 1e3 * timing.cpu_median / len(names)
    return Check("sdf_program_write", round(each, 3), "ms", 5.0, "lower", "CPU time of one instance")


def entries() -> list[Check]:
    threads = torch.get_num_threads()
    every = Case(world(), 2, SIZE)
    few = Case(every.programs[::12], 1, SIZE)
    timing = interleave({"every": every.draw})
    torch.set_num_threads(1)  # both sides: the twin's many small tensors only lose by sharing
    try:
        twin = interleave({"native": few.draw, "twin": lambda: few.draw("torch")}, repeats=3)
    finally:
        torch.set_num_threads(threads)
    return [
        rate("sdf_world_64", every, timing["every"], 800.0, threads),
        ratio_check("sdf_vs_twin", twin["native"], twin["twin"], 100.0, threads=1),
        making(),
    ]


def scaling() -> list[Check]:
    """Fitted exponents of CPU time against pictures and pixels."""
    some = world()[::8]
    sweeps: dict[str, list[tuple[float, Callable[[], op.Drawn]]]] = {
        "pictures": [(v, Case(some, v, 32).draw) for v in (1, 2, 4, 8, 16)],
        "pixels": [(s * s, Case(some, 1, s).draw) for s in (32, 64, 128, 256)],
    }
    checks = []
    for name, cases in sweeps.items():
        times = []
        for _, call in cases:
            call()
            times.append(min(time_once(call)[1] for _ in range(3)))
        sizes = [size for size, _ in cases]
        details = {"sizes": sizes, "cpu_ms": [round(1e3 * t, 2) for t in times]}
        value = round(fitted_exponent(sizes, times), 3)
        checks.append(Check(f"sdf_time_exponent_{name}", value, "", 1.05, "lower", details=details))
    return checks

# SPDX-License-Identifier: Apache-2.0
"""Cost against size: process-CPU time and peak memory of one piece of work, for what grows in a user's hands.

Each size runs in a process of its own on one thread: its peak memory is its own, and no size finds the caches of
another warm. Exponents are fitted where an axis is large (below, constant costs make everything look better than
proportional); the largest slope between neighbours there is told beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import fitted_exponent
from benchmarks.plots import Plot, svg
from benchmarks.scale_axes import AXES, Axis
from dreamlab.metrics.figures import Check, report

CEILING = 1.05
REPEATS = 3
LONG_S = 10.0  # work that takes so long is done once


@dataclass(frozen=True)
class Point:
    size: int
    cpu_s: float
    peak_bytes: int  # above what the process held before it


def here(name: str, size: int) -> Point:
    """Measure in this process."""
    import torch

    torch.set_num_threads(1)
    work = AXES[name].prepare(size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
    before = status_bytes("VmRSS")
    times = []
    for i in range(1 + REPEATS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
        if i == 0 and times[0] > LONG_S:
            break
    return Point(size, min(times[1:] or times), max(status_bytes("VmHWM") - before, 0))


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def apart(name: str, size: int) -> Point:
    """Measure in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "benchmarks.scale", "--point", name, str(size)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} {size}: exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def checks_of(name: str, axis: Axis, points: list[Point]) -> list[Check]:
    large = [point for point in points if point.size >= axis.from_size]
    sizes = [float(point.size) for point in large]
    found = []
    for kind, costs, unit in (
        ("time", [point.cpu_s for point in large], "us CPU"),
        ("memory", [float(max(point.peak_bytes, 1)) for point in large], "bytes"),
    ):
        slopes = [
            fitted_exponent([a, b], [c, d]) for (a, b), (c, d) in zip(pairwise(sizes), pairwise(costs), strict=True)
        ]
        per_unit = (costs[-1] - costs[-2]) / (sizes[-1] - sizes[-2])  # without what any size costs
        details = {
            "about": axis.about,
            "from": axis.from_size,
            "steepest": round(max(slopes), 3),
            "per_unit": f"{per_unit * (1e6 if kind == 'time' else 1):.3g} {unit}",
            "sizes": [point.size for point in points],
            "cpu_s": [round(point.cpu_s, 5) for point in points],
            "peak_mb": [round(point.peak_bytes / 1e6, 1) for point in points],
        }
        exponent = round(fitted_exponent(sizes, costs), 3)
        note = f"{details['per_unit']} each"
        found.append(Check(f"{kind}_exponent_{name}", exponent, "", CEILING, "lower", note, details))
    return found


def measure(only: list[str] | None = None, plot: Path | None = None) -> list[Check]:
    checks, plots = [], []
    for name in only or list(AXES):
        axis = AXES[name]
        points = [apart(name, size) for size in axis.sizes]
        checks += checks_of(name, axis, points)
        seconds = [(float(point.size), point.cpu_s) for point in points]
        plots.append(Plot(name, axis.about, "CPU seconds, one thread", seconds))
    if plot is not None:
        plot.write_text(svg(plots), "utf-8")
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="write the checks here")
    parser.add_argument("--only", nargs="+", choices=list(AXES), default=None, help="axes to measure")
    parser.add_argument("--plot", type=Path, default=None, help="write an SVG here")
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "SIZE"), default=None, help="one size, in this process")
    options = parser.parse_args()
    if options.point:
        print(json.dumps(vars(here(options.point[0], int(options.point[1])))))
        return 0
    return 0 if report(measure(options.only, options.plot), options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

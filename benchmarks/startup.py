# SPDX-License-Identifier: Apache-2.0
"""How long a user waits before anything happens, in fresh processes taken in turn; process CPU time, so that a busy
machine counts for little: imports beside `import torch`, commands that need no torch, and the way from Enter to the
end of the first step of the default recipe."""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import QUIET
from dreamlab.metrics.figures import Check, report

REPEATS = 9
IMPORT_FLOOR = 1.15  # `import dreamlab` followed by torch, over `import torch`
ANSWER_FLOOR = 0.6  # s, of commands that compute nothing
STEP_FLOOR = 1.8  # s
IMPORTS = {
    "torch": "import torch",
    "dreamlab": "import torch, dreamlab",
    "pipeline": "import torch, dreamlab.pipeline",
}
COMMANDS = {
    "help": ("--help",),
    "list_systems": ("list", "systems"),
    "list_objects": ("list", "objects"),
    "doctor": ("doctor",),
    "usage_error": ("dream", "a mushroom", "--recipe", "nosuch"),
}
# The environment is what `main` sets before torch is loaded, which the hook does earlier.
FIRST_STEP = """
import os, sys, time
from dreamlab.run import train
made = train.step
def step(*given):
    made(*given)
    print(time.process_time(), time.time() - float(sys.argv[2]), flush=True)
    os._exit(0)
train.step = step
from dreamlab.cli import main
main(["dream", "a red mushroom with a white stem", "seed=0", "--out", sys.argv[1]])
"""


def cpu_seconds(*command: str) -> float:
    """User plus system time of a program, once it has ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=False, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step() -> tuple[float, float]:
    """Of CPU time, and by the clock."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", FIRST_STEP, folder, str(time.time())]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    used, passed = done.stdout.split()
    return float(used), float(passed)


def measure() -> list[Check]:
    taken: dict[str, list[float]] = {name: [] for name in (*IMPORTS, *COMMANDS, "first_step", "passed")}
    for i in range(REPEATS + 1):
        for name, code in IMPORTS.items():
            taken[name].append(cpu_seconds("-c", code))
        for name, words in COMMANDS.items():
            taken[name].append(cpu_seconds("-m", "dreamlab", *words))
        used, passed = first_step()
        taken["first_step"].append(used)
        taken["passed"].append(passed)
        if i == 0:  # the first start reads from disk
            taken = {name: [] for name in taken}
    checks = []
    for name, floor in (("dreamlab", IMPORT_FLOOR), ("pipeline", None)):
        ratios = [ours / torch for ours, torch in zip(taken[name], taken["torch"], strict=True)]
        seconds = {case: round(statistics.median(taken[case]), 3) for case in IMPORTS}
        checks.append(
            Check(
                f"import_{name}_vs_torch",
                round(statistics.median(ratios), 3),
                "x",
                floor,
                "lower",
                details={"cpu_s": seconds},
            )
        )
    used, passed = (statistics.median(taken[name]) for name in ("first_step", "passed"))
    quiet = passed <= QUIET * used  # else a neighbour's time is in it
    note = f"{used:.2f} s of CPU, {passed:.2f} s by the clock"
    details = {"clock": "wall" if quiet else "cpu", "cpu_s": taken["first_step"], "wall_s": taken["passed"]}
    checks.append(Check("first_step", round(passed if quiet else used, 3), "s", STEP_FLOOR, "lower", note, details))
    for name in COMMANDS:
        quartiles = [round(value, 3) for value in statistics.quantiles(taken[name], n=4)]
        checks.append(
            Check(
                f"cpu_{name}",
                round(statistics.median(taken[name]), 3),
                "s",
                ANSWER_FLOOR,
                "lower",
                details={"quartiles": quartiles, "least": round(min(taken[name]), 3)},
            )
        )
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    return 0 if report(measure(), parser.parse_args().json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

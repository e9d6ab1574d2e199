# SPDX-License-Identifier: Apache-2.0
"""How long imports take beside `import torch`, in fresh processes taken in turn; process CPU time."""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from dreamlab.metrics.figures import Check, report

REPEATS = 9
FLOOR = 1.15  # `import dreamlab` followed by torch, over `import torch`
CASES = {
    "torch": "import torch",
    "dreamlab": "import torch, dreamlab",
    "pipeline": "import torch, dreamlab.pipeline",
}


def cpu_seconds(code: str) -> float:
    """User plus system time of a fresh interpreter that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure() -> list[Check]:
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for name in CASES:
        cpu_seconds(CASES[name])  # the first start reads from disk
    for _ in range(REPEATS):
        for name, code in CASES.items():
            taken[name].append(cpu_seconds(code))
    checks = []
    for name, floor in (("dreamlab", FLOOR), ("pipeline", None)):
        ratios = [ours / torch for ours, torch in zip(taken[name], taken["torch"], strict=True)]
        seconds = {case: round(statistics.median(values), 3) for case, values in taken.items()}
        value = round(statistics.median(ratios), 3)
        checks.append(Check(f"import_{name}_vs_torch", value, "x", floor, "lower", details={"cpu_s": seconds}))
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    return 0 if report(measure(), parser.parse_args().json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""All benches of the native ops.

    python -m benchmarks.kernels [--json FILE] [--only NAME ...] [--scaling] [--model] [--threads N]

Exit code 1 when a floor is missed.
"""

from __future__ import annotations

import os

# Threads that wait must not burn the CPU time of those that work; OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import importlib
from pathlib import Path

import torch

from dreamlab.metrics.figures import Check, report


def names() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def collect(only: list[str], scaling: bool) -> list[Check]:
    checks: list[Check] = []
    for name in only:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        if not scaling:
            checks += module.entries()
        elif hasattr(module, "scaling"):
            checks += module.scaling()
    return checks


def modelled() -> list[Check]:
    """What the CUDA kernels would take on an H200 (benchmarks/model.py), beside times where there is a device."""
    from benchmarks import model

    return model.entries()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="write the checks here")
    parser.add_argument("--only", nargs="+", choices=names(), default=names(), help="ops to measure")
    parser.add_argument("--scaling", action="store_true", help="fitted exponents of time and memory instead of ratios")
    parser.add_argument("--model", action="store_true", help="a model of the CUDA kernels on an H200 instead of ratios")
    parser.add_argument("--threads", type=int, default=None, help="thread count (default: torch's)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    checks = modelled() if options.model else collect(options.only, options.scaling)
    return 0 if report(checks, options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""Interleaved A-B-A-B measurement of two callables, and the report every bench writes.

A ratio is the median over repeats of slow / fast, each pair measured back to back, so that a machine that changes
its mind changes both. The ratio reported is of wall time when the machine was quiet (wall within QUIET of CPU time
per thread on the one-thread side), else of process CPU time, where a busy neighbour costs nothing; `clock` says which.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

REPEATS = 9
QUIET = 1.15


@dataclass(frozen=True)
class Check:
    """One measured claim: `value` must be on the `better` side of `floor`."""

    name: str
    value: float
    unit: str
    floor: float | None
    better: str = "higher"
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        if self.floor is None:
            return True
        return self.value >= self.floor if self.better == "higher" else self.value <= self.floor


@dataclass(frozen=True)
class Timing:
    wall: list[float]  # s
    cpu: list[float]  # s, all threads of the process

    @property
    def wall_median(self) -> float:
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu)


def time_once(call: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleave(calls: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, Timing]:
    """Time the calls in turn, `repeats` rounds after one round that is thrown away."""
    for call in calls.values():
        call()
    timings: dict[str, Timing] = {name: Timing([], []) for name in calls}
    gc.collect()
    gc.disable()  # a collection in between empties the caches
    try:
        for _ in range(repeats):
            for name, call in calls.items():
                wall, cpu = time_once(call)
                timings[name].wall.append(wall)
                timings[name].cpu.append(cpu)
    finally:
        gc.enable()
    return timings


def ratio_check(
    name: str, fast: Timing, slow: Timing, floor: float | None, *, threads: int, slow_threads: int = 1, **details: Any
) -> Check:
    """slow / fast. On a busy machine: CPU time, as if the fast side's threads had shared it evenly."""
    pairs_wall = [s / f for s, f in zip(slow.wall, fast.wall, strict=True)]
    pairs_cpu = [(s / slow_threads) / (f / threads) for s, f in zip(slow.cpu, fast.cpu, strict=True)]
    quiet = (
        fast.wall_median * threads <= QUIET * fast.cpu_median
        and slow.wall_median * slow_threads <= QUIET * slow.cpu_median
    )
    pairs = pairs_wall if quiet else pairs_cpu
    quartiles = statistics.quantiles(pairs, n=4)
    return Check(
        name,
        round(statistics.median(pairs), 2),
        "x",
        floor,
        details={
            "clock": "wall" if quiet else "cpu",
            "wall_ratio": round(statistics.median(pairs_wall), 2),
            "cpu_ratio": round(statistics.median(pairs_cpu), 2),
            "quartiles": [round(quartiles[0], 2), round(quartiles[2], 2)],
            "fast_ms": round(1e3 * fast.wall_median, 3),
            "slow_ms": round(1e3 * slow.wall_median, 3),
            "fast_cpu_ms": round(1e3 * fast.cpu_median, 3),
            "slow_cpu_ms": round(1e3 * slow.cpu_median, 3),
            "repeats": len(pairs),
            "threads": threads,
            **details,
        },
    )


def fitted_exponent(sizes: list[float], costs: list[float]) -> float:
    """Slope of log cost over log size, least squares."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(costs).double().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def copy_bandwidth(megabytes: int = 64) -> float:
    """Bytes per second read plus written by a large copy: the memory bound of this machine, now."""
    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    best = min(time_once(lambda: target.copy_(source))[0] for _ in range(5))
    return 2 * source.numel() * 4 / best


def machine() -> dict[str, Any]:
    from cuda_ext import build

    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "isa": build.machine_isa(),
        "compiler": (build.compiler() or ("", "none"))[1],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def report(checks: list[Check], file: Path | None) -> bool:
    """Print a table, write the JSON; True when every floor was met."""
    for check in checks:
        floor = "" if check.floor is None else f"{'>=' if check.better == 'higher' else '<='} {check.floor:g}"
        mark = "" if check.floor is None else ("ok" if check.met else "MISSED")
        clock = check.details.get("clock", "")
        print(f"{check.name:<42}{check.value:>10.2f} {check.unit:<4}{floor:<10}{mark:<8}{clock:<6}{check.note}")
    if file is not None:
        content = {"checks": [asdict(check) for check in checks], "machine": machine()}
        file.write_text(json.dumps(content, indent=1) + "\n")
    return all(check.met for check in checks)

# SPDX-License-Identifier: Apache-2.0
"""Interleaved A-B-A-B measurement of two callables.

A ratio is the median over repeats of slow / fast, each pair measured back to back, so that a machine that changes
its mind changes both. The ratio reported is of wall time when the machine was quiet (wall within QUIET of CPU time
per thread on the one-thread side), else of process CPU time, where a busy neighbour costs nothing; `clock` says which.
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from dreamlab.metrics.figures import Check

REPEATS = 9
QUIET = 1.15


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


def on_threads(count: int, call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` with another thread count, put back after it."""

    def run() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return call()
        finally:
            torch.set_num_threads(before)

    return run


@functools.cache
def machine_speedup(threads: int) -> float:
    """What this machine gives a large matrix product on `threads` threads over one, just now: two threads of one core,
    or a busy host, give no code a factor of two."""
    a = torch.rand(1024, 1024)
    timing = interleave({"many": on_threads(threads, lambda: a @ a), "one": on_threads(1, lambda: a @ a)})
    return round(timing["one"].wall_median / timing["many"].wall_median, 2)


def two_threads_check(op: str, many: Timing, one: Timing, threads: int) -> Check:
    """Speed-up over one thread on a quiet machine, else how much more CPU time the threads burn together."""
    given = machine_speedup(threads)
    check = ratio_check(f"two_threads_vs_one_{op}", many, one, 0.9 * threads, threads=threads, machine_speedup=given)
    check = replace(check, note=f"a matrix product gains {given:g}x here")
    if check.details["clock"] == "wall":
        return check
    inflation = many.cpu_median / one.cpu_median
    note = f"machine is busy: CPU time of {threads} threads over one"
    return Check(f"two_threads_cpu_inflation_{op}", round(inflation, 3), "x", 1.15, "lower", note, check.details)


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

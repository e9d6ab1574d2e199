# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels have to move and compute, and how long an H200 would take at its limits: a model.

    dreamlab bench kernels --model [--json FILE]

A kernel is charged the bytes that must come from memory or go there once (atomics count twice: read and write), the
sectors of 32 bytes that its scattered reads and atomics move through the second-level cache, its arithmetic, and its
launch; the largest of the first three is its time, as nothing else overlaps so well. Bytes are checked in
tests/cuda_ext/test_traffic.py, where the same kernels run on the host and every load and store is counted. Flops are
counted by hand in the headers, to about a fifth. Where there is a device, each job is timed with CUDA events as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch

from dreamlab.metrics.figures import Check

SECTOR = 32


@dataclass(frozen=True)
class Machine:
    """Rates per second; an H200 SXM unless said. `cache` is an estimate, the others were measured on such cards."""

    name: str = "H200"
    memory: float = 4.3e12  # bytes
    cache: float = 6.0e12  # bytes, second level
    flops: float = 67e12  # float32
    launch: float = 3e-6  # seconds per launch when the host does not run ahead


@dataclass(frozen=True)
class Kernel:
    """One kernel of a job, all its launches together."""

    name: str
    read: float = 0.0  # bytes that must come once
    written: float = 0.0  # bytes that must go once
    added: float = 0.0  # bytes of the numbers that atomics add to
    sectors: float = 0.0  # bytes through the second-level cache, if more than the above
    flops: float = 0.0
    launches: int = 1

    @property
    def bytes(self) -> float:
        return self.read + self.written + 2 * self.added

    def bounds(self, machine: Machine) -> dict[str, float]:
        """Seconds by what they would be spent on."""
        return {
            "memory": self.bytes / machine.memory,
            "cache": max(self.sectors, self.bytes) / machine.cache,
            "arithmetic": self.flops / machine.flops,
        }

    def seconds(self, machine: Machine) -> float:
        return max(self.bounds(machine).values())


@dataclass(frozen=True)
class Job:
    """What an op does forward and backward at one size."""

    name: str
    kernels: tuple[Kernel, ...]
    run: Callable[[], object]


def of_torch(name: str, read: float, written: float, launches: int = 1) -> Kernel:
    """A kernel of torch's inside an op: a fill, a sort, a prefix sum."""
    return Kernel(f"torch {name}", read, written, launches=launches)


def measured(call: Callable[[], object], device: str, repeats: int = 9) -> float:
    """Seconds of a call, median: by CUDA events on a device, by the clock on the host."""
    if device != "cuda":
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return statistics.median(times)
    for _ in range(6):  # compiles, and lets `room` learn
        call()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in marks:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1e3


def checks_of(job: Job, machine: Machine, device: str | None) -> list[Check]:
    """A row for the job and one for each kernel; timed on `device` unless that is None."""
    rows = []
    for kernel in job.kernels:
        bounds = kernel.bounds(machine)
        limit = max(bounds, key=lambda name: bounds[name])
        note = f"{kernel.bytes / 1e6:.2f} MB, {kernel.flops / 1e6:.0f} MFLOP, {kernel.launches} launches, by {limit}"
        details = asdict(kernel) | {"bytes": kernel.bytes, "bound": limit}
        rows.append(
            Check(f"  {kernel.name}", round(1e6 * kernel.seconds(machine), 2), "us", None, "lower", note, details)
        )
    busy, launches = sum(k.seconds(machine) for k in job.kernels), sum(k.launches for k in job.kernels)
    total = max(busy, launches * machine.launch)
    note = f"model of an {machine.name}: {1e6 * busy:.1f} us of work, {launches} launches"
    details = {"busy_us": 1e6 * busy, "launches": launches, "bytes": sum(k.bytes for k in job.kernels)}
    if device is not None:
        seconds = measured(job.run, device)
        details |= {"measured_us": 1e6 * seconds, "device": device, "model_share": total / seconds}
        note += f"; measured {1e6 * seconds:.1f} us on {device}, the model is {total / seconds:.0%} of it"
    return [Check(job.name, round(1e6 * total, 2), "us", None, "lower", note, details), *rows]


def entries(jobs: Iterable[Callable[[str], Job]] | None = None, machine: Machine | None = None) -> list[Check]:
    """Every job, timed only where there is a device."""
    from benchmarks.model_ops import JOBS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for make in JOBS if jobs is None else jobs:
        found += checks_of(make(device), machine or Machine(), device if device == "cuda" else None)
    return found

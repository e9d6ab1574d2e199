# SPDX-License-Identifier: Apache-2.0
"""One million Gaussians at 1920 x 1080: time and memory of `splat`, forward alone and with backward.

No ratio: nothing else on a CPU does it in a time worth waiting for. Memory is what the process grows by at its peak,
gradients and pictures included (Linux counts it), and what forward keeps for backward.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench_splat import NAMES, Case, make_case, saved_bytes
from benchmarks.harness import interleave
from benchmarks.scale import status_bytes
from cuda_ext.splat import splat
from dreamlab.core.cameras import turntable
from dreamlab.metrics.figures import Check

COUNT, SIZE, REPEATS = 1_000_000, (1080, 1920), 5


def picture(case: Case) -> Tensor:
    cameras = turntable(1)
    scene = (case.tensors[name] for name in NAMES)
    return splat(*scene, cameras.camera_to_world, cameras.focal_px(SIZE[0]), SIZE, backend="native").rgb  # type: ignore


def growth_mb(call: Callable[[], object]) -> float | None:
    """What the process grows by, at the peak of one call; None where the system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(AttributeError):  # what earlier work gave back is kept by the heap, and would hide this
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
    before = status_bytes("VmRSS")
    call()
    return round((status_bytes("VmHWM") - before) / 1e6, 1)


def entries() -> list[Check]:
    threads, case = torch.get_num_threads(), make_case(COUNT, 16)
    cotangent = torch.randn(1, *SIZE, 3, generator=torch.Generator().manual_seed(1))

    def forward() -> None:
        with torch.no_grad():
            picture(case)

    def both() -> None:
        torch.autograd.grad(picture(case), list(case.tensors.values()), cotangent)

    calls: dict[str, Callable[[], object]] = {"forward": forward, "both": both}
    grown = {name: growth_mb(call) for name, call in calls.items()}
    kept = {"forward": 0.0, "both": round(saved_bytes(lambda: picture(case)) / 1e6, 1)}
    timings = interleave(calls, REPEATS)
    return [
        Check(
            f"splat_million_1080p_{name}",
            round(1e3 * timing.cpu_median, 1),
            "ms CPU",
            None,
            "lower",
            f"{grown[name]} MB more at the peak, {kept[name]} MB kept for backward",
            {
                "wall_ms": round(1e3 * timing.wall_median, 1),
                "peak_growth_mb": grown[name],
                "kept_mb": kept[name],
                "repeats": REPEATS,
                "threads": threads,
            },
        )
        for name, timing in timings.items()
    ]

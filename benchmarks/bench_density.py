# SPDX-License-Identifier: Apache-2.0
"""Bench of `density` at the export's shapes against its twin, and its growth with the Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import fitted_exponent, interleave, ratio_check
from cuda_ext.density import density
from dreamlab.core.rotation import matrix
from dreamlab.metrics.figures import Check

SIDE = 97  # cells, as an export has them
COUNTS = (1_000, 10_000, 100_000, 300_000)
FLOOR, EXPONENT = 5.0, 1.05


def cloud(count: int, width: float) -> Callable[[str], Tensor]:
    """A shell of Gaussians, `width` cells of standard deviation on average."""
    g = torch.Generator().manual_seed(0)
    out = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    widths = (width * (0.4 * torch.randn(count, 3, generator=g)).exp()).clamp(min=0.6)
    given = (
        SIDE * (0.5 + 0.4 * out),
        matrix(torch.randn(count, 4, generator=g)),
        widths,
        torch.rand(count, 4, generator=g),
    )
    return lambda backend: density(*given, (SIDE, SIDE, SIDE), backend=backend)


def entries() -> list[Check]:
    threads, checks = torch.get_num_threads(), []
    for name, count, width in (("default", 4_096, 2.0), ("grown", 100_000, 1.0)):
        call = cloud(count, width)
        timing = interleave({"ours": partial(call, "native"), "twin": partial(call, "torch")}, 5)
        how = {"threads": threads, "slow_threads": threads}
        checks.append(ratio_check(f"density_{name}", timing["ours"], timing["twin"], FLOOR, **how, gaussians=count))
    return checks


def scaling() -> list[Check]:
    """Without what the empty grid costs; sizes as they shrink with the distance between Gaussians on a surface."""
    calls: dict[str, Callable[[], object]] = {"none": partial(cloud(0, 1.0), "native")}
    for count in COUNTS:
        calls[str(count)] = partial(cloud(count, 0.3 * SIDE / math.sqrt(count)), "native")
    calls |= {f"wide {count}": partial(cloud(count, 3.0), "native") for count in COUNTS}
    taken = {name: timing.cpu_median for name, timing in interleave(calls, 5).items()}
    checks = []
    for name in ("", "wide "):
        costs = [max(taken[f"{name}{count}"] - taken["none"], 1e-6) for count in COUNTS]
        slope, said = (
            fitted_exponent([float(n) for n in COUNTS], costs),
            ", ".join(f"{1e3 * cost:.1f}" for cost in costs),
        )
        label = f"density_exponent{'_wide' if name else ''}"
        checks.append(Check(label, round(slope, 3), "", EXPONENT, "lower", f"ms for {COUNTS}: {said}"))
    return checks

# SPDX-License-Identifier: Apache-2.0
"""Benches of the hash grid: against the torch twin, and against itself on one thread.

Where the time goes, in CPU time on one core of an EPYC (Zen 4, 1 MB second-level cache), 2^18 samples, 16 levels of
2^19 rows: encode 35-38 ms, table gradient 47-50 ms, position gradient 41 ms. A level that fits the first two caches
costs 18 cycles a sample to encode and 23 to add to, one of 4 MB 34 and 42: each sample reads 4.5 cache lines of it. The
33 MB of features and the 50 MB gradient of the table are fresh pages in every step, about 5 ms. The twin gathers with
`index_select` in 1.9-2.3 s, which puts 40 times that out of reach of instructions alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import (
    copy_bandwidth,
    fitted_exponent,
    interleave,
    on_threads,
    ratio_check,
    time_once,
    two_threads_check,
)
from cuda_ext.hashgrid import HashGrid, encode, position_gradient
from dreamlab.metrics.figures import Check

SAMPLES = 1 << 18


@dataclass(frozen=True)
class Case:
    """Uniform positions: the worst order for caches, rays are kinder."""

    grid: HashGrid
    positions: Tensor
    table: Tensor
    cotangent: Tensor

    def both(self, backend: str = "native") -> tuple[Tensor, ...]:
        """Forward, and backward to the table: a step of a field without normals."""
        y = encode(self.positions.detach(), self.table, self.grid, backend=backend)
        return torch.autograd.grad(y, self.table, self.cotangent)

    def everything(self, backend: str = "native") -> tuple[Tensor, ...]:
        """Forward, and backward to table and positions."""
        y = encode(self.positions, self.table, self.grid, backend=backend)
        return torch.autograd.grad(y, (self.table, self.positions), self.cotangent)

    def eikonal(self, backend: str = "native") -> tuple[Tensor, ...]:
        """Gradient in the table of a loss on the gradient in the positions."""
        x = self.positions.detach()
        slope = position_gradient(x, self.table, self.cotangent, self.grid, backend=backend)
        return torch.autograd.grad(slope.square().sum(), self.table)


def make_case(count: int = SAMPLES, **shape: Any) -> Case:
    grid, generator = HashGrid(**shape), torch.Generator().manual_seed(0)
    return Case(
        grid,
        torch.rand(count, 3, generator=generator).requires_grad_(),
        grid.init_table(generator).requires_grad_(),
        torch.randn(count, grid.width, generator=generator),
    )


def assert_agree(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], where: str) -> None:
    for a, b in zip(ours, theirs, strict=True):
        error = float((a - b).norm() / b.norm())
        if not error < 1e-5:
            raise AssertionError(f"hashgrid, {where}: gradients differ by {error:.2e} (relative L2)")


def entries() -> list[Check]:
    threads = torch.get_num_threads()
    case = make_case()
    checks = []
    for name, kind, floor in (
        ("hashgrid_256k_vs_twin", case.both, 40.0),
        ("hashgrid_256k_with_positions_vs_twin", case.everything, None),
        ("hashgrid_256k_eikonal_vs_twin", case.eikonal, None),
    ):
        assert_agree(kind("native"), kind("torch"), name)
        timing = interleave({"native": partial(kind, "native"), "twin": partial(kind, "torch")})
        share = round(memory_bound(case) / timing["native"].wall_median, 3)
        pair = (timing["native"], timing["twin"])
        checks.append(ratio_check(name, *pair, floor, threads=threads, slow_threads=threads, bound_share=share))
    timing = interleave({"own": case.both, "tcnn": make_case(layout="tcnn").both})
    pair = (timing["own"], timing["tcnn"])
    checks.append(ratio_check("hashgrid_own_vs_layout_tcnn", *pair, None, threads=threads, slow_threads=threads))
    timing = interleave({"many": case.both, "one": on_threads(1, case.both)})
    return [*checks, two_threads_check("hashgrid", timing["many"], timing["one"], threads)]


def memory_bound(case: Case) -> float:
    """Seconds to move, once and in order, what forward and backward to the table must touch."""
    numbers = 3 * case.table.numel() + 2 * case.cotangent.numel() + 2 * case.positions.numel()
    return 4 * numbers / copy_bandwidth()


def scaling() -> list[Check]:
    """Fitted exponents of time against samples and levels."""
    sweeps: dict[str, list[tuple[float, Case]]] = {
        "samples": [(n, make_case(n, log2_entries=14)) for n in (1 << 14, 1 << 16, 1 << 18, 1 << 20)],
        "levels": [(n, make_case(1 << 16, levels=n)) for n in (2, 4, 8, 16)],
    }
    checks = []
    for name, cases in sweeps.items():
        times = []
        for _, case in cases:
            case.everything()
            times.append(min(time_once(case.everything)[1] for _ in range(3)))
        value = round(fitted_exponent([size for size, _ in cases], times), 3)
        details = {"sizes": [size for size, _ in cases], "cpu_ms": [round(1e3 * t, 2) for t in times]}
        checks.append(Check(f"hashgrid_time_exponent_{name}", value, "", 1.05, "lower", details=details))
    return checks

# SPDX-License-Identifier: Apache-2.0
"""Bench of `adam`: 500k splats of which a quarter or all are visible, against torch's fused Adam on all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.harness import interleave, ratio_check
from cuda_ext.adam import adam
from dreamlab.metrics.figures import Check

ROWS = 500_000
# Numbers per splat in each parameter: all in one row; as mean, quaternion, scale, opacity, spherical harmonics.
LAYOUTS = {"row": (59,), "sh3": (3, 4, 3, 1, 48), "sh0": (3, 4, 3, 1, 3)}


def steps(widths: tuple[int, ...], visible: torch.Tensor | None) -> dict[str, Callable[[], None]]:
    generator = torch.Generator().manual_seed(0)
    groups: list[list[torch.Tensor]] = []
    for width in widths:
        param = torch.randn(ROWS, width, generator=generator)
        groups.append(
            [param, torch.randn(ROWS, width, generator=generator), *(torch.zeros_like(param) for _ in range(2))]
        )
    step = [torch.zeros((), dtype=torch.int64) for _ in groups]
    leaves = [group[0].clone().requires_grad_() for group in groups]
    for leaf, group in zip(leaves, groups, strict=True):
        leaf.grad = group[1]
    fused = torch.optim.Adam(leaves, lr=1e-3, fused=True)

    def ours() -> None:
        for group, count in zip(groups, step, strict=True):
            param, grad, first, second = group
            adam(param, grad, first, second, count, lr=1e-3, visible=visible, backend="native")

    return {"ours": ours, "fused": fused.step}


def entries() -> list[Check]:
    """The floor holds for wide rows, where splats that are seen together lie together in memory (blocks of 64 rows).

    The others are reported without a floor. Rows of 3 numbers gain nothing (a cache line holds five of them), nor does
    a quarter of the rows at random: half of all lines are touched, and the hardware fetches the rest.
    """
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(1)
    blocks = (torch.rand(ROWS // 64 + 1, generator=generator) < 0.25).repeat_interleave(64)[:ROWS].clone()
    scattered = torch.rand(ROWS, generator=generator) < 0.25
    masks: dict[str, tuple[torch.Tensor | None, str, float | None]] = {
        "visible25_vs_fused": (blocks, "row", 2.5),
        "visible25_vs_fused_sh3": (blocks, "sh3", None),
        "visible25_vs_fused_sh0": (blocks, "sh0", None),
        "visible25_vs_fused_scattered": (scattered, "row", None),
        "all_vs_fused": (None, "row", 1.0),
        "all_vs_fused_sh3": (None, "sh3", 1.0),
        "all_vs_fused_sh0": (None, "sh0", None),
    }
    checks = []
    for which, (visible, layout, floor) in masks.items():
        timing = interleave(steps(LAYOUTS[layout], visible))
        width = sum(LAYOUTS[layout])
        rows = ROWS if visible is None else int(visible.sum())
        touched = 4 * width * rows * 7  # reads of 4 arrays, writes of 3
        details = {"numbers_per_row": width, "gb_per_s": round(touched / timing["ours"].wall_median / 1e9, 1)}
        name = f"adam_{which}"
        checks.append(
            ratio_check(name, timing["ours"], timing["fused"], floor, threads=threads, slow_threads=threads, **details)
        )
    return checks

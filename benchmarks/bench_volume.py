# SPDX-License-Identifier: Apache-2.0
"""Bench of `volume` at the prior's shapes against its twin (torch's `grid_sample` and what follows it)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.harness import interleave, ratio_check
from cuda_ext.volume import volume
from dreamlab.metrics.figures import Check
from guidance.toybox.volume import GAIN, PATCH, REACH, SAMPLES, SHIFT, TOKENS, VOLUME_CHANNELS

CELLS = 16  # of a picture of 64 pixels


def calls(views: int, grids: int, gradient: bool) -> dict[str, Callable[[], None]]:
    g = torch.Generator().manual_seed(0)
    grid = torch.randn(grids, *3 * [TOKENS * PATCH], VOLUME_CHANNELS, generator=g).requires_grad_(gradient)
    direction = F.normalize(torch.randn(views, CELLS * CELLS, 3, generator=g), dim=-1)
    near = 0.4 * torch.randn(views, CELLS * CELLS, 3, generator=g)
    row = torch.arange(views) * grids // views

    def call(backend: str) -> None:
        seen = volume(grid, row, near, direction, samples=SAMPLES, reach=REACH, shift=SHIFT, gain=GAIN, backend=backend)
        if gradient:
            torch.autograd.grad(seen.square().mean(), grid)

    return {"ours": lambda: call("native"), "twin": lambda: call("torch")}


def entries() -> list[Check]:
    """Eight views of two prompts, as a step of a run asks; 48 of 24 with the gradient, as one of the training does."""
    threads, checks = torch.get_num_threads(), []
    for name, views, grids, gradient in (("forward", 8, 2, False), ("training", 48, 24, True)):
        timing, how = interleave(calls(views, grids, gradient)), {"threads": threads, "slow_threads": threads}
        checks.append(ratio_check(f"volume_{name}", timing["ours"], timing["twin"], None, **how, views=views))
    return checks

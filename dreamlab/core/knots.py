# SPDX-License-Identifier: Apache-2.0
"""Tables over time: a value per knot; between neighbours linear, or smooth (Catmull & Rom 1974)."""

from __future__ import annotations

import torch
from torch import Tensor


def between(tables: Tensor, time: Tensor, loop: bool, smooth: bool = False) -> Tensor:
    """[T, ...] at `time` [] in [0, 1] -> [...]. Knots are at i / (T - 1); with `loop` at i / T, and 1 is 0 again.

    Nothing is read by the host.
    """
    values, share = beside(tables, time, loop, smooth)
    return torch.tensordot(share, values, 1) if smooth else share[0] * values[0] + share[1] * values[1]


def beside(tables: Tensor, time: Tensor, loop: bool, smooth: bool = False) -> tuple[Tensor, Tensor]:
    """What the knots around a time hold, [2, ...], and how much each counts [2], together 1. Smooth ways ask four [4];
    what is not there beyond an end would lie straight on."""
    knots = len(tables)
    place = torch.remainder(time, 1.0) * knots if loop else time.clamp(0, 1) * (knots - 1)
    low = place.floor().clamp(max=knots - 1 if loop else max(knots - 2, 0))
    u = place - low
    around = torch.arange(-1 if smooth else 0, 3 if smooth else 2, device=low.device) + low.long()
    around = around % knots if loop else around.clamp(0, knots - 1)
    share = torch.stack([1 - u, u])
    if smooth:
        v, w = u * u, u * u * u
        share = torch.stack([2 * v - u - w, 2 - 5 * v + 3 * w, u + 4 * v - 3 * w, w - v]) / 2
    if smooth and not loop:
        lead, tail = share[0] * (low == 0), share[3] * (low == knots - 2)
        share = share + torch.stack([-lead, 2 * lead - tail, 2 * tail - lead, -tail])
    return tables.index_select(0, around), share

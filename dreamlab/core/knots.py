# SPDX-License-Identifier: Apache-2.0
"""Tables over time: a value per knot, linear between neighbours."""

from __future__ import annotations

import torch
from torch import Tensor


def between(tables: Tensor, time: Tensor, loop: bool) -> Tensor:
    """[T, ...] at `time` [] in [0, 1] -> [...]. Knots are at i / (T - 1); with `loop` at i / T, and 1 is 0 again.

    Nothing is read by the host.
    """
    knots = len(tables)
    place = torch.remainder(time, 1.0) * knots if loop else time.clamp(0, 1) * (knots - 1)
    low = place.floor().clamp(max=knots - 1)
    first, share = low.long(), place - low
    second = (first + 1) % knots if loop else (first + 1).clamp(max=knots - 1)
    here, there = (tables.index_select(0, index[None])[0] for index in (first, second))
    return (1 - share) * here + share * there

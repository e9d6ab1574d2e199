# SPDX-License-Identifier: Apache-2.0
"""The learning rate of every training here."""

from __future__ import annotations

from typing import Protocol


class Rated(Protocol):
    """A plan whose counts are in what it has seen: pictures, states or points."""

    @property
    def total(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...


def falling(plan: Rated, seen: int, cooldown: float = 2 / 3) -> float:
    """It rises over the warm-up, and falls linearly to zero over the last `cooldown` of the total."""
    left = (plan.total - seen) / (cooldown * plan.total)
    return plan.rate * min(1.0, (seen + plan.batch) / plan.warmup, max(left, 0.0))

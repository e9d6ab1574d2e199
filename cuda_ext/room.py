# SPDX-License-Identifier: Apache-2.0
"""Room for results whose number only the device knows, without waiting for it.

The first PASSES of a kind read the number. From then on a pass takes HEADROOM times what an item has needed at most so
far, and its own number travels to the host beside the work, to be looked at when a later pass comes. What finds no room
is left out and counted on the device, in a captured graph too: the next pass outside a graph says so in one line and
takes more; `report` says it at once, where waiting is no harm.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

PASSES = 4
HEADROOM = 1.5
Key = tuple[str | int | torch.device, ...]


class Later:
    """Numbers on their way from a device: asked for now, taken when they are there, never waited for."""

    def __init__(self, numbers: Tensor) -> None:
        self.host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        self.host.copy_(numbers, non_blocking=True)
        self.there = torch.cuda.Event()
        self.there.record(torch.cuda.current_stream(numbers.device))

    def values(self) -> list[float] | None:
        return self.host.tolist() if self.there.query() else None


@dataclass
class _Kind:
    name: str
    seen: Tensor  # [2] float64 on the device: the most an item has needed; how many found no room, in all
    most: float = 0.0  # of `seen`, what the host knows
    said: float = 0.0
    passes: int = 0
    coming: Later | None = None

    def learn(self, numbers: list[float]) -> None:
        most, lost = numbers
        self.most = max(self.most, most)
        if lost > self.said:
            warnings.warn(f"{self.name}: {lost - self.said:.0f} found no room and were left out; it grows", stacklevel=5)
            self.said = lost


_kinds: dict[Key, _Kind] = {}


def room(name: str, shape: tuple[int, ...], items: int, total: Tensor, exact: bool) -> int:
    """How many results to make room for when there are `total` [] int64 of them, made of `items`.

    name, shape  what a kind of pass is known by
    exact        read `total`, whatever it takes; not possible while a graph is captured
    """
    capturing, key = torch.cuda.is_current_stream_capturing(), (name, total.device, *shape)
    if key not in _kinds:
        if capturing:
            raise RuntimeError(f"{name}: run a pass of the same shapes outside the graph before capturing it")
        _kinds[key] = _Kind(name, torch.zeros(2, dtype=torch.float64, device=total.device))
    kind = _kinds[key]
    if not capturing:
        kind.passes += not exact
        if exact or kind.passes <= PASSES:
            number = int(total)
            kind.most = max(kind.most, number / max(items, 1))
            if exact:
                return number
        arrived = None if kind.coming is None else kind.coming.values()
        if arrived is not None:
            kind.learn(arrived)
            kind.coming = None
    capacity = math.ceil(kind.most * items * HEADROOM) + 1
    kind.seen[:1].copy_(torch.maximum(kind.seen[:1], total / max(items, 1)))
    kind.seen[1:].add_((total - capacity).clamp(min=0))
    if not capturing and kind.coming is None:
        kind.coming = Later(kind.seen)
    return capacity


def report() -> None:
    """Says what found no room since it was last said; waits for the devices."""
    for kind in _kinds.values():
        kind.learn(kind.seen.tolist())

# SPDX-License-Identifier: Apache-2.0
"""Room for results whose number only the device knows, without waiting for it, and never silently too little.

The first PASSES of a kind read the number. From then on a pass takes HEADROOM times what an item has needed at most so
far, and its own number travels to the host beside the work, to be looked at when a later pass comes. What finds no room
is left out and counted on the device, in a captured graph too: a later pass outside a graph says so in one line and
takes more; `report` says it at once, where waiting is no harm.
"""

from __future__ import annotations

import ctypes
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext import build, nvrtc

PASSES = 4
HEADROOM = 1.5
WORDS = {
    "splat": "pairs of splats and tiles were left out of pictures; the next pass takes more room",
    "march": "intervals were dropped from the last rays; give it more capacity",
}
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
    op: str
    seen: Tensor  # [2] float64 on the device: the most an item has needed; how many found no room, in all
    most: float = 0.0  # of `seen`, what the host knows
    said: float = 0.0
    passes: int = 0
    coming: Later | None = None

    def count(self, total: Tensor, items: int, capacity: int) -> None:
        """What a pass has needed and lost, on the device."""
        if total.is_cuda and not nvrtc.unavailable("room", total.device.index):
            numbers = [ctypes.c_void_p(build.pointer(t)) for t in (self.seen, total)]
            arguments = [*numbers, ctypes.c_int64(items), ctypes.c_int64(capacity)]
            nvrtc.launch("room", "dl_room", total.device, (1, 1, 1), (1, 1, 1), arguments)
            return
        if items:
            self.seen[:1].copy_(torch.maximum(self.seen[:1], total / items))
        self.seen[1:].add_((total - capacity).clamp(min=0))

    def learn(self, numbers: list[float]) -> None:
        """A line when the loss has doubled since the last one, so that a run that always loses stays readable."""
        self.most = max(self.most, numbers[0])
        if numbers[1] > 2 * self.said:
            self.said = numbers[1]
            warnings.warn(f"{self.op}: so far {self.said:.0f} {WORDS[self.op]}", stacklevel=2)

    def look(self) -> None:
        arrived = None if self.coming is None else self.coming.values()
        if arrived is not None:
            self.coming = None
            self.learn(arrived)

    def send(self) -> None:
        if self.coming is None:
            self.coming = Later(self.seen)


_kinds: dict[Key, _Kind] = {}


def _kind(op: str, *shape: int, like: Tensor) -> _Kind:
    key: Key = (op, like.device, *shape)
    if key not in _kinds:
        _kinds[key] = _Kind(op, torch.zeros(2, dtype=torch.float64, device=like.device))
    return _kinds[key]


def room(op: str, shape: tuple[int, ...], items: int, total: Tensor, exact: bool) -> int:
    """How many results to make room for on a GPU when there are `total` [] int64 of them, made of `items`.

    op, shape  what a kind of pass is known by
    exact      read `total`, whatever it takes; not possible while a graph is captured
    """
    capturing = torch.cuda.is_current_stream_capturing()
    if capturing and (op, total.device, *shape) not in _kinds:
        raise RuntimeError(f"{op}: run a pass of the same shapes outside the graph before capturing it")
    kind = _kind(op, *shape, like=total)
    if not capturing:
        kind.passes += not exact
        if exact or kind.passes <= PASSES:
            number = int(total)
            kind.most = max(kind.most, number / max(items, 1))
            if exact:
                return number
        kind.look()
    capacity = math.ceil(kind.most * items * HEADROOM) + 1
    kind.count(total, items, capacity)
    if not capturing:
        kind.send()
    return capacity


def note(op: str, total: Tensor, capacity: int) -> None:
    """Counts what of `total` [] int64 a caller's own `capacity` leaves out. On the CPU it is said at once."""
    kind = _kind(op, like=total)
    kind.count(total, 0, capacity)
    if not total.is_cuda:
        kind.learn(kind.seen.tolist())
    elif not torch.cuda.is_current_stream_capturing():
        kind.look()
        kind.send()


def report() -> None:
    """Says what found no room and was not said yet; waits for the devices."""
    for kind in _kinds.values():
        kind.learn(kind.seen.tolist())

# SPDX-License-Identifier: Apache-2.0
"""Guidances that a worker keeps between runs: a real model takes a minute to load, and the next job often asks for it.

What is kept must change no result: a guidance comes back as good as new (`Renewing`) or not at all, and a run finds no
more memory taken than a process of its own would: models that it does not ask for are let go before another is loaded,
but for small ones.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamlab.core.settings import Spec
from dreamlab.core.types import Guidance, Renewing

MOST = 3  # guidances that are kept after a run
BESIDE = 1 << 30  # bytes of guidances that may lie beside a run which does not ask for them
GPU_SHARE = 0.8  # of its memory
_DEPTH = 6  # of objects in objects that are looked into for tensors


@dataclass
class _Held:
    guidance: Guidance
    bytes: int


class Resident:
    """Serves the runs of one process, one after the other; see `run.assemble.Lender`."""

    def __init__(self, memory: int, most: int = MOST, beside: int = BESIDE) -> None:
        self.memory, self.most, self.beside = memory, most, beside
        self.loaded = 0  # how often one was built
        self._held: dict[tuple[Spec, torch.device], _Held] = {}  # the longest unused first
        self._lent: set[tuple[Spec, torch.device]] = set()  # to the run at hand
        self._names: dict[str, set[tuple[Spec, torch.device]]] = {}

    def guidance(self, spec: Spec, device: torch.device, build: Callable[[], Guidance]) -> Guidance:
        """The one that is there, or a new one, for which room is made first."""
        key = (spec, device)
        if key not in self._held:
            self._let_go(self.most, self.beside)
            self._held[key] = _Held(build(), 0)
            self._held[key].bytes = bytes_of(self._held[key].guidance)
            self.loaded += 1
        self._lent.add(key)
        return self._held[key].guidance

    def settle(self, sound: bool = True, name: str = "") -> None:
        """The run is over: what it was lent is as new or gone, and gone if it came to a bad end. `name`: what the queue
        calls the guidances of such runs."""
        kept = set()
        for key in self._lent:
            held = self._held.pop(key)
            if sound and isinstance(held.guidance, Renewing) and held.guidance.renew():
                self._held[key] = held
                kept.add(key)
        self._lent.clear()
        if kept and name:
            self._names[name] = kept
        self._let_go(self.most, self.memory)

    def names(self) -> tuple[str, ...]:
        """Of runs that would find what they ask for."""
        self._names = {name: keys for name, keys in self._names.items() if keys <= self._held.keys()}
        return tuple(self._names)

    def __len__(self) -> int:
        return len(self._held)

    def bytes(self) -> int:
        return sum(held.bytes for held in self._held.values())

    def _let_go(self, most: int, memory: int) -> None:
        """Of what nobody uses keep at most so many, so large."""
        idle = [key for key in self._held if key not in self._lent]
        before = len(idle)
        while idle and (len(idle) > most or sum(self._held[key].bytes for key in idle) > memory):
            del self._held[idle.pop(0)]
        if len(idle) < before:
            gc.collect()  # modules are full of cycles
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def room_on(device: str, host: int) -> int:
    """Bytes that guidances may take between runs: so many of the host's memory, most of a GPU's own."""
    if not device.startswith("cuda"):
        return host
    return int(torch.cuda.get_device_properties(torch.device(device)).total_memory * GPU_SHARE)


def bytes_of(guidance: object) -> int:
    """Of all tensors that an object holds, each storage once."""
    found: dict[int, int] = {}
    for tensor in _tensors(guidance, _DEPTH, set()):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def _tensors(thing: object, depth: int, seen: set[int]) -> Iterator[Tensor]:
    if depth == 0 or id(thing) in seen or isinstance(thing, str | bytes | int | float | type):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
        return
    if isinstance(thing, nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
        return
    inside: Sequence[object] = ()
    if isinstance(thing, Mapping):
        inside = list(thing.values())
    elif isinstance(thing, list | tuple | set | frozenset):
        inside = list(thing)
    elif hasattr(thing, "__dict__"):
        inside = list(vars(thing).values())
    for part in inside:
        yield from _tensors(part, depth - 1, seen)

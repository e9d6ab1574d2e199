# SPDX-License-Identifier: Apache-2.0
"""Latents of many drawn groups, made once and kept on disk: the U-Net learns from these alone.

What the cache holds at a step is a function of the pictures seen by then, so a resumed run draws the same batches; any
file of it can be thrown away and comes back the same.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core import tensors
from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.toybox.training.sd.scenes import SHELF, draw_shelf
from dreamlab.toybox.training.sd.shapes import Model
from dreamlab.toybox.training.sd.vae import encoded

FIRST, EVERY, MOST = 4, 6_144, 1_000  # shelves: at the start, pictures seen for one more, and at most


@dataclass(frozen=True)
class LatentGroups:
    """What a step takes: groups of latents [K, 4, 4, h, w] (not scaled), their orbits [K, 4, 4], captions, and what the
    error of each cell may count [K, 4, h, w]."""

    latents: Tensor
    orbits: Tensor
    texts: tuple[str, ...]
    weight: Tensor


class LatentCache:
    def __init__(self, folder: Path, vae: Model, seed: int, shelf: int = SHELF, first: int = FIRST) -> None:
        self.folder, self.vae, self.seed, self.size, self.first = folder, vae, seed, shelf, first
        self.shelves: list[LatentGroups] = []

    def reach(self, seen: int) -> int:
        """Groups after so many pictures."""
        return self.size * min(self.first + seen // EVERY, MOST)

    def grow(self, seen: int, lanes: ThreadPoolExecutor, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Shelf by shelf until there are as many; false if it was stopped on the way, which may take minutes."""
        while len(self.shelves) * self.size < self.reach(seen):
            if stopping():
                return False
            self.shelves.append(self._shelf(len(self.shelves), lanes))
        return True

    def take(self, index: Tensor) -> LatentGroups:
        picked = [(self.shelves[i // self.size], i % self.size) for i in index.tolist()]
        latents = torch.stack([shelf.latents[row] for shelf, row in picked]).float()
        orbits = torch.stack([shelf.orbits[row] for shelf, row in picked])
        weight = torch.stack([shelf.weight[row] for shelf, row in picked]).float()
        return LatentGroups(latents, orbits, tuple(shelf.texts[row] for shelf, row in picked), weight)

    def _shelf(self, index: int, lanes: ThreadPoolExecutor) -> LatentGroups:
        path = self.folder / f"{index:05d}.safetensors"
        if not path.is_file():
            self._write(path, index, lanes)
        header, held = tensors.unpacked(path, "shelf")
        return LatentGroups(held["latents"], held["orbits"], tuple(header["texts"]), held["weight"])

    def _write(self, path: Path, index: int, lanes: ThreadPoolExecutor) -> None:
        drawn = draw_shelf(self.seed, index, self.size)
        latents = encoded(self.vae, drawn, lanes).half()
        held = {"latents": latents, "orbits": drawn.orbits, "weight": drawn.weight(latents.shape[-1]).half()}
        with disk_errors("keeping latents", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, tensors.packed(held, "shelf", {"texts": list(drawn.texts)}))

# SPDX-License-Identifier: Apache-2.0
"""Settings that scenes share: what runs their ops, and how a hash grid is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cuda_ext.hashgrid import LAYOUTS, HashGrid
from cuda_ext.hashgrid_tcnn import unsettled
from cuda_ext.packages import BACKENDS, OURS, able
from dreamlab.core.cards import Backing
from dreamlab.core.settings import setting


def backend_setting() -> Any:
    """A scene's `backend`."""
    return setting("auto", choices=BACKENDS, help="what runs its ops; a package where it is named, never by itself")


def while_building(backend: str) -> str:
    """What runs the ops of a scene that is being built: on the CPU, where packages do not run."""
    return backend if backend in OURS else "auto"


def backing(backend: str, *ops: str) -> Backing:
    """What a scene that calls `ops` says of its backend."""
    return Backing(backend, able(*ops))


@dataclass(frozen=True)
class GridSettings:
    """How the levels and the table of a hash grid are laid out."""

    layout: str = setting("own", choices=LAYOUTS, help="tcnn: tiny-cuda-nn's, so that tables are interchangeable")
    growth: float | None = setting(None, low=1, high=16, help="layout tcnn: its per_level_scale, instead of finest")

    def made(
        self, levels: int, features: int, log2_entries: int, base: int, finest: int, smoothstep: bool = False
    ) -> HashGrid:
        """The grid of a scene's other settings; a base above the finest level counts as it."""
        grown = self.growth if self.layout == "tcnn" else None
        return HashGrid(levels, features, log2_entries, base, max(base, finest), smoothstep, self.layout, grown)

    def complaint(self, backend: str, shape: tuple[int, int, int, int, int]) -> str:
        """What is wrong with it for a scene of such a grid that runs on `backend`."""
        if self.layout == "own" and self.growth is not None:
            return "hashgrid.growth: layout own grows to `finest`; set hashgrid.layout: tcnn"
        if self.layout == "own" and backend == "tinycudann":
            return "backend: tinycudann has other tables than layout own; set hashgrid.layout: tcnn"
        try:
            grid = self.made(*shape)
        except ValueError as error:
            return str(error)
        if backend == "tinycudann" and (found := unsettled(grid)):
            return f"backend: tinycudann leaves level {found[0]} open, a whole number but for rounding: change finest"
        return ""

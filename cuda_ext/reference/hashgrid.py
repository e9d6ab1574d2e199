# SPDX-License-Identifier: Apache-2.0
"""Multiresolution hash encoding (Mueller et al. 2022, arXiv:2201.05989), sections 3 and A: the torch twin.

This file is the definition. A position x lies at x scale + shift between the vertices of a level, of which it has
`side` along each axis. A level whose side^3 vertices fit into 2^log2_entries rows is dense, row = i + side (j + side k)
modulo the number of rows; a finer one is hashed: eq. 4, (i xor 2654435761 j xor 805459861 k) modulo the same.
Two layouts say what scale, shift and side are:

own   R cells and R + 1 vertices along each axis of the unit cube: scale R, shift 0, side R + 1. Vertex (i, j, k) sits
      at (i, j, k) / R, so x = 0 and x = 1 are vertices and nothing wraps. R is an integer, computed once in float64.
tcnn  what tiny-cuda-nn makes of its `HashGrid` (its documentation and encodings/grid.h, 2026): scale = base growth^l
      - 1, shift 1/2, side = ceil(scale) + 1, with the growth and every intermediate result rounded to float32. A
      position near 1 has corners beyond the last vertex, and their rows are those of other vertices.
      Tables are interchangeable. Where theirs rounds x scale + 1/2 to float32, ours is exact.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PRIME_Y, PRIME_Z = 2654435761, 805459861
LAYOUTS = ("own", "tcnn")
FINEST = 2**20  # cells per axis


@dataclass(frozen=True)
class HashGrid:
    """Shape of the encoding. The table is one [rows, features] matrix, level after level."""

    levels: int = 16
    features: int = 2  # per level: 1, 2, 4 or 8
    log2_entries: int = 19  # rows of a hashed level
    base_resolution: int = 16
    finest_resolution: int = 4096
    smoothstep: bool = False  # s(f) = f^2 (3 - 2 f) instead of f: gradients are continuous across cells
    layout: str = "own"
    growth: float | None = None  # of layout tcnn, its `per_level_scale`, instead of finest_resolution

    def __post_init__(self) -> None:
        if self.levels < 1 or self.features not in (1, 2, 4, 8) or not 3 <= self.log2_entries <= 28:
            raise ValueError(
                f"HashGrid needs levels >= 1, features in 1, 2, 4, 8 and log2_entries in 3..28, got {self}"
            )
        if not 1 <= self.base_resolution <= self.finest_resolution <= FINEST:
            raise ValueError(f"HashGrid needs 1 <= base_resolution <= finest_resolution <= 2^20, got {self}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"HashGrid: layout '{self.layout}' is not one of {', '.join(LAYOUTS)}")
        if self.growth is None:
            return
        if self.layout == "own":
            raise ValueError("HashGrid: layout own grows to its finest_resolution; growth is of layout tcnn")
        if not (self.growth >= 1 and self.base_resolution * self.growth ** (self.levels - 1) <= FINEST):
            raise ValueError(f"HashGrid: growth {self.growth} must be at least 1 and end at 2^20 vertices, got {self}")

    @cached_property
    def resolutions(self) -> list[int]:
        """Cells per axis of each level of layout own: base * (finest / base)^(l / (L - 1)), to the nearest integer.

        Nearest, not floor: the finest level is then `finest_resolution` whatever the last bit of the power is.
        """
        steps = max(self.levels - 1, 1)
        growth = self.finest_resolution / self.base_resolution
        return [round(self.base_resolution * growth ** (level / steps)) for level in range(self.levels)]

    @cached_property
    def per_level_scale(self) -> float:
        """What layout tcnn grows by from level to level, a float32."""
        steps = max(self.levels - 1, 1)
        derived = (self.finest_resolution / self.base_resolution) ** (1 / steps)
        return _single(derived if self.growth is None else self.growth)

    @cached_property
    def scales(self) -> list[float]:
        """Of each level: x scale + shift is where a position lies between its vertices. All are float32."""
        if self.layout == "own":
            return [float(resolution) for resolution in self.resolutions]
        octaves = _single(math.log2(self.per_level_scale))
        powers = [_single(2 ** _single(level * octaves)) for level in range(self.levels)]
        return [_single(_single(power * self.base_resolution) - 1) for power in powers]

    @cached_property
    def sides(self) -> list[int]:
        """Vertices per axis of each level."""
        return [math.ceil(scale) + 1 for scale in self.scales]

    @property
    def shift(self) -> float:
        return 0.5 if self.layout == "tcnn" else 0.0

    @cached_property
    def offsets(self) -> list[int]:
        """First row of each level, and the number of rows at the end: levels + 1 numbers.

        Dense levels are padded to a multiple of eight rows, so that a hashed level starts on a cache line.
        """
        offsets = [0]
        for side in self.sides:
            dense = -(-(side**3) // 8) * 8
            offsets.append(offsets[-1] + (dense if self.is_dense(side) else 2**self.log2_entries))
        return offsets

    @property
    def rows(self) -> int:
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Length of one encoded row: levels * features."""
        return self.levels * self.features

    def is_dense(self, side: int) -> bool:
        return side**3 <= 2**self.log2_entries

    def init_table(self, generator: torch.Generator | None = None, scale: float = 1e-4) -> Tensor:
        """[rows, features] uniform in +-scale, the paper's start."""
        return (torch.rand(self.rows, self.features, generator=generator) * 2 - 1) * scale


def encode(positions: Tensor, table: Tensor, grid: HashGrid, active: int) -> Tensor:
    """[N, 3] in [0, 1], [rows, features] -> [N, levels * features]; levels from `active` on are zero."""
    x = positions.clamp(0, 1)
    features = []
    for level in range(active):
        rows, weights = corners(x, grid, level)  # [N, 8], [N, 8]
        values = table.index_select(0, rows.reshape(-1)).view(-1, 8, grid.features)
        features.append((weights.unsqueeze(-1) * values).sum(1))
    features.append(table.new_zeros(len(positions), (grid.levels - active) * grid.features))
    return torch.cat(features, 1)


def position_gradient(
    positions: Tensor,
    table: Tensor,
    grad: Tensor,
    grid: HashGrid,
    active: int,
    encoder: Callable[[Tensor, Tensor, HashGrid, int], Tensor] = encode,
) -> Tensor:
    """[N, 3]: d(encode . grad)/d positions, itself differentiable in table, grad [N, width] and positions."""
    tracking = torch.is_grad_enabled()
    with torch.enable_grad():
        x = positions if positions.requires_grad else positions.detach().requires_grad_()
        (out,) = torch.autograd.grad(encoder(x, table, grid, active), x, grad, create_graph=True)
    return out if tracking else out.detach()


def corners(x: Tensor, grid: HashGrid, level: int) -> tuple[Tensor, Tensor]:
    """Table rows [N, 8] and weights [N, 8] of the cell around x; bits 1, 2, 4 of the corner are its x, y, z side."""
    side, scale = grid.sides[level], grid.scales[level]
    last = max(math.ceil(scale + grid.shift) - 1, 0)  # x = 1 is in it, of layout own its far vertex
    place = x.double() * scale + grid.shift  # exact, so that no rounding moves a sample into the next cell
    cell = place.detach().floor().nan_to_num(0.0).clamp(0, last)
    fraction = (place - cell).to(x.dtype)  # NaN stays NaN: a bad position shows in its features
    if grid.smoothstep:
        fraction = fraction * fraction * (3 - 2 * fraction)
    both = torch.stack([1 - fraction, fraction], -1)  # [N, 3, 2]
    weights = both[:, 2, :, None, None] * both[:, 1, None, :, None] * both[:, 0, None, None, :]
    near = cell.long()
    i, j, k = (torch.stack([near[:, axis], near[:, axis] + 1], -1) for axis in range(3))  # [N, 2]
    if grid.is_dense(side):
        index = (k[:, :, None, None] * side + j[:, None, :, None]) * side + i[:, None, None, :]
        index = index % (grid.offsets[level + 1] - grid.offsets[level])
    else:
        index = (k * PRIME_Z)[:, :, None, None] ^ (j * PRIME_Y)[:, None, :, None] ^ i[:, None, None, :]
        index = index & (2**grid.log2_entries - 1)
    return index.reshape(-1, 8) + grid.offsets[level], weights.reshape(-1, 8)


def _single(x: float) -> float:
    """The nearest float32."""
    return ctypes.c_float(x).value

# SPDX-License-Identifier: Apache-2.0
"""Multiresolution hash encoding (Mueller et al. 2022, arXiv:2201.05989), sections 3 and A: the torch twin.

This file is the definition. A level of resolution R has R cells and R + 1 vertices along each axis of the unit
cube; vertex (i, j, k) sits at (i, j, k) / R, so x = 0 and x = 1 are vertices and nothing wraps. Resolutions are
integers, computed once in float64. A level whose (R + 1)^3 vertices fit into 2^log2_entries rows is dense
(row = i + (R + 1) (j + (R + 1) k)); a finer one is hashed: eq. 4, (i xor 2654435761 j xor 805459861 k) modulo the
number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PRIME_Y, PRIME_Z = 2654435761, 805459861


@dataclass(frozen=True)
class HashGrid:
    """Shape of the encoding. The table is one [rows, features] matrix, level after level."""

    levels: int = 16
    features: int = 2  # per level: 1, 2, 4 or 8
    log2_entries: int = 19  # rows of a hashed level
    base_resolution: int = 16
    finest_resolution: int = 4096
    smoothstep: bool = False  # s(f) = f^2 (3 - 2 f) instead of f: gradients are continuous across cells

    def __post_init__(self) -> None:
        if self.levels < 1 or self.features not in (1, 2, 4, 8) or not 3 <= self.log2_entries <= 28:
            raise ValueError(
                f"HashGrid needs levels >= 1, features in 1, 2, 4, 8 and log2_entries in 3..28, got {self}"
            )
        if not 1 <= self.base_resolution <= self.finest_resolution <= 2**20:
            raise ValueError(f"HashGrid needs 1 <= base_resolution <= finest_resolution <= 2^20, got {self}")

    @cached_property
    def resolutions(self) -> list[int]:
        """Cells per axis of each level: base * (finest / base)^(l / (L - 1)), to the nearest integer.

        Nearest, not floor: the finest level is then `finest_resolution` whatever the last bit of the power is.
        """
        steps = max(self.levels - 1, 1)
        growth = self.finest_resolution / self.base_resolution
        return [round(self.base_resolution * growth ** (level / steps)) for level in range(self.levels)]

    @cached_property
    def offsets(self) -> list[int]:
        """First row of each level, and the number of rows at the end: levels + 1 numbers.

        Dense levels are padded to a multiple of eight rows, so that a hashed level starts on a cache line.
        """
        offsets = [0]
        for resolution in self.resolutions:
            dense = -(-((resolution + 1) ** 3) // 8) * 8
            offsets.append(offsets[-1] + (dense if self.is_dense(resolution) else 2**self.log2_entries))
        return offsets

    @property
    def rows(self) -> int:
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Length of one encoded row: levels * features."""
        return self.levels * self.features

    def is_dense(self, resolution: int) -> bool:
        return (resolution + 1) ** 3 <= 2**self.log2_entries

    def init_table(self, generator: torch.Generator | None = None, scale: float = 1e-4) -> Tensor:
        """[rows, features] uniform in +-scale, the paper's start."""
        return (torch.rand(self.rows, self.features, generator=generator) * 2 - 1) * scale


def encode(positions: Tensor, table: Tensor, grid: HashGrid, active_levels: int | None = None) -> Tensor:
    """[N, 3] in [0, 1], [rows, features] -> [N, levels * features]; levels from `active_levels` on are zero."""
    active = grid.levels if active_levels is None else active_levels
    x = positions.clamp(0, 1)
    features = []
    for level in range(active):
        rows, weights = corners(x, grid, level)  # [N, 8], [N, 8]
        values = table.index_select(0, rows.reshape(-1)).view(-1, 8, grid.features)
        features.append((weights.unsqueeze(-1) * values).sum(1))
    features.append(table.new_zeros(len(positions), (grid.levels - active) * grid.features))
    return torch.cat(features, 1)


def position_gradient(
    positions: Tensor, table: Tensor, grad: Tensor, grid: HashGrid, active_levels: int | None = None
) -> Tensor:
    """[N, 3]: d(encode . grad)/d positions, itself differentiable in table, grad [N, width] and positions."""
    tracking = torch.is_grad_enabled()
    with torch.enable_grad():
        x = positions if positions.requires_grad else positions.detach().requires_grad_()
        (out,) = torch.autograd.grad(encode(x, table, grid, active_levels), x, grad, create_graph=True)
    return out if tracking else out.detach()


def corners(x: Tensor, grid: HashGrid, level: int) -> tuple[Tensor, Tensor]:
    """Table rows [N, 8] and weights [N, 8] of the cell around x; bits 1, 2, 4 of the corner are its x, y, z side."""
    resolution = grid.resolutions[level]
    scaled = x.double() * resolution  # exact, so that no rounding moves a sample into the next cell
    cell = scaled.detach().floor().nan_to_num(0.0).clamp(0, resolution - 1)  # x = 1 is the far vertex of the last cell
    fraction = (scaled - cell).to(x.dtype)  # NaN stays NaN: a bad position shows in its features
    if grid.smoothstep:
        fraction = fraction * fraction * (3 - 2 * fraction)
    both = torch.stack([1 - fraction, fraction], -1)  # [N, 3, 2]
    weights = both[:, 2, :, None, None] * both[:, 1, None, :, None] * both[:, 0, None, None, :]
    near = cell.long()
    i, j, k = (torch.stack([near[:, axis], near[:, axis] + 1], -1) for axis in range(3))  # [N, 2]
    if grid.is_dense(resolution):
        stride = resolution + 1
        index = (k[:, :, None, None] * stride + j[:, None, :, None]) * stride + i[:, None, None, :]
    else:
        index = (k * PRIME_Z)[:, :, None, None] ^ (j * PRIME_Y)[:, None, :, None] ^ i[:, None, None, :]
        index = index & (2**grid.log2_entries - 1)
    return index.reshape(-1, 8) + grid.offsets[level], weights.reshape(-1, 8)

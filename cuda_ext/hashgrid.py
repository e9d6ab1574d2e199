# SPDX-License-Identifier: Apache-2.0
"""`encode`: multiresolution hash encoding of positions, twice differentiable."""

from __future__ import annotations

from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.reference import hashgrid as reference
from cuda_ext.reference.hashgrid import HashGrid

__all__ = ["HashGrid", "encode", "position_gradient"]


def encode(
    positions: Tensor,  # [N, 3]
    table: Tensor,  # [grid.rows, grid.features]
    grid: HashGrid,
    *,
    active_levels: int | None = None,
    backend: str = "auto",
) -> Tensor:  # [N, grid.width]
    """Features of positions in the unit cube, interpolated at every level of `grid` and laid side by side.

    positions      in [0, 1]; outside it they are clamped and receive no gradient. NaN gives NaN features
    table          learnable rows of all levels (`grid.init_table()`)
    active_levels  levels from this one on are left out: their features are 0 and their rows receive no gradient;
                   raise it during training to go from coarse to fine. None means all
    backend        auto, native, torch or tinycudann

    Differentiable in positions and table, twice: a loss on gradients of a field (eikonal, normals) reaches both.
    With linear interpolation the gradient in positions jumps between cells; `HashGrid(smoothstep=True)` is smooth.
    The equations are in `cuda_ext.reference.hashgrid`.
    """
    active = _check(positions, table, grid, active_levels)
    backends.choose("hashgrid", backend, positions)
    return reference.encode(positions, table, grid, active)


def position_gradient(
    positions: Tensor,  # [N, 3]
    table: Tensor,  # [grid.rows, grid.features]
    grad: Tensor,  # [N, grid.width]
    grid: HashGrid,
    *,
    active_levels: int | None = None,
    backend: str = "auto",
) -> Tensor:  # [N, 3]
    """Gradient in positions of (encode(positions) . grad), the cheap way to analytic normals.

    With `features = encode(points, table, grid)` and `grad = autograd.grad(density.sum(), features, create_graph=True)`
    this is the gradient of the density in space without a gradient pass through the table.
    Differentiable once, in positions, table and grad.
    """
    active = _check(positions, table, grid, active_levels)
    check_shape("hashgrid", "grad", grad, (positions.shape[0], grid.width))
    check_alike("hashgrid", positions=positions, grad=grad)
    backends.choose("hashgrid", backend, positions)
    return reference.position_gradient(positions, table, grad, grid, active)


def _check(positions: Tensor, table: Tensor, grid: HashGrid, active_levels: int | None) -> int:
    check_shape("hashgrid", "positions", positions, ("N", 3))
    check_shape("hashgrid", "table", table, (grid.rows, grid.features))
    check_alike("hashgrid", positions=positions, table=table)
    active = grid.levels if active_levels is None else active_levels
    require(0 <= active <= grid.levels, f"hashgrid: active_levels must be in 0..{grid.levels}, got {active}")
    return active

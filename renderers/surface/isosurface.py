# SPDX-License-Identifier: Apache-2.0
"""Level sets: a function of space on a grid, and the triangles where it has a level, by marching cubes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext.march import Bounds
from dreamlab.core.errors import Diverged
from dreamlab.core.types import LevelSet

CHUNK = 1 << 18  # points evaluated at once


def evaluated(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """`function` over points [N, 3], a part at a time."""
    return torch.cat([function(part) for part in points.split(CHUNK)])


def level_set(
    function: Callable[[Tensor], Tensor],
    colour: Callable[[Tensor], Tensor],
    bounds: Bounds,
    resolution: int,
    device: torch.device,
    usual: float,
    worth: tuple[float, ...] = (),
) -> LevelSet:
    """Of `function` [N, 3] -> [N], large inside, at `resolution` corners a side of a cube, where `colour` [N, 3] ->
    [N, 3] is known, too."""
    low, high = (torch.tensor(corner, device=device) for corner in bounds)
    line = torch.linspace(0, 1, resolution, device=device)
    unit = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    with torch.no_grad():
        values = evaluated(function, low + unit * (high - low)).reshape((resolution,) * 3)
    cell = (bounds[1][0] - bounds[0][0]) / (resolution - 1)
    return LevelSet(values, bounds[0], cell, lambda points: evaluated(colour, points), usual, worth)


def isosurface(found: LevelSet, level: float) -> tuple[Tensor, Tensor]:
    """Vertices [V, 3] and outward faces [F, 3] of a closed surface, on the host."""
    import numpy as np
    from skimage.measure import marching_cubes

    values = found.values.float().cpu().numpy()
    peak = float(values.max())
    if not peak > level:
        raise Diverged(f"empty geometry: the density peaks at {peak:.3g}, the surface needs {level:.3g}; train longer")
    # One more layer of emptiness closes what reaches the border.
    padded = np.pad(values, 1, constant_values=min(float(values.min()), level - 1.0))
    corners, faces, _, _ = marching_cubes(padded, level, gradient_direction="ascent")
    vertices = (corners.astype(np.float64) - 1) * found.cell + np.array(found.low)
    return torch.from_numpy(vertices).float(), torch.from_numpy(faces.astype(np.int64))

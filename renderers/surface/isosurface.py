# SPDX-License-Identifier: Apache-2.0
"""A surface out of a function of space: evaluate on a grid, marching cubes, drop what floats about."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext.march import Bounds
from dreamlab.core.errors import Diverged
from dreamlab.core.types import Mesh

MIN_PART = 0.01  # parts below this share of the largest part's area are dropped
CHUNK = 1 << 18  # points evaluated at once


def grid_points(bounds: Bounds, resolution: int, device: torch.device) -> Tensor:
    """[R^3, 3] corners of the grid, x slowest."""
    low, high = (torch.tensor(corner, device=device) for corner in bounds)
    line = torch.linspace(0, 1, resolution, device=device)
    unit = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    return low + unit * (high - low)


def evaluated(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """`function` over points [N, 3], a part at a time."""
    return torch.cat([function(part) for part in points.split(CHUNK)])


def isosurface(
    function: Callable[[Tensor], Tensor],
    color: Callable[[Tensor], Tensor],
    bounds: Bounds,
    resolution: int,
    level: float,
    device: torch.device,
    values: Tensor | None = None,
) -> Mesh:
    """Where `function` [N, 3] -> [N], large inside, crosses `level`; coloured by `color` [N, 3] -> [N, 3] sRGB.
    `values` [R^3] are those of `function` at `grid_points`, when they are known already."""
    import numpy as np
    import trimesh
    from skimage.measure import marching_cubes

    with torch.no_grad():
        if values is None:
            values = evaluated(function, grid_points(bounds, resolution, device))
        found = values.reshape((resolution,) * 3).cpu().numpy()
        if found.max() <= level:
            raise Diverged(
                f"empty geometry: the field peaks at {found.max():.3g}, the surface needs {level:.3g}; train longer"
            )
        spacing = (bounds[1][0] - bounds[0][0]) / (resolution - 1)
        # One more layer of emptiness closes what reaches the box.
        padded = np.pad(found, 1, constant_values=min(float(found.min()), level - 1.0))
        corners, faces, _, _ = marching_cubes(padded, level, gradient_direction="ascent")
        mesh = trimesh.Trimesh((corners - 1) * spacing + np.array(bounds[0]), faces, process=False)
        areas = [
            (float(mesh.area_faces[part].sum()), part)
            for part in trimesh.graph.connected_components(mesh.face_adjacency)
        ]
        largest = max(area for area, _ in areas)
        mesh.update_faces(np.concatenate([part for area, part in areas if area >= MIN_PART * largest]))
        mesh.remove_unreferenced_vertices()
        if mesh.volume < 0:
            mesh.invert()
        vertices = torch.from_numpy(np.array(mesh.vertices)).float()
        normals = torch.nn.functional.normalize(torch.from_numpy(np.array(mesh.vertex_normals)).float(), dim=-1)
        shade = evaluated(color, vertices.to(device)).cpu().clamp(0, 1)
    return Mesh(vertices, torch.from_numpy(np.array(mesh.faces)).long(), shade, normals)

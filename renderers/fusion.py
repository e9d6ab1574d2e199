# SPDX-License-Identifier: Apache-2.0
"""A surface out of depth pictures: truncated signed distances averaged over views (Curless & Levoy 1996), then marching
cubes. Works for every scene that renders depth and alpha; colours are averaged with the distances.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from cuda_ext.texture import texture
from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import Diverged
from dreamlab.core.types import Frames, Mesh
from renderers.surface import vertex_normals
from renderers.tets import KuhnGrid, place

TRUNCATION = 3.0  # cells
OPAQUE = 0.5  # less alpha than this is empty space


def fuse(show: Callable[[Cameras], Frames], cameras: Cameras, size: int, resolution: int, extent: float = 1.0) -> Mesh:
    """The surface in [-extent, extent]^3 that `show` draws from `cameras`, `size` pixels a side.

    A corner of the grid in front of a depth, or beside the silhouette, is seen to be empty; one behind it by more
    than the truncation learns nothing from that view. Corners that no view reaches are inside.
    """
    grid = KuhnGrid(resolution, extent)
    points = grid.vertices(cameras.camera_to_world.device)
    reach = TRUNCATION * grid.cell
    total, weight = points.new_zeros(len(points), 4), points.new_zeros(len(points), 1)
    carved = points.new_zeros(len(points))
    for i in range(len(cameras)):
        one = cameras[i : i + 1]
        with torch.no_grad():
            frames = show(one)
            local = points @ one.world_to_camera()[0, :3, :3].T + one.world_to_camera()[0, :3, 3]
            away = -local[:, 2]
            focal = one.focal_px(size)[0]
            uv = (
                torch.stack([focal * local[:, 0], -focal * local[:, 1]], -1) / away.clamp(min=1e-6)[:, None] / size
                + 0.5
            )
            inside = ((uv > 0) & (uv < 1)).all(-1) & (away > 1e-3)
            layers = torch.cat([frames.depth, frames.rgb, frames.alpha], -1)[0]
            depth, rgb, seen = texture(layers, uv[None, None], boundary="clamp")[0, 0].split([1, 3, 1], -1)
            solid = inside & (seen[:, 0] > OPAQUE)
            gap = (depth[:, 0] - away) / reach
            near = solid & (gap > -1)
            value = torch.cat([gap.clamp(max=1)[:, None], rgb], 1)
            total = total + value * near[:, None]
            weight = weight + near[:, None]
            carved = carved + (inside & (seen[:, 0] <= OPAQUE))
    mean = total / weight.clamp(min=1)
    sdf = torch.where(weight[:, 0] > 0, mean[:, 0], -1.0)
    sdf = torch.where(carved > 0, sdf.clamp(min=0.0) + 1e-3 + (weight[:, 0] == 0), sdf)
    sdf = torch.where(grid.border(sdf.device), sdf.abs() + 1e-3, sdf)
    edges, faces = grid.cross(sdf)
    if not len(faces):
        raise Diverged("empty geometry: no view shows anything opaque; train longer")
    vertices = place(grid.points(edges), sdf[edges])
    known = weight[edges] + 1e-6
    colors = ((mean[edges][..., 1:] * known).sum(1) / known.sum(1)).clamp(0, 1)
    return Mesh(vertices.cpu(), faces.cpu(), colors.cpu(), vertex_normals(vertices, faces).cpu())

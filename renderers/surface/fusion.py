# SPDX-License-Identifier: Apache-2.0
"""A surface out of depth pictures: truncated signed distances averaged over views (Curless & Levoy 1996), then marching
cubes. Works for every scene that renders depth and alpha; colours are averaged with the distances. `fuse_open3d` has
Open3D do it, for those who have it installed; it knows no silhouettes, so it carves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cuda_ext.texture import texture
from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import Diverged, RecipeError
from dreamlab.core.types import Frames, Mesh
from renderers.surface.draw import vertex_normals
from renderers.surface.tets import KuhnGrid, place

WAYS = ("density", "fusion", "open3d")  # to a surface of a scene that has none of its own
TRUNCATION = 3.0  # cells
OPAQUE = 0.5  # less alpha than this is empty space
OUTVOTED = 10  # views that find a corner deep behind what they see, for each that looks past it through a gap


class Fused(NamedTuple):
    """Distances on a grid, in truncations, negative inside, with what was seen near its corners."""

    grid: KuhnGrid
    sdf: Tensor  # [V] in [-1, 1]
    colours: Tensor  # [V, 3] summed over views
    weight: Tensor  # [V, 1] of views

    def surface(self, level: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Vertices [N, 3], faces [F, 3] and colours [N, 3] where the distance is `level`: above 0 in front of the mean
        depths, where the outside of a soft scene is."""
        border = self.grid.border(self.sdf.device)
        sdf = torch.where(border, (self.sdf - level).abs() + 1e-3, self.sdf - level)
        edges, faces = self.grid.cross(sdf)
        if not len(faces):
            raise Diverged("empty geometry: no view shows anything opaque; train longer")
        vertices = place(self.grid.points(edges), sdf[edges])
        colours = (self.colours[edges].sum(1) / (self.weight[edges].sum(1) + 1e-6)).clamp(0, 1)
        return vertices, faces, colours


def fuse(show: Callable[[Cameras], Frames], cameras: Cameras, size: int, resolution: int, extent: float = 1.0) -> Fused:
    """What `show` draws from `cameras`, `size` pixels a side, as distances in [-extent, extent]^3.

    A corner of the grid in front of a depth is seen to be empty, and so is one beside the silhouette, by its distance
    from that; one behind a depth by more than the truncation learns nothing from that view. Corners that no view
    reaches are inside, and so are those that very few reach: clouds have gaps.
    """
    grid = KuhnGrid(resolution, extent)
    points = grid.vertices(cameras.camera_to_world.device)
    reach = TRUNCATION * grid.cell
    total, weight = points.new_zeros(len(points), 4), points.new_zeros(len(points), 1)
    beside, behind = points.new_zeros(len(points), 2), points.new_zeros(len(points))  # sum of distances, count
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
            layers = torch.cat([frames.depth, frames.rgb, frames.alpha, outside(frames.alpha)], -1)[0]
            depth, rgb, seen, off = texture(layers, uv[None, None], boundary="clamp")[0, 0].split([1, 3, 1, 1], -1)
            solid = inside & (seen[:, 0] > OPAQUE)
            gap = (depth[:, 0] - away) / reach
            near = solid & (gap > -1)
            value = torch.cat([gap.clamp(max=1)[:, None], rgb], 1)
            total = total + value * near[:, None]
            weight = weight + near[:, None]
            clear = (inside & (seen[:, 0] <= OPAQUE)).to(points)
            distance = (off[:, 0] * away / focal / reach).clamp(max=1)
            beside = beside + torch.stack([clear * distance, clear], 1)
            behind = behind + (solid & (gap <= -1))
    votes = weight[:, 0] + beside[:, 1]
    sdf = torch.where(votes > 0, (total[:, 0] + beside[:, 0]) / votes.clamp(min=1), -1.0)
    sdf = torch.where(behind > OUTVOTED * votes, -1.0, sdf)
    return Fused(grid, sdf, total[:, 1:], weight)


def outside(alpha: Tensor) -> Tensor:
    """[1, H, W, 1]: how many pixels away the silhouette is, 0 in it; where there is none, as far as can be."""
    from scipy.ndimage import distance_transform_edt

    solid = (alpha[0, ..., 0] > OPAQUE).cpu().numpy()
    if not solid.any():
        return torch.full_like(alpha, float(sum(solid.shape)))
    away = torch.from_numpy(distance_transform_edt(~solid)).to(alpha)
    return (away - 0.5).clamp(min=0)[None, ..., None]  # to the pixel's edge, not to its middle


def fuse_open3d(
    show: Callable[[Cameras], Frames], cameras: Cameras, size: int, resolution: int, extent: float = 1.0
) -> Mesh:
    """The same by Open3D's scalable volume; what lies outside the box is cut off."""
    try:
        import open3d
    except (ImportError, OSError):  # it is there, but a system library it needs is not
        raise RecipeError(
            "scene.surface: open3d: Open3D cannot be imported; pip install open3d-cpu, or use surface: fusion"
        ) from None
    cell = 2 * extent / resolution
    made = open3d.pipelines.integration.ScalableTSDFVolume(
        cell, TRUNCATION * cell, open3d.pipelines.integration.TSDFVolumeColorType.RGB8
    )
    opengl_to_opencv = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    for i in range(len(cameras)):
        one = cameras[i : i + 1]
        frames = show(one)
        focal, centre = float(one.focal_px(size)[0]), size / 2 - 0.5  # its pixel centres sit at whole numbers
        depth = torch.where(frames.alpha > OPAQUE, frames.depth, 0.0)[0, ..., 0].cpu().numpy()
        colour = (frames.rgb[0].clamp(0, 1) * 255).round().byte().cpu().numpy()
        picture = open3d.geometry.RGBDImage.create_from_color_and_depth(
            open3d.geometry.Image(np.ascontiguousarray(colour)),
            open3d.geometry.Image(np.ascontiguousarray(depth, np.float32)),
            depth_scale=1.0,
            depth_trunc=1e3,
            convert_rgb_to_intensity=False,
        )
        lens = open3d.camera.PinholeCameraIntrinsic(size, size, focal, focal, centre, centre)
        made.integrate(picture, lens, (opengl_to_opencv @ one.world_to_camera()[0].cpu()).double().numpy())
    found = made.extract_triangle_mesh()
    found = found.crop(open3d.geometry.AxisAlignedBoundingBox([-extent] * 3, [extent] * 3))
    if not len(found.triangles):
        raise Diverged("empty geometry: no view shows anything opaque; train longer")
    vertices, colours = (
        torch.from_numpy(np.asarray(each, np.float32)) for each in (found.vertices, found.vertex_colors)
    )
    faces = torch.from_numpy(np.asarray(found.triangles, np.int64))
    return Mesh(vertices, faces, colours, vertex_normals(vertices, faces))

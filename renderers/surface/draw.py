# SPDX-License-Identifier: Apache-2.0
"""Triangles to pictures, for every scene that is a surface: visibility, attributes where it is seen, smooth borders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext.antialias import antialias, edge_neighbours
from cuda_ext.context import Context
from cuda_ext.interpolate import interpolate
from cuda_ext.packages import for_op
from cuda_ext.raster import Raster, projection, raster
from dreamlab.core.cameras import Cameras
from dreamlab.core.gather import taken
from dreamlab.core.safemath import safe_normalize
from dreamlab.core.types import Frames

NEAR, FAR = 0.05, 100.0
NO_AREA = 1e-10  # square metres


@dataclass(frozen=True)
class Surface:
    """Triangles, counter-clockwise seen from outside; `neighbours` is `edge_neighbours(faces)`."""

    vertices: Tensor  # [V, 3], or [B, V, 3] where it stands otherwise for each of B cameras
    faces: Tensor  # [F, 3] int64
    neighbours: Tensor  # [F, 3] int32

    @staticmethod
    def of(vertices: Tensor, faces: Tensor) -> Surface:
        return Surface(vertices, faces, edge_neighbours(faces))

    @staticmethod
    def bare(vertices: Tensor, faces: Tensor) -> Surface:
        """For those who ask what is seen and smooth no silhouette."""
        return Surface(vertices, faces, faces.new_zeros(0, 3, dtype=torch.int32))


@dataclass(frozen=True)
class View:
    """A surface as B cameras see it. Attributes are read at the M pixels that it covers, `hit` [M] of B * H * W."""

    surface: Surface
    cameras: Cameras
    clip: Tensor  # [B, V, 4]
    raster: Raster
    hit: Tensor  # [M]
    backend: str = "auto"  # of the scene whose view it is

    def runs(self, op: str) -> str:
        """Which backend an op has."""
        return for_op(self.backend, op)

    @property
    def points(self) -> Tensor:
        """[M, 3] in the world; differentiable in the vertices."""
        return self.read(self.surface.vertices)

    @property
    def depth(self) -> Tensor:
        """[B, H, W, 1] camera z, 0 where nothing is."""
        how = self.runs("interpolate")
        return interpolate(self.clip[..., 3:], self.raster, self.surface.faces, backend=how)[0]

    def read(self, attributes: Tensor, faces: Tensor | None = None) -> Tensor:
        """[M, C] of attributes [V, C]; `faces` when they have rows of their own (texture seams)."""
        faces = self.surface.faces if faces is None else faces
        value, _ = interpolate(attributes, self.raster, faces, backend=self.runs("interpolate"))
        return taken(value.flatten(0, 2), self.hit)

    def texture_coordinates(self, uv: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """[M, 2] and their change per pixel [M, 4], for mip-mapped fetches."""
        value, slope = interpolate(uv, self.raster, faces, derivatives=True, backend=self.runs("interpolate"))
        assert slope is not None
        return taken(value.flatten(0, 2), self.hit), taken(slope.flatten(-2).flatten(0, 2), self.hit)

    def to_eye(self, points: Tensor) -> Tensor:
        """[M, 3] unit vectors from points to the camera that sees them."""
        height, width = self.raster.triangle.shape[1:]
        eyes = self.cameras.camera_to_world[:, :3, 3]
        return safe_normalize(eyes[self.hit // (height * width)] - points)

    def over(self, values: Tensor, background: Tensor) -> Tensor:
        """Values [M, C] over `background` [B, C], with silhouettes smoothed: [B, H, W, C]."""
        views, height, width = self.raster.triangle.shape
        canvas = background[:, None].expand(-1, height * width, -1).reshape(-1, background.shape[1])
        picture = canvas.index_copy(0, self.hit, values.to(canvas)).reshape(views, height, width, -1)
        faces, neighbours, how = self.surface.faces, self.surface.neighbours, self.runs("antialias")
        return antialias(picture, self.raster, self.clip, faces, neighbours=neighbours, backend=how)


def look(surface: Surface, cameras: Cameras, size: int, backend: str = "auto") -> View:
    """Rasterise all views in one call."""
    camera = projection(cameras.fovy_deg, 1.0, NEAR, FAR).to(surface.vertices) @ cameras.world_to_camera()
    ones = torch.ones_like(surface.vertices[..., :1])
    clip = torch.cat([surface.vertices, ones], -1) @ camera.transpose(1, 2)
    seen = raster(clip, surface.faces, (size, size), backend=for_op(backend, "raster"))
    return View(surface, cameras, clip, seen, (seen.triangle.reshape(-1) > 0).nonzero()[:, 0], backend)


def compose(view: View, rgb: Tensor, normal: Tensor, background: Tensor) -> Frames:
    """Frames of shaded pixels: colours [M, 3 or more] and world normals [M, 3] over `background` [B, 3 or more]."""
    blank = torch.cat([background, background.new_zeros(len(background), 4)], 1)
    shown = view.over(torch.cat([rgb, torch.ones_like(normal[:, :1]), normal], 1), blank)
    channels = background.shape[1]
    colour, alpha, bent = shown.split([channels, 1, 3], dim=-1)
    return Frames(colour, alpha, view.depth, background, bent)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """[V, 3] unit, weighted by the area of the faces around; +Y at a vertex without area, for files ask for a unit."""
    a, b, c = taken(vertices, faces).unbind(1)
    face = torch.linalg.cross(b - a, c - a)
    rows = faces.T.reshape(-1)
    total = torch.zeros_like(vertices).index_add(0, rows, face.repeat(3, 1))
    # Below NO_AREA the direction is rounding, and its gradient has no bounds.
    flat = total.detach().abs().amax(-1, keepdim=True) < NO_AREA
    up = torch.zeros_like(total)
    up[:, 1] = 1.0
    return F.normalize(torch.where(flat, up, total), dim=-1, eps=0.1 * NO_AREA)


def directed_edges(faces: Tensor) -> Tensor:
    """[3 F, 2]: every inner edge twice, once per direction."""
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def normal_consistency(normals: Tensor, faces: Tensor) -> Tensor:
    """Mean over edges of 1 - cos between the normals of their two ends (Magic3D)."""
    start, end = taken(normals, directed_edges(faces)).unbind(1)
    return (1 - (start * end).sum(-1)).mean()


def laplacian(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean distance of a vertex from the mean of its neighbours (uniform weights)."""
    return Neighbours.of(faces, len(vertices)).roughness(vertices)


@dataclass(frozen=True)
class Neighbours:
    """Means over the neighbours of each vertex, while triangles stay what they are."""

    columns: Tensor  # [E] the neighbours of vertex after vertex
    starts: Tensor  # [V] of them
    many: Tensor  # [E] how many triangles say so
    whole: Tensor  # [V] the sum of those

    @staticmethod
    def of(faces: Tensor, count: int) -> Neighbours:
        edges = directed_edges(faces)
        key, many = torch.unique(torch.cat([edges, edges.flip(1)]) @ edges.new_tensor([count, 1]), return_counts=True)
        rows, columns, many = key // count, key % count, many.float()
        starts = torch.searchsorted(rows, torch.arange(count, device=rows.device))
        return Neighbours(columns, starts, many, many.new_zeros(count).index_add(0, rows, many))

    def roughness(self, vertices: Tensor) -> Tensor:
        """Mean distance of a vertex from the mean of its neighbours (uniform weights)."""
        used = self.whole > 0
        offset = (self.means(vertices) - vertices).square().sum(-1)
        return ((offset + 1e-20).sqrt() * used).sum() / used.sum().clamp(min=1)

    def means(self, values: Tensor) -> Tensor:
        """[V, C] of the neighbours; 0 of a vertex that has none."""
        total = NeighbourSums.apply(values, self.columns, self.starts, self.many.to(values))
        return total / self.whole.clamp(min=1)[:, None]

    def spread(self, values: Tensor, rounds: int) -> Tensor:
        """[V, C] half of each and half of the mean around it, so many times; what is the same everywhere stays."""
        for _ in range(rounds):
            values = (values + torch.where(self.whole[:, None] > 0, self.means(values), values)) / 2
        return values


class NeighbourSums(torch.autograd.Function):
    """Sums of rows, without a scatter either way: who is a neighbour of whom is mutual."""

    @staticmethod
    def forward(ctx: Context, values: Tensor, columns: Tensor, starts: Tensor, many: Tensor) -> Tensor:
        ctx.save_for_backward(columns, starts, many)
        return F.embedding_bag(columns, values, starts, mode="sum", per_sample_weights=many)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        columns, starts, many = ctx.saved_tensors
        sums = F.embedding_bag(columns, grad.contiguous(), starts, mode="sum", per_sample_weights=many)
        return sums, None, None, None

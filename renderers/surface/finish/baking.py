# SPDX-License-Identifier: Apache-2.0
"""From a surface with texture coordinates to its textures: base colour out of pictures, the fine surface's normals,
occlusion; charts grown outward, the rest of the picture in the mean colour, so that no mip level shows a seam.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cuda_ext.texture import texture
from dreamlab.core.files import Json
from dreamlab.core.triangles import areas
from dreamlab.core.types import Mesh, Textures
from renderers.surface.atlas import Atlas
from renderers.surface.bake import Texels, texels
from renderers.surface.draw import Surface
from renderers.surface.finish.occlusion import occlusion
from renderers.surface.finish.paint import TRUSTED, lens, seen_colours, spread
from renderers.surface.pictures import Shots, joined_by_place
from renderers.surface.tangents import with_tangents

GUTTER = 8 / 1024  # of the picture's side, around every chart
GROWN = 12 / 1024  # of it, by which charts grow outward: at 1024, mip 3 reads 12 texels beyond their borders
ROUGHNESS, METALLIC = 0.8, 0.0  # of scenes that know no material
SHADE_TEXELS = 256  # a side: occlusion changes slowly, and is computed on so many
FINE = 2.5  # texels along an edge of the fine surface that are enough to hold its normals
PIXEL = 0.8  # of a picture's, the largest texel that its colours are read on
NEAREST = 4  # vertices of the fine surface that a normal is a mean of
AHEAD = 0.2  # cosine between a fine normal and the decimated surface's: what turns farther is another side of it


@dataclass(frozen=True)
class Canvas:
    """A surface laid out in a square."""

    mesh: Mesh  # with uv and tangents
    size: int

    def at(self, size: int) -> Texels:
        """The texels of a smaller picture of the same layout."""
        mesh = self.mesh
        assert mesh.uv is not None
        return texels(Atlas(mesh.uv, mesh.faces, torch.arange(len(mesh.vertices))), size)

    def frame(self, at: Texels) -> tuple[Tensor, Tensor]:
        """Points and unit normals [M, 3] of texels."""
        mesh = self.mesh
        return at.read(mesh.vertices, mesh.faces), normalize(at.read(mesh.normals, mesh.faces), dim=-1)


def laid_out(mesh: Mesh, atlas: Atlas, size: int) -> Canvas:
    """With vertices repeated along seams, and tangents."""
    rows = atlas.source
    seamed = Mesh(mesh.vertices[rows], atlas.faces, mesh.colours[rows], mesh.normals[rows], atlas.uv)
    return Canvas(with_tangents(seamed), size)


def baked(canvas: Canvas, fine: Mesh | None, shots: Shots) -> tuple[Mesh, Json]:
    """The surface with textures. `fine` is what it was decimated from."""
    at = canvas.at(canvas.size)
    base, facts = _base(canvas, at, shots)
    grown = Grown.of(at)
    one = torch.ones(canvas.size, canvas.size, 1)
    normal = None if fine is None else grown.picture(relief(canvas, at, fine), torch.tensor([0.5, 0.5, 1.0]))
    textures = Textures(grown.picture(base), ROUGHNESS * one, METALLIC * one, normal, shade(canvas, at, grown))
    mesh = canvas.mesh
    assert mesh.uv is not None
    colours = texture(textures.base, mesh.uv[None, None], boundary="clamp")[0, 0]
    return replace(mesh, colours=colours, textures=textures), facts


def _base(canvas: Canvas, at: Texels, shots: Shots) -> tuple[Tensor, Json]:
    """Base colours [M, 3] of texels, and the share of them that no picture shows."""
    cameras = shots.cameras
    pixel = float((cameras.camera_to_world[:, :3, 3].norm(dim=-1) / cameras.focal_px(shots.size)).mean())
    small = canvas.at(coarse_size(canvas, PIXEL * pixel))
    points, normals = canvas.frame(small)
    mesh = canvas.mesh
    places, faces, row = joined_by_place(mesh.vertices, mesh.faces)
    first = torch.zeros(len(places), dtype=torch.int64).index_copy(0, row, torch.arange(len(row)))
    asked = lens(Surface.of(places, faces), shots)
    # Vertices first: what is not seen is filled over them, and texels read it in between.
    sides = mesh.normals[first]
    around = spread(places, sides, *seen_colours(asked, places, sides))
    colours, weights = seen_colours(asked, points, normals)
    trust = (weights / TRUSTED).clamp(max=1)
    kept = (trust * colours + (1 - trust) * small.read(around[row], mesh.faces)).clamp(0, 1)
    return enlarged(small, kept, canvas, at), {"unseen": float((weights <= TRUSTED).float().mean())}


@dataclass(frozen=True)
class Grown:
    """Where texels outside the charts take their values from."""

    at: Texels
    near: Tensor  # [N] of size * size: texels within GROWN of a chart
    source: Tensor  # [N] of at.hit: the covered texel nearest to each

    @staticmethod
    def of(at: Texels) -> Grown:
        from scipy.ndimage import distance_transform_edt

        empty = torch.ones(at.size**2, dtype=torch.bool)
        empty[at.hit] = False
        away, (row, column) = distance_transform_edt(empty.reshape(at.size, at.size).numpy(), return_indices=True)
        near = (torch.from_numpy(away.reshape(-1)) <= max(GROWN * at.size, 2)).nonzero()[:, 0]
        there = torch.from_numpy(row.reshape(-1)[near].astype("int64") * at.size + column.reshape(-1)[near])
        place = torch.empty(at.size**2, dtype=torch.int64)
        place[at.hit] = torch.arange(len(at.hit))
        return Grown(at, near, place[there])

    def picture(self, values: Tensor, blank: Tensor | None = None) -> Tensor:
        """[size, size, C] of values [M, C]; far from charts `blank` [C], or else their mean."""
        mean = values.mean(0) if blank is None else blank
        flat = mean.expand(self.at.size**2, -1).clone()
        return flat.index_copy_(0, self.near, values[self.source]).reshape(self.at.size, self.at.size, -1)


def coarse_size(canvas: Canvas, wanted: float) -> int:
    """Texels a side of the smallest halving of the picture whose texels are still below `wanted` metres."""
    mesh, size = canvas.mesh, canvas.size
    assert mesh.uv is not None
    a, b, c = mesh.uv[mesh.faces].unbind(1)
    flat = float(((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs().sum()) / 2
    across = (float(areas(mesh.vertices, mesh.faces).sum()) / max(flat, 1e-9)) ** 0.5  # metres the square is wide
    while size > 64 and across / (size // 2) < wanted:
        size //= 2
    return size


def enlarged(small: Texels, values: Tensor, canvas: Canvas, at: Texels) -> Tensor:
    """[M, C] at the texels of the large picture, of values at those of a small one."""
    if small.size == at.size:
        return values
    mesh = canvas.mesh
    assert mesh.uv is not None
    return texture(small.picture(values), at.read(mesh.uv, mesh.faces)[None, None], boundary="clamp")[0, 0]


def relief(canvas: Canvas, at: Texels, fine: Mesh) -> Tensor:
    """[M, 3] normals of the fine surface as colours, in the frame of the decimated one: (n + 1) / 2."""
    from scipy.spatial import cKDTree

    side = (float(areas(fine.vertices, fine.faces).sum()) / max(len(fine.faces), 1) * 2.31) ** 0.5
    small = canvas.at(coarse_size(canvas, side / FINE))
    points, normals = canvas.frame(small)
    distance, near = cKDTree(fine.vertices.numpy()).query(points.numpy(), k=min(NEAREST, len(fine.vertices)))
    near = torch.from_numpy(near).reshape(len(points), -1)
    spread = torch.from_numpy(distance).float().reshape(len(points), -1) / (0.6 * side)
    found = fine.normals[near]
    weight = (-0.5 * (spread.square() - spread[:, :1].square())).exp() * ((found * normals[:, None]).sum(-1) > AHEAD)
    bent = (weight[..., None] * found).sum(1)
    bent = torch.where(weight.sum(1, keepdim=True) > 0, bent, normals)
    return relief_at(canvas, at, enlarged(small, normalize(bent, dim=-1), canvas, at))


def relief_at(canvas: Canvas, at: Texels, world: Tensor) -> Tensor:
    """[M, 3] colours of normals [M, 3] in the world, in the frame of the surface: (n + 1) / 2."""
    mesh, world = canvas.mesh, normalize(world, dim=-1)
    assert mesh.tangents is not None
    normal = normalize(at.read(mesh.normals, mesh.faces), dim=-1)
    tangent = at.read(mesh.tangents, mesh.faces)
    along = normalize(tangent[:, :3] - normal * (normal * tangent[:, :3]).sum(-1, keepdim=True), dim=-1)
    across = torch.linalg.cross(normal, along) * tangent[:, 3:].sign()
    local = torch.stack([(world * along).sum(-1), (world * across).sum(-1), (world * normal).sum(-1)], -1)
    return (normalize(local, dim=-1) + 1) / 2


def shade(canvas: Canvas, at: Texels, grown: Grown) -> Tensor:
    """[size, size, 1] occlusion."""
    small = canvas.at(min(canvas.size, SHADE_TEXELS))
    places, faces, _ = joined_by_place(canvas.mesh.vertices, canvas.mesh.faces)
    values = occlusion(places, faces, *canvas.frame(small))
    return grown.picture(enlarged(small, values, canvas, at).clamp(0, 1))


def shaded(mesh: Mesh) -> Mesh:
    """A mesh that has its textures, with occlusion, and tangents where it had none."""
    assert mesh.textures is not None
    made = mesh if mesh.tangents is not None else with_tangents(mesh)
    canvas = Canvas(made, mesh.textures.base.shape[0])
    at = canvas.at(canvas.size)
    return replace(made, textures=replace(mesh.textures, occlusion=shade(canvas, at, Grown.of(at))))

# SPDX-License-Identifier: Apache-2.0
"""A scene as it forms, for a 3D view: a file small enough to be fetched every few seconds, made in a moment.

Gaussians are written as such, those that show most where there are too many. Anything else is a surface, found on a
coarse grid and thinned out, with colours at its vertices; a surface with textures of its own keeps them, smaller. What
moves along with its points is animated; what changes without telling is shown at time 0. Nothing here changes a scene.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreamlab.core.errors import Diverged
from dreamlab.core.types import Mesh, Moving, Scene, Splats, Splatting, Textures, Track
from dreamlab.export.glb import gltf_of
from dreamlab.export.product import Product
from dreamlab.export.splats.khr import splat_glb_bytes
from renderers.gaussian.placed import rows_of, sound, to_degree
from renderers.surface.clean import fewer_faces
from renderers.surface.extraction import extract

LIMIT = 300_000  # bytes of a file
HEAD = 3_000  # of them for what is no array
NAME = "live"
GAUSSIAN, CORNER, TRIANGLE = 64, 32, 12  # bytes of a Gaussian, a vertex, a face
MOMENT = 24  # bytes of a vertex at each moment of a motion
MOMENTS = 8  # of a motion, after the first
GRIDS = (24, 32, 48, 64)  # cells a side, by how much detail there is time for
TEXELS = 256  # a side of a texture, at most
SMALLEST = 32


class Glimpse(NamedTuple):
    """What a 3D view is given."""

    kind: str  # splat, mesh or animation
    data: bytes  # a GLB of at most LIMIT bytes


def live(scene: Scene, detail: int) -> Glimpse:
    """The scene now; `detail` counts from 0 to the last of GRIDS. Diverged where there is nothing to be seen yet."""
    with torch.no_grad():
        if isinstance(scene, Moving):
            mesh = extract(scene, GRIDS[detail], most_faces(MOMENTS), by_pictures=False)
            return Glimpse("animation", surface_file(mesh, motion(scene, mesh)))
        cloud = scene.splats() if isinstance(scene, Splatting) else None
        if cloud is not None:
            return Glimpse("splat", cloud_file(cloud))
        return Glimpse("mesh", surface_file(extract(scene, GRIDS[detail], by_pictures=False)))


def cloud_file(cloud: Splats) -> bytes:
    """Without what depends on who looks; of too many Gaussians those that cover most."""
    cloud = to_degree(sound(cloud)[0], 0)
    if not len(cloud.means):
        raise Diverged("none of the Gaussians is to be seen")
    most = (LIMIT - HEAD) // GAUSSIAN
    if len(cloud.means) > most:
        wide = cloud.scales.sort(1).values[:, 1:].prod(1)
        rows = (cloud.opacity * wide).topk(most).indices.sort().values
        cloud = rows_of(cloud, rows)
    return splat_glb_bytes(cloud, NAME, {})


def most_faces(moments: int = 0) -> int:
    """Triangles that a file holds, of a closed surface: twice as many as vertices."""
    return int(0.95 * (LIMIT - HEAD) / (TRIANGLE + (CORNER + MOMENT * moments) / 2))


def motion(scene: Moving, mesh: Mesh) -> Track | None:
    """Where the vertices go, at even times."""
    times = torch.linspace(0, 1, MOMENTS + 1)
    points = scene.follow(mesh.vertices, times).cpu()
    points[0] = mesh.vertices
    if scene.loops:
        points[-1] = mesh.vertices
    return Track(times, points)


def surface_file(mesh: Mesh, track: Track | None = None) -> bytes:
    """Of a surface, with its textures where there is room for them."""
    textures = mesh.textures
    if textures is not None and CORNER * len(mesh.vertices) + TRIANGLE * len(mesh.faces) < LIMIT // 2:
        size = TEXELS
        while size >= SMALLEST:
            data = written(replace(mesh, textures=smaller(textures, size)), None)
            if len(data) <= LIMIT:
                return data
            size //= 2
    plain = replace(mesh, textures=None, uv=None, tangents=None)
    count = len(mesh.faces) if track is not None else most_faces()
    data = written(fewer_faces(plain, count), track)
    while len(data) > LIMIT:  # open surfaces have more vertices than closed ones
        count = int(count * 0.9 * LIMIT / len(data))
        data = written(fewer_faces(plain, count), None)
    return data


def written(mesh: Mesh, track: Track | None) -> bytes:
    if not len(mesh.faces):
        raise Diverged("the surface has no triangles")
    return gltf_of(Product(NAME, mesh, track)).glb()


def smaller(textures: Textures, size: int) -> Textures:
    """Without relief; no larger than `size` texels a side."""

    def shrunk(picture: Tensor) -> Tensor:
        if picture.shape[0] <= size:
            return picture
        return interpolate(picture.permute(2, 0, 1)[None], size=(size, size), mode="area")[0].permute(1, 2, 0)

    maps = (shrunk(each.cpu()) for each in (textures.base, textures.roughness, textures.metallic))
    return Textures(*maps)

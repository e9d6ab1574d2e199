# SPDX-License-Identifier: Apache-2.0
"""What one does with a mesh before it becomes something else: fewer faces, no floaters, distances, points on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cuda_ext.antialias import edge_neighbours
from dreamlab.core.types import Mesh
from renderers.surface.draw import vertex_normals
from renderers.surface.files import read_mesh

MIN_PART = 0.02  # connected parts with less than this share of the largest one's area are floaters


def starting_shape(file: str, faces: int) -> Mesh:
    """A user's mesh, or the ball that stands in until a `from:` brings a shape."""
    return fewer_faces(read_mesh(file), faces) if file else ball(0.6)


def ball(radius: float) -> Mesh:
    """A gray sphere of 320 triangles."""
    import trimesh

    made = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    vertices = torch.from_numpy(np.array(made.vertices, np.float32))
    faces = torch.from_numpy(np.array(made.faces, np.int64))
    return Mesh(vertices, faces, torch.full_like(vertices, 0.5), vertices / radius)


def without_floaters(mesh: Mesh) -> Mesh:
    """Only the connected parts with at least MIN_PART of the largest one's area; closed parts that are turned inside
    out are caves which nobody can see (the inner side of a shell of Gaussians), and go too."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faces = mesh.faces.numpy()
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(mesh.vertices),) * 2)
    part = connected_components(graph, directed=False)[1][faces[:, 0]]
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    area = np.bincount(part, torch.linalg.cross(b - a, c - a).norm(dim=-1).numpy())
    volume = np.bincount(part, (a * torch.linalg.cross(b, c)).sum(-1).numpy())
    opening = np.bincount(part, (edge_neighbours(mesh.faces) < 0).any(1).numpy())
    cave = (volume < 0) & (opening == 0)
    wanted = (area >= MIN_PART * area.max()) & ~cave
    kept = torch.from_numpy((wanted if wanted.any() else ~wanted)[part])
    return mesh if bool(kept.all()) else used(replace(mesh, faces=mesh.faces[kept]))


def used(mesh: Mesh) -> Mesh:
    """Without the vertices that no face names."""
    rows, faces = torch.unique(mesh.faces, return_inverse=True)
    return Mesh(mesh.vertices[rows], faces, mesh.colors[rows], mesh.normals[rows])


def fewer_faces(mesh: Mesh, count: int) -> Mesh:
    """At most `count` triangles by quadric error; colours from the nearest old vertex."""
    if len(mesh.faces) <= count:
        return mesh
    import fast_simplification
    from scipy.spatial import cKDTree

    vertices, faces = fast_simplification.simplify(
        mesh.vertices.numpy(), mesh.faces.numpy().astype(np.int32), target_count=count
    )
    nearest = torch.from_numpy(cKDTree(mesh.vertices.numpy()).query(vertices)[1])
    placed, corners = torch.from_numpy(vertices).float(), torch.from_numpy(faces).long()
    return Mesh(placed, corners, mesh.colors[nearest], vertex_normals(placed, corners))


def area_of(mesh: Mesh) -> float:
    """Square metres."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=-1).sum() / 2)


def sample_surface(mesh: Mesh, count: int, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals and colours [count, 3], uniform by area (stratified along the faces)."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1).double().cumsum(0)
    aim = (torch.arange(count) + torch.rand(count, generator=stream)) / count * area[-1]
    face = mesh.faces[torch.searchsorted(area, aim.double()).clamp(max=len(area) - 1)]
    u, v = torch.rand(2, count, 1, generator=stream).unbind(0)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)

    def at(values: Tensor) -> Tensor:
        first, second, third = values[face].unbind(1)
        return first + u * (second - first) + v * (third - first)

    return at(mesh.vertices), torch.nn.functional.normalize(at(mesh.normals), dim=-1), at(mesh.colors)


def signed_distances(mesh: Mesh, points: Tensor, samples: int = 200_000) -> Tensor:
    """[N] distance to the surface, negative inside, of points [N, 3].

    Distance to the nearest of many samples of the surface; near it, along that sample's normal, which is exact for
    flat parts. The sign is the side of the nearest sample's normal: small holes do no harm.
    """
    from scipy.spatial import cKDTree

    spots, normals, _ = sample_surface(mesh, samples, torch.Generator().manual_seed(0))
    distance, nearest = cKDTree(spots.numpy()).query(points.cpu().numpy(), workers=-1)
    away = points.cpu() - spots[nearest]
    along = (away * normals[nearest]).sum(-1)
    gap = torch.from_numpy(distance).float()
    close = gap < 3 * (area_of(mesh) / samples) ** 0.5
    return torch.where(close, along, torch.where(along < 0, -gap, gap)).to(points)

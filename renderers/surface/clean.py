# SPDX-License-Identifier: Apache-2.0
"""What one does to triangles before they become something else: no floaters, fewer faces; and what is asked of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cuda_ext.antialias import edge_neighbours
from dreamlab.core.triangles import areas
from dreamlab.core.types import Mesh

MIN_PART = 0.02  # connected parts with less than this share of the largest one's area are floaters


def parts_of(faces: Tensor, vertices: int) -> Tensor:
    """[F] numbers from 0 of the connected parts; faces hang together at common vertices."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = faces.cpu().numpy()
    pairs = np.concatenate([rows[:, [0, 1]], rows[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(vertices, vertices))
    label = torch.from_numpy(connected_components(graph, directed=False)[1][rows[:, 0]]).long()
    return torch.unique(label, return_inverse=True)[1].to(faces.device)


def signed_volumes(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F] of the tetrahedra with the origin, cubic metres, double; they add up to what a closed surface encloses."""
    a, b, c = vertices[faces].double().unbind(1)
    return (a * torch.linalg.cross(b, c)).sum(-1) / 6


def open_edges(faces: Tensor) -> Tensor:
    """[F, 3] bool: edges that not exactly two faces share."""
    return edge_neighbours(faces) < 0


def wanted(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F] bool: faces of the connected parts with at least MIN_PART of the largest one's area; but closed parts that
    are turned inside out are caves which nobody can see (the inner side of a shell of Gaussians), and go too."""
    part = parts_of(faces, len(vertices))
    area, volume = (
        torch.bincount(part, each) for each in (areas(vertices, faces).double(), signed_volumes(vertices, faces))
    )
    kept = area >= MIN_PART * area.max()
    if bool((kept & (volume < 0)).any()):
        kept &= (volume >= 0) | (torch.bincount(part, open_edges(faces).any(1).double()) > 0)
    return (kept if bool(kept.any()) else ~kept)[part]


def named(faces: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """The vertices that faces name, in their order, and the faces in their numbers."""
    there = torch.zeros(vertices, dtype=torch.bool, device=faces.device)
    there[faces.flatten()] = True
    return there.nonzero()[:, 0], (there.cumsum(0) - 1)[faces]


def used(mesh: Mesh) -> Mesh:
    """Without the vertices that no face names."""
    rows, faces = named(mesh.faces, len(mesh.vertices))
    return Mesh(mesh.vertices[rows], faces, mesh.colours[rows], mesh.normals[rows])


def without_floaters(mesh: Mesh) -> Mesh:
    """What is `wanted` of it."""
    kept = wanted(mesh.vertices, mesh.faces)
    return mesh if bool(kept.all()) else used(replace(mesh, faces=mesh.faces[kept]))


def fewer_faces(mesh: Mesh, count: int) -> Mesh:
    """At most `count` triangles by quadric error (Garland & Heckbert 1997); colours and normals of the nearest old
    vertex: shading as fine as before, on fewer triangles. A mesh that fits, or has textures, is returned as it is."""
    if len(mesh.faces) <= count or mesh.textures is not None:  # moving seams would tear the textures
        return mesh
    import fast_simplification
    from scipy.spatial import cKDTree

    old, device = mesh.vertices.cpu().numpy(), mesh.vertices.device
    placed, corners = fast_simplification.simplify(old, mesh.faces.cpu().numpy().astype(np.int32), target_count=count)
    nearest = torch.from_numpy(cKDTree(old).query(placed)[1]).to(device)
    vertices, faces = torch.from_numpy(placed).float().to(device), torch.from_numpy(corners).long().to(device)
    return Mesh(vertices, faces, mesh.colours[nearest], mesh.normals[nearest])

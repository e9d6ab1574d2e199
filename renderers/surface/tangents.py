# SPDX-License-Identifier: Apache-2.0
"""Tangents as MikkTSpace has them (Mikkelsen 2008, "Simulation of Wrinkled Surfaces Revisited"), which glTF asks for.

Each triangle has the direction in which u grows. At a vertex those of its triangles, each laid into the plane across
the normal and made a unit, are averaged with the angles of the triangles there, in that plane. Triangles whose texture
coordinates are mirrored are another group: where a vertex has both, it is two.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamlab.core.types import Mesh

TINY = 1e-20


def tangents(vertices: Tensor, normals: Tensor, uv: Tensor, faces: Tensor) -> Tensor:
    """[V, 4] glTF tangents: along growing u, at right angles to the normal; w is the side of the bitangent, which runs
    against v: up in the picture. Of a vertex with triangles of both sides, that with the larger angle."""
    along, weight = _groups(vertices, normals, uv, faces)
    side = (weight[1] > weight[0]).long()
    return _chosen(along, weight, normals, side)


def with_tangents(mesh: Mesh) -> Mesh:
    """The same with tangents; vertices between mirrored charts become two."""
    if mesh.uv is None:
        raise ValueError("tangents need texture coordinates")
    _, weight = _groups(mesh.vertices, mesh.normals, mesh.uv, mesh.faces)
    mirrored = _mirrored(mesh.uv, mesh.faces)
    flat = _flat(mesh.uv, mesh.faces)
    # A triangle without an area in the picture goes with what the vertex has more of.
    corner_side = torch.where(flat[:, None], (weight[1] > weight[0])[mesh.faces], mirrored[:, None]).long()
    count = len(mesh.vertices)
    rows, faces = torch.unique(mesh.faces + count * corner_side, return_inverse=True)
    source, side = rows % count, rows // count
    parts = (mesh.vertices, mesh.colours, mesh.normals, mesh.uv)
    vertices, colours, normals, uv = (value[source] for value in parts)
    made = _chosen(*_groups(vertices, normals, uv, faces), normals, side)
    return replace(mesh, vertices=vertices, faces=faces, colours=colours, normals=normals, uv=uv, tangents=made)


def _slopes(uv: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = uv[faces].unbind(1)
    d1, d2 = b - a, c - a
    return d1, d2, d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]


def _mirrored(uv: Tensor, faces: Tensor) -> Tensor:
    """[F] bool: seen from outside, the picture is mirrored; v grows downward."""
    return _slopes(uv, faces)[2] > 0


def _flat(uv: Tensor, faces: Tensor) -> Tensor:
    return _slopes(uv, faces)[2].abs() <= TINY


def _groups(vertices: Tensor, normals: Tensor, uv: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of directions [2, V, 3] and of angles [2, V], of triangles that are not mirrored and of those that are."""
    d1, d2, area = _slopes(uv, faces)
    corners = vertices[faces]
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    grows = (d2[:, 1:] * e1 - d1[:, 1:] * e2) * torch.where(area > 0, 1.0, -1.0).to(e1)[:, None]
    use = (area.abs() > TINY) & (grows.norm(dim=-1) > TINY)
    side = (area > 0).long()
    # Vertices that are equal in everything are one here, however often they are listed.
    same = torch.unique(torch.cat([vertices, normals, uv], 1), dim=0, return_inverse=True)[1]
    count = len(vertices)
    along = vertices.new_zeros(2 * count, 3)
    weight = vertices.new_zeros(2 * count)
    for i in range(3):
        normal, here = normals[faces[:, i]], corners[:, i]
        legs = [corners[:, (i + k) % 3] - here for k in (1, 2)]
        first, second, own = (normalize(_across(x, normal), dim=-1) for x in (*legs, grows))
        angle = torch.atan2(torch.linalg.cross(first, second).norm(dim=-1), (first * second).sum(-1)) * use
        row = same[faces[:, i]] + count * side
        along.index_add_(0, row, angle[:, None] * own)
        weight.index_add_(0, row, angle)
    return along.reshape(2, count, 3)[:, same], weight.reshape(2, count)[:, same]


def _across(x: Tensor, normal: Tensor) -> Tensor:
    return x - normal * (normal * x).sum(-1, keepdim=True)


def _chosen(along: Tensor, weight: Tensor, normals: Tensor, side: Tensor) -> Tensor:
    at = torch.arange(len(normals), device=normals.device)
    flat = _across(along[side, at], normals)
    bare = flat.norm(dim=-1, keepdim=True) < 1e-9  # no direction of its own: any at right angles will do
    spare = torch.linalg.cross(normals, torch.eye(3).to(normals)[normals.abs().argmin(-1)])
    unit = normalize(torch.where(bare, spare, flat), dim=-1)
    return torch.cat([unit, torch.where(side > 0, -1.0, 1.0).to(unit)[:, None]], -1)

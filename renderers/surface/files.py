# SPDX-License-Identifier: Apache-2.0
"""Meshes as files: a user's OBJ, GLB or PLY as one set of triangles with colours at its vertices; ours as PLY."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.mesh_parser import GRAY
from dreamlab.core.foreign.shape import read_shape
from dreamlab.core.types import Mesh
from renderers.surface.draw import vertex_normals

_COLUMNS = {  # of a PLY's vertices, with their numpy types
    "xyz": (("x", "y", "z"), "<f4"),
    "normal": (("nx", "ny", "nz"), "<f4"),
    "colour": (("red", "green", "blue"), "|u1"),
    "uv": (("s", "t"), "<f4"),  # upward
}


def read_mesh(path: str, radius: float | None = 0.9) -> Mesh:
    """All parts joined, vertices of equal place merged; moved and scaled into a ball of `radius` around the origin,
    unless that is None. A texture is read at the vertices."""
    shape = read_shape(Path(path), "mesh")
    if not len(shape.faces):
        raise InputError(f"mesh {path}: holds points and no triangles")
    vertices = shape.vertices
    if radius is not None:
        low, high = vertices.aminmax(dim=0)
        vertices = vertices - (low + high) / 2
        vertices = vertices * (radius / float(vertices.norm(dim=-1).max()))
    gray = torch.full(vertices.shape, GRAY)
    places, row = torch.unique(vertices.float(), dim=0, return_inverse=True)
    count = torch.zeros(len(places), 1).index_add(0, row, torch.ones(len(row), 1))
    colours = torch.zeros(len(places), 3).index_add(0, row, gray if shape.colours is None else shape.colours) / count
    faces = row[shape.faces]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    if not len(faces):
        raise InputError(f"mesh {path}: none of its triangles has an area")
    return Mesh(places, faces, colours, vertex_normals(places, faces))


def ply_bytes(mesh: Mesh, comments: Sequence[str] = ("DreamLab",)) -> bytes:
    """Binary little-endian PLY with float positions and normals, 8-bit colours, and coordinates of a texture."""
    columns = {"xyz": mesh.vertices, "normal": mesh.normals, "colour": mesh.colours}
    if mesh.uv is not None:
        columns["uv"] = mesh.uv * mesh.uv.new_tensor([1.0, -1.0]) + mesh.uv.new_tensor([0.0, 1.0])
    return _ply(columns, mesh.faces, comments)


def cloud_bytes(points: Tensor, colours: Tensor | None) -> bytes:
    """The same of points [N, 3] alone, and of their colours if they have some."""
    columns = {"xyz": points} if colours is None else {"xyz": points, "colour": colours}
    return _ply(columns, torch.zeros(0, 3, dtype=torch.int64), ("DreamLab",))


def _ply(columns: Mapping[str, Tensor], faces: Tensor, comments: Sequence[str]) -> bytes:
    named = [(name, _COLUMNS[part][1]) for part in columns for name in _COLUMNS[part][0]]
    vertex = np.zeros(len(columns["xyz"]), dtype=named)
    for part, values in columns.items():
        names, kind = _COLUMNS[part]
        for i, name in enumerate(names):
            column = values[:, i].numpy()
            vertex[name] = column if kind == "<f4" else np.round(column.clip(0, 1) * 255)
    face = np.zeros(len(faces), dtype=[("n", "u1"), ("index", "<i4", 3)])
    face["n"], face["index"] = 3, faces.numpy()
    types = {"<f4": "float", "|u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments)]
    header.append(f"element vertex {len(vertex)}")
    header += [f"property {types[vertex.dtype[name].str]} {name}" for name in vertex.dtype.names or ()]
    header += [f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(header).encode() + vertex.tobytes() + face.tobytes()

# SPDX-License-Identifier: Apache-2.0
"""Meshes as files: a user's OBJ, GLB or PLY as one set of triangles with colours at its vertices; ours as PLY."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.mesh_parser import GRAY
from dreamlab.core.foreign.shape import read_shape
from dreamlab.core.types import Mesh
from renderers.surface.draw import vertex_normals


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
    colors = torch.zeros(len(places), 3).index_add(0, row, gray if shape.colors is None else shape.colors) / count
    faces = row[shape.faces]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    if not len(faces):
        raise InputError(f"mesh {path}: none of its triangles has an area")
    return Mesh(places, faces, colors, vertex_normals(places, faces))


def ply_bytes(mesh: Mesh) -> bytes:
    """Binary little-endian PLY with float positions and normals and 8-bit colours."""
    vertex = np.zeros(
        len(mesh.vertices),
        dtype=[(c, "<f4") for c in ("x", "y", "z", "nx", "ny", "nz")] + [(c, "u1") for c in ("red", "green", "blue")],
    )
    for columns, values in (("xyz", mesh.vertices), (("nx", "ny", "nz"), mesh.normals)):
        for i, column in enumerate(columns):
            vertex[column] = values[:, i].numpy()
    for i, column in enumerate(("red", "green", "blue")):
        vertex[column] = np.round(mesh.colors[:, i].clamp(0, 1).numpy() * 255)
    face = np.zeros(len(mesh.faces), dtype=[("n", "u1"), ("index", "<i4", 3)])
    face["n"], face["index"] = 3, mesh.faces.numpy()
    types = {"<f4": "float", "|u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", "comment DreamLab", f"element vertex {len(vertex)}"]
    header += [f"property {types[vertex.dtype[name].str]} {name}" for name in vertex.dtype.names or ()]
    header += [f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(header).encode() + vertex.tobytes() + face.tobytes()

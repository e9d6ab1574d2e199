# SPDX-License-Identifier: Apache-2.0
"""Meshes as files: a user's OBJ, GLB or PLY as one set of triangles with colours at its vertices; ours as PLY."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.safemath import linear_to_srgb
from dreamlab.core.types import Mesh
from renderers.surface.draw import vertex_normals

SUFFIXES = (".obj", ".glb", ".ply")
GRAY = 0.7  # of a file without colours


def read_mesh(path: str, radius: float | None = 0.9) -> Mesh:
    """All parts joined, vertices of equal place merged; moved and scaled into a ball of `radius` around the origin,
    unless that is None. A texture is read at the vertices."""
    import trimesh

    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"mesh {path}: must be one of {', '.join(SUFFIXES)}")
    try:
        loaded = trimesh.load(path)
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"mesh {path}: cannot be read ({error})") from None
    linear = Path(path).suffix.lower() == ".glb"
    parts = [_part(*each, linear) for each in _placed(loaded)]
    if not parts or not all(bool(places.isfinite().all()) for places, _, _ in parts):
        raise InputError(f"mesh {path}: has no triangles, or corners that are not finite")
    starts = itertools.accumulate((len(places) for places, _, _ in parts), initial=0)
    vertices, colors = torch.cat([part[0] for part in parts]), torch.cat([part[2] for part in parts])
    corners = torch.cat([part[1] + start for part, start in zip(parts, starts, strict=False)])
    places, row = torch.unique(vertices, dim=0, return_inverse=True)
    count = torch.zeros(len(places), 1).index_add(0, row, torch.ones(len(row), 1))
    colors = torch.zeros(len(places), 3).index_add(0, row, colors) / count
    faces = row[corners]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    if radius is not None:
        low, high = places.aminmax(dim=0)
        places = places - (low + high) / 2
        places = places * (radius / float(places.norm(dim=-1).max().clamp(min=1e-9)))
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


def _placed(loaded: Any) -> list[tuple[Any, Any]]:
    """Every triangle mesh of a file with its 4 x 4 transform; joining them would lose the colours beside materials."""
    import trimesh

    found = [(np.eye(4), loaded)]
    if isinstance(loaded, trimesh.Scene):
        nodes = [loaded.graph[node] for node in loaded.graph.nodes_geometry]
        found = [(transform, loaded.geometry[name]) for transform, name in nodes]
    return [(transform, each) for transform, each in found if isinstance(each, trimesh.Trimesh) and len(each.faces)]


def _part(transform: Any, mesh: Any, linear: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices in the file's world [V, 3], corners [F, 3] and colours [V, 3]; a mirror turns triangles over."""

    places = mesh.vertices @ transform[:3, :3].T + transform[:3, 3]
    corners = torch.from_numpy(np.array(mesh.faces, np.int64))
    corners = corners.flip(1) if np.linalg.det(transform[:3, :3]) < 0 else corners
    return torch.from_numpy(np.array(places, np.float32)), corners, _colors(mesh.visual, len(places), linear)


def _colors(visual: Any, count: int, linear: bool) -> Tensor:
    """[count, 3] sRGB of a file's vertices. glTF keeps colours of vertices in linear light (3.9.2), beside a material;
    its textures are sRGB like everybody's."""

    beside = getattr(visual, "vertex_attributes", {})
    own = dict(beside).get("color")
    pictured = getattr(getattr(visual, "material", None), "baseColorTexture", None) is not None
    if own is not None and len(own) == count and not pictured:
        top = np.iinfo(own.dtype).max if np.issubdtype(own.dtype, np.integer) else 1.0
        found = torch.from_numpy(np.array(own[:, :3], np.float32)) / top
        return linear_to_srgb(found) if linear else found
    plain = visual.to_color() if hasattr(visual, "to_color") else visual
    if getattr(plain, "kind", None) not in ("vertex", "face"):
        return torch.full((count, 3), GRAY)
    found = torch.from_numpy(np.array(plain.vertex_colors[:, :3], np.float32)) / 255
    return linear_to_srgb(found) if linear and plain is visual else found

# SPDX-License-Identifier: Apache-2.0
"""OBJ and PLY of a mesh with vertex colours (sRGB, as their readers expect)."""

from __future__ import annotations

import numpy as np

from dreamlab.core.types import Mesh


def obj_bytes(mesh: Mesh, name: str) -> bytes:
    """Wavefront OBJ; colours follow the position on the `v` line, which Blender and MeshLab read."""
    lines = [f"# DreamLab\no {name}"]
    points = np.concatenate([mesh.vertices.numpy(), mesh.colors.numpy()], 1)
    lines += ["v " + " ".join(f"{x:.6g}" for x in row) for row in points]
    lines += ["vn " + " ".join(f"{x:.5g}" for x in row) for row in mesh.normals.numpy()]
    lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces.numpy() + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


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

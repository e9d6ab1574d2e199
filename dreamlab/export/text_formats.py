# SPDX-License-Identifier: Apache-2.0
"""OBJ and PLY of a mesh: vertex colours (sRGB, as their readers expect), and for OBJ a material with its textures.

The material file uses the names that Blender and most engines know: map_Kd, and the PBR extension's map_Pr, map_Pm and
norm. Texture coordinates of OBJ grow upward.
"""

from __future__ import annotations

import numpy as np

from dreamlab.core.types import Mesh
from dreamlab.export.png import png_bytes


def obj_bytes(mesh: Mesh, name: str) -> bytes:
    """Wavefront OBJ; colours follow the position on the `v` line, which Blender and MeshLab read. With textures it
    names the material file of `obj_companions`."""
    lines = [f"# DreamLab\no {name}"]
    if mesh.textures is not None:
        lines = [f"# DreamLab\nmtllib model.mtl\no {name}\nusemtl {name}"]
    points = np.concatenate([mesh.vertices.numpy(), mesh.colours.numpy()], 1)
    lines += ["v " + " ".join(f"{x:.6g}" for x in row) for row in points]
    lines += ["vn " + " ".join(f"{x:.5g}" for x in row) for row in mesh.normals.numpy()]
    rows = (mesh.faces.numpy() + 1).tolist()
    if mesh.uv is None:
        lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in rows]
    else:
        lines += [f"vt {u:.6g} {1 - v:.6g}" for u, v in mesh.uv.tolist()]
        lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in rows]
    return ("\n".join(lines) + "\n").encode()


def obj_companions(mesh: Mesh, name: str) -> dict[str, bytes]:
    """The material file of an OBJ and its pictures, by file name; nothing for a mesh without textures."""
    textures = mesh.textures
    if textures is None:
        return {}
    pictures = {"base_color": textures.base, "roughness": textures.roughness, "metallic": textures.metallic}
    keys = {"base_color": "map_Kd", "roughness": "map_Pr", "metallic": "map_Pm", "normal": "norm"}
    if textures.normal is not None:
        pictures["normal"] = textures.normal
    lines = [f"# DreamLab\nnewmtl {name}\nKd 1 1 1"]
    lines += [f"{keys[kind]} model_{kind}.png" for kind in pictures]
    found = {f"model_{kind}.png": png_bytes(picture) for kind, picture in pictures.items()}
    return {"model.mtl": ("\n".join(lines) + "\n").encode()} | found

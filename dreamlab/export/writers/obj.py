# SPDX-License-Identifier: Apache-2.0
"""Wavefront OBJ with its material. Places, coordinates and normals have indices of their own, so that a seam of the
texture does not cut the surface. Texture coordinates grow upward.

The material says the same thing in the words of several readers: Phong's (Ka, Kd, Ks, Ns, illum) for old ones, the PBR
extension's (Pr, Pm, map_Pr, map_Pm, norm) for new ones. map_Bump, by its name a height, is where Unity, Godot and
Blender look for the normal map; but Blender (4.5) takes every picture of an OBJ for sRGB, under which a normal
map is not one. So it is said to those who ask, and to Blender in pictures that are right once it has decoded them.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dreamlab.core.safemath import linear_to_srgb
from dreamlab.core.types import Mesh
from dreamlab.export.painted import painted
from dreamlab.export.png import png_bytes
from dreamlab.export.product import Files, Product
from dreamlab.export.provenance import KEY, one_line

_SHINE = 1000.0  # Ns of a mirror: Blender reads roughness as 1 - sqrt(Ns / 1000)


def obj(made: Product, bump: bool = False, decoded: bool = False) -> Files:
    """The surface, its material and pictures. Colours of vertices are painted into one, which every reader shows.
    `bump`: the normal map is named map_Bump, too; `decoded`: for a reader who takes all pictures for sRGB."""
    told = f"# {KEY} {one_line(made.origin)}\n" if made.origin else ""
    mesh = painted(made).mesh
    textures = mesh.textures
    assert textures is not None
    pictures = {"base_color": textures.base, "roughness": textures.roughness, "metallic": textures.metallic}
    pictures |= {} if textures.normal is None else {"normal": textures.normal}
    if decoded:
        pictures |= {kind: linear_to_srgb(pictures[kind]) for kind in pictures if kind != "base_color"}
    rest = {"roughness": textures.roughness, "metallic": textures.metallic}
    flat = {kind: value for kind, picture in rest.items() if (value := _constant(picture)) is not None}
    kept = {kind: picture for kind, picture in pictures.items() if kind not in flat}
    files = {"model.obj": (told + f"mtllib model.mtl\n{_surface(mesh, made.name)}").encode()}
    files["model.mtl"] = (told + _material(made.name, textures.roughness, flat, list(kept), bump)).encode()
    return files | {f"model_{kind}.png": png_bytes(picture, made.origin) for kind, picture in kept.items()}


def obj_bytes(mesh: Mesh, name: str) -> bytes:
    """The surface alone; colours follow the position on the `v` line, as Blender and MeshLab read them."""
    return _surface(mesh, name).encode()


def _surface(mesh: Mesh, name: str) -> str:
    lines = [f"# DreamLab\no {name}\n"]
    points = mesh.vertices.numpy()
    if mesh.textures is None:
        points = np.concatenate([points, mesh.colours.numpy()], 1)
    place, v = _distinct(points)
    normal, vn = _distinct(mesh.normals.numpy())
    corners, pattern = [v, vn], "{}//{}"
    lines += [_rows("v", place, "%.6g"), _rows("vn", normal, "%.5g")]
    if mesh.uv is not None:
        coordinate, vt = _distinct(mesh.uv.numpy() * [1, -1] + [0, 1])
        lines.append(_rows("vt", coordinate, "%.6g"))
        corners, pattern = [v, vt, vn], "{}/{}/{}"
    if mesh.textures is not None:
        lines.append(f"usemtl {name}\n")
    faces = np.stack([own[mesh.faces.numpy()] + 1 for own in corners], -1)
    row = "f " + " ".join(3 * [pattern.replace("{}", "%d")]) + "\n"
    lines.append(row * len(faces) % tuple(faces.reshape(-1).tolist()))
    return "".join(lines)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows without repetition, in the order in which they come; and which of them each was."""
    _, first, back = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    where = np.empty_like(order)
    where[order] = np.arange(len(order))
    return rows[first[order]], where[back.reshape(-1)]


def _rows(word: str, values: np.ndarray, number: str) -> str:
    row = f"{word} {' '.join([number] * values.shape[1])}\n"
    return row * len(values) % tuple(values.reshape(-1).tolist())


def _constant(picture: Tensor) -> float | None:
    """The value of a picture that is the same everywhere."""
    low, high = picture.aminmax()
    return float(low) if bool(low == high) else None


def _material(name: str, roughness: Tensor, flat: dict[str, float], kinds: list[str], bump: bool) -> str:
    """`flat` values are written as numbers, the others as pictures over a factor of 1."""
    words = {"base_color": ["map_Kd"], "roughness": ["map_Pr"], "metallic": ["map_Pm"]}
    words["normal"] = ["norm", *(["map_Bump -bm 1"] if bump else [])]
    shine = _SHINE * float(1 - roughness.mean()) ** 2
    lines = [f"newmtl {name}", "Ka 1 1 1", "Kd 1 1 1", "Ks 0.5 0.5 0.5", f"Ns {shine:.4g}", "d 1", "illum 2"]
    lines += [f"Pr {flat.get('roughness', 1):.4g}", f"Pm {flat.get('metallic', 1):.4g}"]
    lines += [f"{word} model_{kind}.png" for kind in kinds for word in words[kind]]
    return "\n".join(lines) + "\n"

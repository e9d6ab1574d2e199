# SPDX-License-Identifier: Apache-2.0
"""The formats by name, with a line on each; `dreamlab/export/formats.py` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dreamlab.core.programs import lacking_blender

ABOUT: Mapping[str, str] = {
    "glb": "binary glTF 2.0: textures, tangents, motion, all in one file",
    "gltf": "glTF 2.0 as text, with a .bin and PNGs beside it",
    "obj": "Wavefront OBJ with an MTL that speaks of PBR",
    "ply": "triangles, +Z up, with colours of vertices",
    "stl": "triangles alone, +Z up, for printers",
    "usdz": "USD with UsdPreviewSurface, moving by time samples",
    "maps": "base colour, normal and ORM as loose PNGs: T_NAME_BC, _N, _ORM",
    "fbx": "FBX, written by Blender",
    "abc": "Alembic, written by Blender",
    "blend": "a Blender file, written by Blender",
    "splat-glb": "Gaussians in glTF (KHR_gaussian_splatting), the format of record",
    "splat-ply": "Gaussians in the PLY of 3DGS",
    "splat": "Gaussians in 32 bytes each, for the web",
    "splat-frames": "moving Gaussians: a PLY of 3DGS for each moment, in one zip",
    "spz": "Gaussians by Niantic's SPZ, a tenth of the PLY",
}
# What must be installed for a format and is not, in one line.
MISSING: Mapping[str, Callable[[], str]] = dict.fromkeys(("fbx", "abc", "blend"), lacking_blender)


def missing(name: str) -> str:
    """That of one; empty when nothing is."""
    return MISSING[name]() if name in MISSING else ""

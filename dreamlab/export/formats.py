# SPDX-License-Identifier: Apache-2.0
"""The table of formats: a name that recipes and `--formats` know, and the writer behind it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from dreamlab.export.glb import gltf_of
from dreamlab.export.product import Files, Format, Product
from dreamlab.export.splats.writers import SPLAT_WRITERS
from dreamlab.export.writers.blender import lacking as lacking_blender
from dreamlab.export.writers.blender import through_blender
from dreamlab.export.writers.maps import maps
from dreamlab.export.writers.obj import obj
from dreamlab.export.writers.ply import ply
from dreamlab.export.writers.stl import stl
from dreamlab.export.writers.usd import usdz


def _glb(made: Product) -> Files:
    return {"model.glb": gltf_of(made).glb()}


def _gltf(made: Product) -> Files:
    return gltf_of(made).files("model")


WRITERS: Mapping[str, Format] = {
    "glb": Format(_glb, about="binary glTF 2.0: textures, tangents, motion, all in one file"),
    "gltf": Format(_gltf, about="glTF 2.0 as text, with a .bin and PNGs beside it"),
    "obj": Format(obj, about="Wavefront OBJ with an MTL that speaks of PBR"),
    "ply": Format(ply, about="triangles, +Z up, with colours of vertices"),
    "stl": Format(stl, about="triangles alone, +Z up, for printers"),
    "usdz": Format(usdz, about="USD with UsdPreviewSurface, moving by time samples"),
    "maps": Format(maps, about="base colour, normal and ORM as loose PNGs: T_NAME_BC, _N, _ORM"),
    "fbx": Format(partial(through_blender, kind="fbx"), missing=lacking_blender, about="FBX, written by Blender"),
    "abc": Format(partial(through_blender, kind="abc"), missing=lacking_blender, about="Alembic, written by Blender"),
    "blend": Format(
        partial(through_blender, kind="blend"), missing=lacking_blender, about="a Blender file, written by Blender"
    ),
    **SPLAT_WRITERS,
}

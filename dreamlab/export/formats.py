# SPDX-License-Identifier: Apache-2.0
"""The table of formats: a name that recipes and `--formats` know, and the writer behind it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from dreamlab.export.glb import gltf_of
from dreamlab.export.product import Files, Format, Product
from dreamlab.export.splats.writers import SPLAT_WRITERS
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
    "glb": Format(_glb),
    "gltf": Format(_gltf),
    "obj": Format(obj),
    "ply": Format(ply),
    "stl": Format(stl),
    "usdz": Format(usdz),
    "maps": Format(maps),
    "fbx": Format(partial(through_blender, kind="fbx")),
    "abc": Format(partial(through_blender, kind="abc")),
    "blend": Format(partial(through_blender, kind="blend")),
    **SPLAT_WRITERS,
}

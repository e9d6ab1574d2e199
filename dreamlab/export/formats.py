# SPDX-License-Identifier: Apache-2.0
"""The table of formats: a name that recipes and `--formats` know, and the writer behind it."""

from __future__ import annotations

from collections.abc import Mapping

from dreamlab.core.types import Skin
from dreamlab.export.glb import glb_bytes
from dreamlab.export.product import Files, Format, Product
from dreamlab.export.splats.writers import SPLAT_WRITERS
from dreamlab.export.text_formats import obj_bytes, obj_companions
from renderers.surface.files import ply_bytes


def _glb(made: Product) -> Files:
    skin = made.motion if isinstance(made.motion, Skin) else None
    return {"model.glb": glb_bytes(made.mesh, made.name, made.origin, skin)}


def _obj(made: Product) -> Files:
    return {"model.obj": obj_bytes(made.mesh, made.name)} | obj_companions(made.mesh, made.name)


def _ply(made: Product) -> Files:
    return {"model.ply": ply_bytes(made.mesh)}


WRITERS: Mapping[str, Format] = {
    "glb": Format(_glb),
    "obj": Format(_obj),
    "ply": Format(_ply),
    **SPLAT_WRITERS,
}

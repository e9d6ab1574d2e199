# SPDX-License-Identifier: Apache-2.0
"""Levels of detail: the same asset with fewer triangles, in files of their own or in the place of the finest."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.core.types import Mesh, Textures
from dreamlab.export.carried import carried
from dreamlab.export.glb import gltf_of
from dreamlab.export.product import Files, Product


def level_files(made: Product) -> Files:
    """`model_LOD1.glb` and so on; `model.glb` is level 0. Of what moves also `model_still.glb`, as it begins."""
    every = enumerate(made.levels, 1)
    still = {} if made.motion is None else {"model_still.glb": gltf_of(replace(made, motion=None, parts=())).glb()}
    return {f"model_LOD{i}.glb": gltf_of(level_of(made, mesh)).glb() for i, mesh in every} | still


def level_of(made: Product, level: Mesh) -> Product:
    """A level as a product of its own: its points move as the nearest ones of the finest do."""
    return replace(made, mesh=level, motion=carried(made, level), levels=(), parts=())


def coarser_file(made: Product, faces: int) -> Product:
    """With the finest level of at most so many triangles; the coarsest where none has."""
    every = (made.mesh, *made.levels)
    chosen = next((mesh for mesh in every if len(mesh.faces) <= faces), every[-1])
    return replace(made, levels=()) if chosen is made.mesh else level_of(made, chosen)


def thinned(made: Product, texels: int) -> Product:
    """With textures of at most so many texels a side."""
    textures = made.mesh.textures
    if textures is None or len(textures.base) <= texels:
        return made
    return replace(made, mesh=replace(made.mesh, textures=_smaller(textures, texels)))


def _smaller(textures: Textures, texels: int) -> Textures:
    """Light is averaged as light, directions as directions."""
    normal = textures.normal
    if normal is not None:
        normal = (F.normalize(_averaged(2 * normal - 1, texels), dim=-1) + 1) / 2
    return Textures(
        linear_to_srgb(_averaged(srgb_to_linear(textures.base), texels)),
        _averaged(textures.roughness, texels),
        _averaged(textures.metallic, texels),
        normal,
        None if textures.occlusion is None else _averaged(textures.occlusion, texels),
    )


def _averaged(picture: Tensor, texels: int) -> Tensor:
    shrunk = F.interpolate(picture.permute(2, 0, 1)[None], size=(texels, texels), mode="area")
    return shrunk[0].permute(1, 2, 0)

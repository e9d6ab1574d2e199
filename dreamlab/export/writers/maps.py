# SPDX-License-Identifier: Apache-2.0
"""Textures alone, packed and named as engines expect: T_name_BC (base colour, sRGB), _ORM (occlusion, roughness,
metallic; linear) and _N (normal, linear)."""

from __future__ import annotations

import torch

from dreamlab.core.types import Textures
from dreamlab.export.painted import painted
from dreamlab.export.png import png_bytes
from dreamlab.export.product import Files, Product


def orm(textures: Textures) -> torch.Tensor:
    """[T, T, 3] occlusion, roughness, metallic; occlusion is 1 where nobody computed it."""
    return torch.cat([open_sky(textures), textures.roughness, textures.metallic], -1)


def open_sky(textures: Textures) -> torch.Tensor:
    """[T, T, 1] occlusion as engines multiply it."""
    return torch.ones_like(textures.roughness) if textures.occlusion is None else textures.occlusion


def maps(made: Product, downward: bool = False) -> Files:
    """`downward`: the green of normals grows with v, as DirectX and Unreal read it."""
    textures = painted(made).mesh.textures
    assert textures is not None
    found = {"BC": textures.base, "ORM": orm(textures)}
    if textures.normal is not None:
        red, green, blue = textures.normal.unbind(-1)
        found["N"] = torch.stack([red, 1 - green if downward else green, blue], -1)
    return {f"T_{made.name}_{kind}.png": png_bytes(picture, made.origin) for kind, picture in found.items()}

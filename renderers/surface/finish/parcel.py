# SPDX-License-Identifier: Apache-2.0
"""Meshes as named tensors, in which they travel between processes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dreamlab.core.types import Mesh, Textures

PARTS = ("base", "roughness", "metallic", "normal", "occlusion")


def packed(mesh: Mesh) -> dict[str, Tensor]:
    """A mesh as named tensors."""
    own = {"vertices": mesh.vertices, "faces": mesh.faces, "colours": mesh.colours, "normals": mesh.normals}
    own |= {name: value for name, value in (("uv", mesh.uv), ("tangents", mesh.tangents)) if value is not None}
    if mesh.textures is not None:
        t = mesh.textures
        pictures = dict(zip(PARTS, (t.base, t.roughness, t.metallic, t.normal, t.occlusion), strict=True))
        own |= {f"textures.{name}": value for name, value in pictures.items() if value is not None}
    return own


def unpacked(tensors: Mapping[str, Tensor]) -> Mesh:
    """And back."""
    pictures = {name.removeprefix("textures."): value for name, value in tensors.items() if "textures." in name}
    own = {name: value for name, value in tensors.items() if "textures." not in name}
    return Mesh(**own, textures=Textures(**pictures) if pictures else None)

# SPDX-License-Identifier: Apache-2.0
"""An asset as a glTF 2.0 document (`dreamlab.export.gltf`): vertex colours, or textures of the metallic-roughness
model; one material.

glTF wants COLOR_0 in linear light (spec 3.9.2), so the sRGB colours of a scene are converted; 16 bits keep the dark
tones apart. A skin brings joints, weights and an animation (`dreamlab.export.rig`). Textures are PNGs: base colour in
sRGB without alpha, for what is opaque; occlusion, roughness and metallic in the red, green and blue of one linear
picture, which two slots of the material name; the normal in tangent space with its TANGENT attribute, so that no viewer
has to guess.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.files import Json
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import PLAIN, Mesh, Skin, Textures, Track
from dreamlab.export.carried import carried
from dreamlab.export.gltf import ARRAY_BUFFER, ELEMENT_BUFFER, TRIANGLES, Gltf
from dreamlab.export.morph import morph_targets, play
from dreamlab.export.png import png_bytes
from dreamlab.export.product import Companion, Product
from dreamlab.export.rig import rig, weights_of
from dreamlab.export.writers.maps import orm


def glb_bytes(mesh: Mesh, name: str, origin: Json, skin: Skin | None = None) -> bytes:
    """One binary file of a mesh."""
    return gltf_of(Product(name, mesh, skin, origin=origin)).glb()


def gltf_of(made: Product) -> Gltf:
    """The whole document."""
    document = Gltf(made.origin)
    material = document.add("materials", surface_of(document, made.mesh.textures, made))
    node = place_mesh(document, made.mesh, made.name, material, made.motion)
    document.show(node)
    index = None
    if isinstance(made.motion, Skin):
        index = rig(document, made.motion, made.name, node, made.clip)
    moving = {node: (made.mesh, made.motion)}
    for part in made.parts:
        motion = None if part.solid else carried(made, part.mesh)
        moving[_place_part(document, part, made, material, motion, index)] = (part.mesh, motion)
    play(document, moving, made.clip)
    return document


def place_mesh(document: Gltf, mesh: Mesh, name: str, material: int | None, motion: Skin | Track | None = None) -> int:
    """A node with the mesh, which no scene shows yet; without a material it is nothing but a shape."""
    columns = _shape(mesh) | ({} if material is None else _looks(mesh))
    columns |= weights_of(motion) if isinstance(motion, Skin) else {}
    attributes = {
        key: document.accessor(values, ARRAY_BUFFER, bounds=key == "POSITION", normalized=key == "COLOR_0")
        for key, values in columns.items()
    }
    indices = document.accessor(mesh.faces.numpy().reshape(-1).astype("<u4"), ELEMENT_BUFFER)
    primitive: Json = {"attributes": attributes, "indices": indices, "mode": TRIANGLES}
    primitive |= {} if material is None else {"material": material}
    shape: Json = {"primitives": [primitive], "name": name}
    targets = morph_targets(document, mesh, motion) if isinstance(motion, Track) else []
    if targets:
        primitive["targets"] = targets
        shape["weights"] = [0.0] * len(targets)
        shape["extras"] = {"targetNames": [f"key_{i + 1}" for i in range(len(targets))]}  # as programs agree on
    return document.add("nodes", {"mesh": document.add("meshes", shape), "name": name})


def _place_part(
    document: Gltf, part: Companion, made: Product, material: int, motion: Skin | Track | None, skin: int | None
) -> int:
    """With the asset's own material where it has the same textures; moved as the points nearby are."""
    if part.solid:
        node = place_mesh(document, part.mesh, part.name, None)
        document.show(node)
        return node
    if not _alike(part.mesh.textures, made.mesh.textures):
        own = surface_of(document, part.mesh.textures, replace(made, name=part.name))
        material = document.add("materials", own)
    node = place_mesh(document, part.mesh, part.name, material, motion)
    document.show(node)
    if skin is not None:
        document.change("nodes", node, {"skin": skin})
    return node


def _alike(one: Textures | None, other: Textures | None) -> bool:
    """Whether two materials show the same."""
    if one is None or other is None:
        return one is other
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _shape(mesh: Mesh) -> dict[str, np.ndarray]:
    return {"POSITION": mesh.vertices.numpy().astype("<f4"), "NORMAL": mesh.normals.numpy().astype("<f4")}


def _looks(mesh: Mesh) -> dict[str, np.ndarray]:
    """Attributes by name; textures replace the colours of vertices, which would multiply them."""
    columns: dict[str, np.ndarray] = {}
    if mesh.textures is not None:
        if mesh.uv is None:
            raise ValueError("a mesh with textures needs uv")
        if mesh.textures.normal is not None:
            if mesh.tangents is None:
                raise ValueError("a mesh with a normal texture needs tangents")
            columns["TANGENT"] = mesh.tangents.numpy().astype("<f4")
        columns["TEXCOORD_0"] = mesh.uv.numpy().astype("<f4")
        return columns
    rgb = srgb_to_linear(mesh.colours.clamp(0, 1)).numpy()
    rgba = np.concatenate([rgb, np.ones_like(rgb[:, :1])], 1)
    columns["COLOR_0"] = np.round(rgba * 65535).astype("<u2")
    return columns


def surface_of(document: Gltf, textures: Textures | None, made: Product) -> Json:
    """A material of the metallic-roughness model (5.19)."""
    found: Json = {"name": f"{made.name}_material"}
    if textures is None:
        roughness, metallic = PLAIN
        return found | {"pbrMetallicRoughness": {"metallicFactor": metallic, "roughnessFactor": roughness}}

    def slot(kind: str, picture: Tensor) -> Json:
        return {"index": document.texture(f"{made.name}_{kind}", png_bytes(picture, made.origin))}

    base, packed = slot("base_color", textures.base), slot("occlusion_roughness_metallic", orm(textures))
    found["pbrMetallicRoughness"] = {"baseColorTexture": base, "metallicRoughnessTexture": packed}
    if textures.occlusion is not None:
        found["occlusionTexture"] = packed
    if textures.normal is not None:
        found["normalTexture"] = slot("normal", textures.normal)
    return found

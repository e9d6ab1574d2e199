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

import numpy as np
from torch import Tensor

from dreamlab.core.files import Json
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import Mesh, Skin, Textures, Track
from dreamlab.export.gltf import ARRAY_BUFFER, ELEMENT_BUFFER, TRIANGLES, Gltf
from dreamlab.export.morph import morphed, play
from dreamlab.export.painted import ROUGHNESS
from dreamlab.export.png import png_bytes
from dreamlab.export.product import Product
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
    if isinstance(made.motion, Skin):
        rig(document, made.motion, made.name, node)
    return document


def place_mesh(document: Gltf, mesh: Mesh, name: str, material: int, motion: Skin | Track | None = None) -> int:
    """A node with the mesh, which no scene shows yet; what moves point by point already plays."""
    columns = _columns(mesh) | (weights_of(motion) if isinstance(motion, Skin) else {})
    attributes = {
        key: document.accessor(values, ARRAY_BUFFER, bounds=key == "POSITION", normalized=key == "COLOR_0")
        for key, values in columns.items()
    }
    indices = document.accessor(mesh.faces.numpy().reshape(-1).astype("<u4"), ELEMENT_BUFFER)
    primitive: Json = {"attributes": attributes, "indices": indices, "material": material, "mode": TRIANGLES}
    shape: Json = {"primitives": [primitive], "name": name}
    targets: list[Json] = []
    if isinstance(motion, Track):
        targets, weights = morphed(document, mesh, motion)
    if targets:
        primitive["targets"] = targets
        shape["weights"] = [0.0] * len(targets)
        shape["extras"] = {"targetNames": [f"key_{i + 1}" for i in range(len(targets))]}  # as programs agree on
    node = document.add("nodes", {"mesh": document.add("meshes", shape), "name": name})
    if isinstance(motion, Track) and targets:
        play(document, motion.times, weights, node)
    return node


def _columns(mesh: Mesh) -> dict[str, np.ndarray]:
    """Attributes by name; textures replace the colours of vertices, which would multiply them."""
    columns = {"POSITION": mesh.vertices.numpy().astype("<f4"), "NORMAL": mesh.normals.numpy().astype("<f4")}
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
        return found | {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": ROUGHNESS}}

    def slot(kind: str, picture: Tensor) -> Json:
        return {"index": document.texture(f"{made.name}_{kind}", png_bytes(picture, made.origin))}

    base, packed = slot("base_color", textures.base), slot("occlusion_roughness_metallic", orm(textures))
    found["pbrMetallicRoughness"] = {"baseColorTexture": base, "metallicRoughnessTexture": packed}
    if textures.occlusion is not None:
        found["occlusionTexture"] = packed
    if textures.normal is not None:
        found["normalTexture"] = slot("normal", textures.normal)
    return found

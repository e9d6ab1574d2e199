# SPDX-License-Identifier: Apache-2.0
"""A binary glTF 2.0 file of a mesh: vertex colours, or textures of the metallic-roughness model; one material.

glTF wants COLOR_0 in linear light (spec 3.9.2), so the sRGB colours of a scene are converted; 16 bits keep the dark
tones apart. A skin brings joints, weights and an animation (`dreamlab.export.rig`). Textures are PNGs inside the file:
base colour in sRGB; occlusion, roughness and metallic in the red, green and blue of one linear picture; the normal in
tangent space with its TANGENT attribute, so that no viewer has to guess. Every buffer view of vertices has a target and
every accessor of positions its bounds, as the validator asks.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import torch

from dreamlab import __version__
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import Mesh, Skin, Textures
from dreamlab.export.png import png_bytes
from dreamlab.export.rig import rigged, weights_of

_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_FLOAT, _USHORT, _UINT = 5126, 5123, 5125
_LINEAR, _MIPMAPPED, _CLAMP = 9729, 9987, 33071
Blob = tuple[bytes, int | None, dict[str, Any] | None]  # bytes of a buffer view, its target, its accessor


def glb_bytes(mesh: Mesh, name: str, origin: dict[str, Any], skin: Skin | None = None) -> bytes:
    """The file. `origin` (the recipe) travels in `asset.extras`, so that an asset can be made again from itself."""
    columns = _columns(mesh) | ({} if skin is None else weights_of(skin))
    attributes = {key: i for i, key in enumerate(columns)}
    primitive = {"attributes": attributes, "indices": len(columns), "material": 0, "mode": 4}
    pictures = [] if mesh.textures is None else _pictures(mesh.textures)
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": f"DreamLab {__version__}", "extras": origin},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"primitives": [primitive], "name": name}],
        "materials": [_material(name, [kind for kind, _ in pictures])],
    }
    blobs: list[Blob] = [_blob(*column, key) for key, column in columns.items()]
    index = mesh.faces.numpy().reshape(-1).astype("<u4")
    blobs.append((index.tobytes(), _ELEMENT_BUFFER, {"componentType": _UINT, "type": "SCALAR", "count": len(index)}))
    blobs += [(png, None, None) for _, png in pictures]
    if skin is not None:
        blobs += [_blob(*column, None) for column in rigged(document, skin, name, len(columns) + 1)]
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    binary = bytearray()
    for data, target, made in blobs:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data)})
        if target is not None:
            views[-1]["target"] = target
        if made is not None:
            accessors.append(made | {"bufferView": len(views) - 1})
        binary += data + b"\0" * (-len(data) % 4)
    document |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(binary)}]}
    if pictures:
        first = len(columns) + 1
        document["images"] = [
            {"bufferView": first + i, "mimeType": "image/png", "name": f"{name}_{kind}"}
            for i, (kind, _) in enumerate(pictures)
        ]
        document["samplers"] = [{"magFilter": _LINEAR, "minFilter": _MIPMAPPED, "wrapS": _CLAMP, "wrapT": _CLAMP}]
        document["textures"] = [{"source": i, "sampler": 0} for i in range(len(pictures))]
    return _container(document, bytes(binary))


def _blob(values: np.ndarray, component: int, shape: str, key: str | None) -> Blob:
    """Bytes, target and accessor of an attribute `key`, or of what is no attribute."""
    accessor: dict[str, Any] = {"componentType": component, "type": shape, "count": len(values)}
    if key == "COLOR_0":
        accessor["normalized"] = True
    if key == "POSITION" or (key is None and shape == "SCALAR"):  # the times of an animation have bounds, too
        accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
    return values.tobytes(), None if key is None else _ARRAY_BUFFER, accessor


def _columns(mesh: Mesh) -> dict[str, tuple[np.ndarray, int, str]]:
    """Attributes by name; textures replace the colours of vertices, which would multiply them."""
    columns = {
        "POSITION": (mesh.vertices.numpy().astype("<f4"), _FLOAT, "VEC3"),
        "NORMAL": (mesh.normals.numpy().astype("<f4"), _FLOAT, "VEC3"),
    }
    if mesh.textures is not None:
        if mesh.uv is None:
            raise ValueError("a mesh with textures needs uv")
        if mesh.textures.normal is not None:
            if mesh.tangents is None:
                raise ValueError("a mesh with a normal texture needs tangents")
            columns["TANGENT"] = (mesh.tangents.numpy().astype("<f4"), _FLOAT, "VEC4")
        columns["TEXCOORD_0"] = (mesh.uv.numpy().astype("<f4"), _FLOAT, "VEC2")
        return columns
    rgb = srgb_to_linear(mesh.colours.clamp(0, 1)).numpy()
    rgba = np.concatenate([rgb, np.ones_like(rgb[:, :1])], 1)
    columns["COLOR_0"] = (np.round(rgba * 65535).astype("<u2"), _USHORT, "VEC4")
    return columns


def _pictures(textures: Textures) -> list[tuple[str, bytes]]:
    """PNGs by their role; nothing of ours darkens ambient light, so occlusion is 1 everywhere."""
    packed = torch.cat([torch.ones_like(textures.roughness), textures.roughness, textures.metallic], -1)
    found = [("base_color", png_bytes(textures.base)), ("occlusion_roughness_metallic", png_bytes(packed))]
    return found if textures.normal is None else [*found, ("normal", png_bytes(textures.normal))]


def _material(name: str, pictures: list[str]) -> dict[str, Any]:
    if not pictures:
        return {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}, "name": f"{name}_material"}
    made: dict[str, Any] = {
        "name": f"{name}_material",
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicRoughnessTexture": {"index": 1}},
    }
    if "normal" in pictures:
        made["normalTexture"] = {"index": pictures.index("normal")}
    return made


def _container(document: dict[str, Any], binary: bytes) -> bytes:
    """Header, JSON chunk padded with spaces, BIN chunk padded with zeros (spec 4.4)."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    header = struct.pack("<4sII", b"glTF", 2, total)
    return header + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary

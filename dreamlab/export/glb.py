# SPDX-License-Identifier: Apache-2.0
"""A binary glTF 2.0 file of a mesh with vertex colours: positions, normals, colours, indices, one material.

glTF wants COLOR_0 in linear light (spec 3.9.2), so the sRGB colours of a scene are converted; 16 bits keep the dark
tones apart. Every buffer view has a target and every accessor of positions has its bounds, as the validator asks.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from dreamlab import __version__
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import Mesh

_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_FLOAT, _USHORT, _UINT = 5126, 5123, 5125


def glb_bytes(mesh: Mesh, name: str, origin: dict[str, Any]) -> bytes:
    """The file. `origin` (the recipe) travels in `asset.extras`, so that an asset can be made again from itself."""
    rgb = srgb_to_linear(mesh.colors.clamp(0, 1)).numpy()
    rgba = np.concatenate([rgb, np.ones_like(rgb[:, :1])], 1)
    columns = {
        "POSITION": (mesh.vertices.numpy().astype("<f4"), _FLOAT, "VEC3"),
        "NORMAL": (mesh.normals.numpy().astype("<f4"), _FLOAT, "VEC3"),
        "COLOR_0": (np.round(rgba * 65535).astype("<u2"), _USHORT, "VEC4"),
    }
    blobs, views, accessors = [], [], []
    for values, component, shape in columns.values():
        accessor: dict[str, Any] = {"componentType": component, "type": shape, "count": len(values)}
        accessor["normalized"] = component == _USHORT
        blobs.append((values.tobytes(), _ARRAY_BUFFER, accessor))
    blobs[0][2]["min"] = columns["POSITION"][0].min(0).tolist()
    blobs[0][2]["max"] = columns["POSITION"][0].max(0).tolist()
    index = mesh.faces.numpy().reshape(-1).astype("<u4")
    blobs.append((index.tobytes(), _ELEMENT_BUFFER, {"componentType": _UINT, "type": "SCALAR", "count": len(index)}))
    offset = 0
    for data, target, accessor in blobs:
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(data), "target": target})
        accessors.append(accessor | {"bufferView": len(views) - 1})
        offset += len(data)
    primitive = {"attributes": {key: i for i, key in enumerate(columns)}, "indices": 3, "material": 0, "mode": 4}
    material = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}, "name": f"{name}_material"}
    document = {
        "asset": {"version": "2.0", "generator": f"DreamLab {__version__}", "extras": origin},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"primitives": [primitive], "name": name}],
        "materials": [material],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    return _container(document, b"".join(data for data, _, _ in blobs))


def _container(document: dict[str, Any], binary: bytes) -> bytes:
    """Header, JSON chunk padded with spaces, BIN chunk padded with zeros (spec 4.4)."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    header = struct.pack("<4sII", b"glTF", 2, total)
    return header + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


def read_document(data: bytes) -> dict[str, Any]:
    """The JSON chunk of a GLB, for `inspect`; refuses what is not one."""
    if len(data) < 20 or data[:4] != b"glTF" or struct.unpack("<I", data[8:12])[0] != len(data):
        raise ValueError("not a whole GLB file")
    size, kind = struct.unpack("<I4s", data[12:20])
    if kind != b"JSON" or 20 + size > len(data):
        raise ValueError("the first chunk of a GLB must be its JSON")
    document = json.loads(data[20 : 20 + size])
    if not isinstance(document, dict):
        raise ValueError("the JSON chunk is not an object")
    return document

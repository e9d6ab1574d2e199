# SPDX-License-Identifier: Apache-2.0
"""What a file says, without the product: glTF read from its specification, and the Khronos validator."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

KINDS = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
VALIDATE = """
const fs = require('fs'), path = require('path'), validator = require(process.argv[1]);
async function one(file) {
  const read = name => new Uint8Array(fs.readFileSync(name));
  const beside = uri => Promise.resolve(read(path.join(path.dirname(file), decodeURIComponent(uri))));
  return (await validator.validateBytes(read(file), {uri: file, externalResourceFunction: beside})).issues;
}
Promise.all(process.argv.slice(2).map(one)).then(found => console.log(JSON.stringify(found)));
"""


def issues(*paths: Path) -> list[str]:
    """What the Khronos validator finds in files: errors and warnings."""
    package = os.environ.get("DREAMLAB_GLTF_VALIDATOR", "")
    if shutil.which("node") is None or not Path(package, "package.json").is_file():
        pytest.skip("needs Node.js and the npm package gltf-validator (DREAMLAB_GLTF_VALIDATOR names its folder)")
    command = ["node", "-e", VALIDATE, package, *map(str, paths)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return [
        f"{path.name}: {each['code']} {each.get('pointer', '')}"
        for path, one in zip(paths, found, strict=True)
        for each in one["messages"]
        if each["severity"] < 2
    ]


@dataclass(frozen=True)
class Sheet:
    """A primitive where a node puts it: places [F, 3, 3], coordinates [F, 3, 2] and colours that its base shows."""

    places: np.ndarray
    uv: np.ndarray
    material: dict[str, Any]


class Seen:
    """A GLB, or a .gltf with its files."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self.folder, self.binary = path.parent, b""
        if path.suffix == ".glb":
            magic, version, total, size = struct.unpack("<4sIII", data[:16])
            assert (magic, version, total) == (b"glTF", 2, len(data))
            self.document: dict[str, Any] = json.loads(data[20 : 20 + size])
            self.binary = data[28 + size :]
        else:
            self.document = json.loads(data)

    def buffer(self, index: int) -> bytes:
        uri = self.document["buffers"][index].get("uri")
        return self.binary if uri is None else (self.folder / unquote(uri)).read_bytes()

    def blob(self, view: int) -> bytes:
        found = self.document["bufferViews"][view]
        begin = found.get("byteOffset", 0)
        return self.buffer(found["buffer"])[begin : begin + found["byteLength"]]

    def read(self, accessor: int) -> np.ndarray:
        found = self.document["accessors"][accessor]
        width, kind = WIDTHS[found["type"]], np.dtype(KINDS[found["componentType"]])
        view = self.document["bufferViews"][found["bufferView"]]
        stride = view.get("byteStride", width * kind.itemsize)
        data = self.blob(found["bufferView"])
        rows = [data[i * stride : i * stride + width * kind.itemsize] for i in range(found["count"])]
        return np.frombuffer(b"".join(rows), kind).reshape(-1, width)

    def corners(self, primitive: dict[str, Any]) -> np.ndarray:
        return self.read(primitive["indices"])[:, 0].astype(int)

    def soup(self, primitive: dict[str, Any]) -> dict[str, bytes]:
        """Every attribute of every corner of every triangle, in turn: what a seam does not change."""
        rows = self.corners(primitive)
        named = {name: primitive["attributes"][name] for name in primitive["attributes"]}
        named |= {f"{i} {name}": at for i, one in enumerate(primitive.get("targets", [])) for name, at in one.items()}
        return {name: self.read(accessor)[rows].tobytes() for name, accessor in named.items()}

    def sheets(self) -> list[Sheet]:
        """All that is drawn; morphed by the mesh's weights. Bones must stand as they were bound."""
        found = []
        for node in self.document["nodes"]:
            mesh = self.document["meshes"][node["mesh"]] if "mesh" in node else {"primitives": []}
            for primitive in mesh["primitives"]:
                rows = self.corners(primitive)
                where = self.read(primitive["attributes"]["POSITION"]).astype(float)
                for share, target in zip(mesh.get("weights", []), primitive.get("targets", []), strict=True):
                    where = where + share * self.read(target["POSITION"])
                where = where * np.array(node.get("scale", (1, 1, 1))) + np.array(node.get("translation", (0, 0, 0)))
                material = self.document["materials"][primitive["material"]]
                uv = self.coordinates(primitive, material)
                found.append(Sheet(where[rows].reshape(-1, 3, 3), uv[rows].reshape(-1, 3, 2), material))
        return found

    def coordinates(self, primitive: dict[str, Any], material: dict[str, Any]) -> np.ndarray:
        """[V, 2] that the base colour is read at: its set, moved by KHR_texture_transform as that extension's text
        says, translation * rotation * scale."""
        info = material["pbrMetallicRoughness"]["baseColorTexture"]
        uv = self.read(primitive["attributes"][f"TEXCOORD_{info.get('texCoord', 0)}"]).astype(float)
        moved = info.get("extensions", {}).get("KHR_texture_transform")
        if moved is None:
            return uv
        (ox, oy), angle, (sx, sy) = moved["offset"], moved["rotation"], moved["scale"]
        move, grow = np.array([[1, 0, ox], [0, 1, oy], [0, 0, 1]]), np.diag([sx, sy, 1])
        turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        return (np.concatenate([uv, np.ones((len(uv), 1))], 1) @ (move @ turn @ grow).T)[:, :2]

    def picture(self, texture: int) -> Image.Image:
        image = self.document["images"][self.document["textures"][texture]["source"]]
        data = (self.folder / image["uri"]).read_bytes() if "uri" in image else self.blob(image["bufferView"])
        picture = Image.open(io.BytesIO(data))
        picture.load()
        return picture


def sampled(picture: Image.Image, uv: np.ndarray) -> np.ndarray:
    """[N, C] in [0, 1] at uv [N, 2]: bilinear, repeating."""
    p = np.asarray(picture).astype(float) / 255
    high, wide = p.shape[:2]
    x, y = uv[:, 0] * wide - 0.5, uv[:, 1] * high - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - left)[:, None], (y - top)[:, None]

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return p[row % high, column % wide]

    upper = (1 - fx) * at(top, left) + fx * at(top, left + 1)
    lower = (1 - fx) * at(top + 1, left) + fx * at(top + 1, left + 1)
    found: np.ndarray = (1 - fy) * upper + fy * lower
    return found

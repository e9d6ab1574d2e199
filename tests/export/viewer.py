# SPDX-License-Identifier: Apache-2.0
"""A small viewer of exported files that shares nothing with the product: written from the glTF 2.0 specification and
the OBJ and MTL descriptions, in numpy; rotations, projection and texture look-ups are its own."""

from __future__ import annotations

import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

KINDS = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def turned(xyzw: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] turned by unit quaternions [..., 4] in glTF's order: v + 2 u x (u x v + w v)."""
    u, w = xyzw[..., :3], xyzw[..., 3:]
    return v + 2 * np.cross(u, np.cross(u, v) + w * v)


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical interpolation of unit quaternions, appendix C.4: the short way."""
    dot = float(a @ b)
    angle = math.acos(min(abs(dot), 1.0))
    if angle < 1e-6:
        return a + t * (np.sign(dot) * b - a)
    made: np.ndarray = (math.sin(angle * (1 - t)) * a + np.sign(dot) * math.sin(angle * t) * b) / math.sin(angle)
    return made


def linear_to_srgb(c: np.ndarray) -> np.ndarray:
    return np.where(c <= 0.0031308, 12.92 * c, 1.055 * np.maximum(c, 0.0031308) ** (1 / 2.4) - 0.055)


def sampled(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """A picture [H, W, C] of bytes at uv [N, 2], bilinear, clamped; v = 0 is the upper edge of row 0."""
    high, wide = picture.shape[:2]
    x = np.clip(uv[:, 0] * wide - 0.5, 0, wide - 1)
    y = np.clip(uv[:, 1] * high - 0.5, 0, high - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, low = np.minimum(left + 1, wide - 1), np.minimum(top + 1, high - 1)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    p = picture.astype(float) / 255
    found: np.ndarray = (1 - fy) * ((1 - fx) * p[top, left] + fx * p[top, right]) + fy * (
        (1 - fx) * p[low, left] + fx * p[low, right]
    )
    return found


def pinhole(
    points: np.ndarray, azimuth_deg: float, elevation_deg: float, distance: float, fovy_deg: float, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column and row [N] of points seen from an orbit around the origin, and the eye [3]. Azimuth 0 looks from +Z, 90
    from +X; +Y is up; row 0 is the top."""
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    eye = distance * np.array([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
    ahead = -eye / distance
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    right = right / np.linalg.norm(right)
    up = np.cross(right, ahead)
    rel = points - eye
    away = rel @ ahead
    focal = 0.5 * size / math.tan(math.radians(fovy_deg) / 2)
    return size / 2 + focal * (rel @ right) / away, size / 2 - focal * (rel @ up) / away, eye


class Glb:
    """One mesh of a binary glTF file."""

    def __init__(self, data: bytes, mesh: int | None = None) -> None:
        """Of several meshes, the one of that number; else that of the first node."""
        magic, version, total = struct.unpack("<4sII", data[:12])
        size, kind = struct.unpack("<I4s", data[12:20])
        assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON")
        self.document: dict[str, Any] = json.loads(data[20 : 20 + size])
        self.binary = data[28 + size :]
        index = self.document["nodes"][0]["mesh"] if mesh is None else mesh
        self.node = next(node for node in self.document["nodes"] if node.get("mesh") == index)
        (primitive,) = self.document["meshes"][index]["primitives"]
        self.attributes: dict[str, int] = primitive["attributes"]
        self.targets: list[dict[str, int]] = primitive.get("targets", [])
        self.weights: list[float] = self.document["meshes"][index].get("weights", [0.0] * len(self.targets))
        count = self.document["accessors"][self.attributes["POSITION"]]["count"]
        corners = self.read(primitive["indices"]) if "indices" in primitive else np.arange(count)
        self.faces = corners.reshape(-1, 3).astype(np.int64)
        self.material = self.document["materials"][primitive["material"]] if "material" in primitive else {}

    def blob(self, view: int) -> bytes:
        found = self.document["bufferViews"][view]
        begin = found.get("byteOffset", 0)
        return self.binary[begin : begin + found["byteLength"]]

    def rows(self, view: int, offset: int, kind: str, count: int, width: int) -> np.ndarray:
        """Numbers of a buffer view, which may be further apart than they are long (3.6.2.1)."""
        step = self.document["bufferViews"][view].get("byteStride", width * np.dtype(kind).itemsize)
        return np.ndarray((count, width), kind, self.blob(view), offset, (step, np.dtype(kind).itemsize))

    def read(self, accessor: int) -> np.ndarray:
        found = self.document["accessors"][accessor]
        width, kind = WIDTHS[found["type"]], KINDS[found["componentType"]]
        values = np.zeros((found["count"], width), kind)
        if "bufferView" in found:
            values = self.rows(found["bufferView"], found.get("byteOffset", 0), kind, found["count"], width)
        if "sparse" in found:  # 3.6.2.3
            some, values = found["sparse"], values.copy()
            which, kept = some["indices"], some["values"]
            index = self.rows(which["bufferView"], 0, KINDS[which["componentType"]], some["count"], 1)[:, 0]
            values[index] = self.rows(kept["bufferView"], 0, kind, some["count"], width)
        if not found.get("normalized"):
            return values
        return values / float(np.iinfo(values.dtype).max)

    def attribute(self, name: str) -> np.ndarray:
        return self.read(self.attributes[name])

    def picture(self, slot: dict[str, Any]) -> np.ndarray:
        """The bytes [H, W, C] that a texture slot of the material names."""
        texture = self.document["textures"][slot["index"]]
        image = self.document["images"][texture["source"]]
        assert image["mimeType"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(self.blob(image["bufferView"]))))

    def colours(self) -> np.ndarray:
        """[V, 3] sRGB that an unlit viewer shows at the vertices."""
        if "COLOR_0" in self.attributes:  # linear, by the specification
            return linear_to_srgb(self.attribute("COLOR_0")[:, :3])
        base = self.picture(self.material["pbrMetallicRoughness"]["baseColorTexture"])
        return sampled(base, self.attribute("TEXCOORD_0"))

    def nodes_at(self, seconds: float | None) -> list[dict[str, Any]]:
        """The nodes with what the animation gives them at a moment; None: as they stand."""
        nodes = [dict(node) for node in self.document["nodes"]]
        for animation in self.document.get("animations", []) if seconds is not None else []:
            for channel in animation["channels"]:
                sampler = animation["samplers"][channel["sampler"]]
                assert sampler["interpolation"] == "LINEAR"
                times, values = self.read(sampler["input"])[:, 0].astype(float), self.read(sampler["output"])
                values = values.reshape(len(times), -1)  # all weights of a key stand one after another (3.11)
                now = float(np.clip(seconds or 0.0, times[0], times[-1]))
                i = int(np.clip(np.searchsorted(times, now, "right") - 1, 0, len(times) - 2))
                share = (now - times[i]) / (times[i + 1] - times[i])
                path, a, b = channel["target"]["path"], values[i].astype(float), values[i + 1].astype(float)
                mixed = slerp(a, b, share) if path == "rotation" else (1 - share) * a + share * b
                nodes[channel["target"]["node"]][path] = mixed
        return nodes

    def points(self, seconds: float | None = None) -> np.ndarray:
        """Vertices [V, 3] in the world at a moment of the animation: morphed (3.7.2.2), then skinned (3.7.3.3)."""
        rest = self.morphed("POSITION", seconds)
        if "skin" not in self.node:
            return rest
        nodes, skin = self.nodes_at(seconds), self.document["skins"][self.node["skin"]]
        parent = {child: i for i, node in enumerate(nodes) for child in node.get("children", [])}
        bind = self.read(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1).astype(float)  # by columns
        moved = np.zeros_like(rest)
        sets = sum(name.startswith("JOINTS") for name in self.attributes)
        index = np.concatenate([self.attribute(f"JOINTS_{i}") for i in range(sets)], 1)
        weight = np.concatenate([self.attribute(f"WEIGHTS_{i}") for i in range(sets)], 1).astype(float)
        np.testing.assert_allclose(weight.sum(1), 1.0, atol=1e-5)
        for j, (joint, inverse) in enumerate(zip(skin["joints"], bind, strict=True)):
            where = rest @ inverse[:3, :3].T + inverse[:3, 3]
            node: int | None = joint
            while node is not None:  # up to the root
                place = np.asarray(nodes[node].get("translation", (0.0, 0.0, 0.0)), float)
                turn = np.asarray(nodes[node].get("rotation", (0.0, 0.0, 0.0, 1.0)), float)
                assert "scale" not in nodes[node] and "matrix" not in nodes[node]
                where = turned(turn, where) + place
                node = parent.get(node)
            moved += np.where(index == j, weight, 0.0).sum(1, keepdims=True) * where
        return moved

    def morphed(self, name: str, seconds: float | None = None) -> np.ndarray:
        """An attribute and what the targets add to it at a moment."""
        made = self.attribute(name).astype(float)
        weights = self.nodes_at(seconds)[self.document["nodes"].index(self.node)].get("weights", self.weights)
        for weight, target in zip(weights, self.targets, strict=True):
            if weight:
                made = made + weight * self.read(target[name])
        return made

    @property
    def lasts(self) -> float:
        """Seconds of the animation."""
        return max(float(self.read(s["input"]).max()) for a in self.document["animations"] for s in a["samplers"])


class Obj:
    """A Wavefront file with its material, if it names one; a vertex for each corner of a face, because places,
    coordinates and normals have indices of their own."""

    def __init__(self, path: Path) -> None:
        rows: dict[str, list[list[str]]] = {}
        for text in path.read_text().splitlines():
            word, *rest = text.split()
            rows.setdefault(word, []).append(rest)
        self.folder = path.parent
        places = np.array([row[:3] for row in rows["v"]], float)
        shades = np.array([row[3:] for row in rows["v"]], float)
        corners = [[part.split("/") for part in row] for row in rows["f"]]
        self.indexed = np.array([[int(part[0]) - 1 for part in row] for row in corners])
        self.places = places
        self.faces = np.arange(self.indexed.size).reshape(-1, 3)
        self.vertices, self.shades = places[self.indexed.reshape(-1)], shades[self.indexed.reshape(-1)]
        self.normals = self.named(rows["vn"], corners, 2)
        self.material: dict[str, str] = {}
        if "mtllib" not in rows:
            return
        for text in (path.parent / rows["mtllib"][0][0]).read_text().splitlines():
            word, *rest = text.split()
            self.material[word] = " ".join(rest)
        assert rows["usemtl"] == [[self.material["newmtl"]]]
        self.uv = self.named(rows["vt"], corners, 1)

    @staticmethod
    def named(rows: list[list[str]], corners: list[list[list[str]]], column: int) -> np.ndarray:
        """The rows that one column of the corners' indices names."""
        index = [int(part[column]) - 1 for face in corners for part in face]
        return np.array(rows, float)[index]

    def picture(self, key: str) -> np.ndarray:
        return np.asarray(Image.open(self.folder / self.material[key].split()[-1]))

    def colours(self) -> np.ndarray:
        if "map_Kd" not in self.material:
            return self.shades
        return sampled(self.picture("map_Kd"), self.uv * [1, -1] + [0, 1])  # vt grows upward

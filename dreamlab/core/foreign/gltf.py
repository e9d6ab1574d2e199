# SPDX-License-Identifier: Apache-2.0
"""glTF 2.0 as arrays: accessors (3.6.2), pictures, and where the nodes put their meshes (3.7). Of a document that
`headers` has checked; runs in the child of `apart`."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np

from dreamlab.core.files import Json
from dreamlab.core.foreign.headers import Refused

_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_NUMBERS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6  # modes of a primitive
MOST_PIECES = 10_000


class Piece(NamedTuple):
    """A primitive where a node puts it."""

    node: int
    mesh: int
    primitive: int
    matrix: np.ndarray  # [4, 4] to the world


class GltfFile:
    """A document and its bytes; `beside` reads a file of its folder."""

    def __init__(self, document: Json, binary: bytes, beside: Callable[[str], bytes]) -> None:
        self.document, self.beside = document, beside
        self.buffers = [
            binary if "uri" not in each else self._fetched(each["uri"], f"buffer {i}")
            for i, each in enumerate(document.get("buffers", []))
        ]
        for i, each in enumerate(document.get("buffers", [])):
            if len(self.buffers[i]) < each["byteLength"]:
                raise Refused(
                    f"its buffer {i} has {len(self.buffers[i])} bytes, not the {each['byteLength']} promised: cut off"
                )
        self.worlds = self._worlds()

    def _fetched(self, uri: str, what: str) -> bytes:
        if uri.startswith("data:"):
            head, _, text = uri.partition(",")
            try:
                return base64.b64decode(text, validate=True) if head.endswith(";base64") else unquote(text).encode()
            except (binascii.Error, ValueError):
                raise Refused(f"its {what} is damaged: no base64") from None
        try:
            return self.beside(unquote(uri))
        except FileNotFoundError:
            raise Refused(f"its {what} is missing: {uri[:80]!r} is not beside it") from None

    def view(self, index: int) -> bytes:
        """The bytes of a buffer view."""
        view = self.document["bufferViews"][index]
        start = view.get("byteOffset", 0)
        return self.buffers[view["buffer"]][start : start + view["byteLength"]]

    def image(self, index: int) -> bytes:
        """A picture as a file."""
        image = self.document["images"][index]
        return self._fetched(image["uri"], f"image {index}") if "uri" in image else self.view(image["bufferView"])

    def accessor(self, index: int) -> np.ndarray:
        """[count, numbers]: normalised ones (3.6.2.2) as floats, others in their own type."""
        values = self.raw(index)
        if self.document["accessors"][index].get("normalized") and values.dtype.kind in "iu":
            return np.maximum(values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max), np.float32(-1))
        return values

    def raw(self, index: int) -> np.ndarray:
        """[count, numbers] in the type that they are kept in; sparse ones put together (3.6.2.3)."""
        accessor = self.document["accessors"][index]
        kind, width = np.dtype(_TYPES[accessor["componentType"]]), _NUMBERS[accessor["type"]]
        count = accessor["count"]
        if "bufferView" in accessor:
            values = self._strided(accessor, kind, count, width)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            sparse, values = accessor["sparse"], values.copy()
            where = np.dtype(_TYPES[sparse["indices"]["componentType"]])
            rows = self._strided(sparse["indices"], where, sparse["count"], 1)[:, 0].astype(np.int64)
            if rows.max() >= count:
                raise Refused(f"its accessor {index} replaces value {rows.max()} of {count}")
            values[rows] = self._strided(sparse["values"], kind, sparse["count"], width)
        return values

    def _strided(self, part: Json, kind: np.dtype, count: int, width: int) -> np.ndarray:
        view = self.document["bufferViews"][part["bufferView"]]
        start = view.get("byteOffset", 0) + part.get("byteOffset", 0)
        stride = view.get("byteStride") or kind.itemsize * width
        if not count:
            return np.zeros((0, width), kind)
        return np.ndarray((count, width), kind, self.buffers[view["buffer"]], start, (stride, kind.itemsize))

    def pieces(self) -> Iterator[Piece]:
        """Everything that the shown scene draws."""
        count = 0
        for node, matrix in self.worlds.items():
            mesh = self.document["nodes"][node].get("mesh")
            if mesh is None:
                continue
            for primitive in range(len(self.document["meshes"][mesh]["primitives"])):
                count += 1
                if count > MOST_PIECES:
                    raise Refused(f"it draws more than {MOST_PIECES} parts: join them into fewer")
                yield Piece(node, mesh, primitive, matrix)

    def _worlds(self) -> dict[int, np.ndarray]:
        """The matrix to the world of every node that the shown scene reaches."""
        nodes, scenes = self.document.get("nodes", []), self.document.get("scenes", [])
        roots = scenes[self.document.get("scene", 0)].get("nodes", []) if scenes else range(len(nodes))
        found: dict[int, np.ndarray] = {}
        todo = [(node, np.eye(4)) for node in roots]
        while todo:
            i, parent = todo.pop()
            found[i] = parent @ local_matrix(nodes[i])
            todo += [(child, found[i]) for child in nodes[i].get("children", [])]
        return dict(sorted(found.items()))

    def points(self, piece: Piece) -> np.ndarray:
        """[V, 3] in the world, as they stand without animation: morphed by the mesh's weights, then skinned (3.7.3)."""
        primitive, attributes = self.primitive(piece), self.primitive(piece)["attributes"]
        rest = self.accessor(attributes["POSITION"]).astype(np.float64)
        node = self.document["nodes"][piece.node]
        weights = node.get("weights", self.document["meshes"][piece.mesh].get("weights", []))
        for share, target in zip(weights, primitive.get("targets", []), strict=False):
            if share and "POSITION" in target:
                rest = rest + share * self.accessor(target["POSITION"])
        if "skin" in node and "JOINTS_0" in attributes:
            return self._skinned(self.document["skins"][node["skin"]], attributes, rest)
        return rest @ piece.matrix[:3, :3].T + piece.matrix[:3, 3]

    def _skinned(self, skin: Json, attributes: Json, rest: np.ndarray) -> np.ndarray:
        bones = np.stack([self.worlds.get(joint, np.eye(4)) for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            inverse = self.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
            if len(inverse) < len(bones):
                raise Refused(f"its skin has {len(bones)} joints and {len(inverse)} inverse bind matrices")
            bones = bones @ inverse[: len(bones)]
        total = np.zeros_like(rest)
        for i in range(sum(name.startswith("JOINTS_") for name in attributes)):
            joints = self.accessor(attributes[f"JOINTS_{i}"])
            if joints.max(initial=0) >= len(bones):
                raise Refused(f"a corner of it hangs on joint {joints.max()}, and its skin has {len(bones)}")
            for joint, weight in zip(joints.T, self.accessor(attributes[f"WEIGHTS_{i}"]).T, strict=True):
                bone = bones[joint.astype(np.int64)]
                moved = np.einsum("nij,nj->ni", bone[:, :3, :3], rest) + bone[:, :3, 3]
                total += weight[:, None] * moved
        return total

    def primitive(self, piece: Piece) -> Json:
        found: Json = self.document["meshes"][piece.mesh]["primitives"][piece.primitive]
        return found

    def corners(self, primitive: Json) -> np.ndarray:
        """[F, 3] rows of the primitive's attributes; none for points and lines."""
        count = self.document["accessors"][primitive["attributes"]["POSITION"]]["count"]
        rows = np.arange(count) if "indices" not in primitive else self.accessor(primitive["indices"])[:, 0]
        return triangles(rows.astype(np.int64), primitive.get("mode", _TRIANGLES))


def triangles(rows: np.ndarray, mode: int) -> np.ndarray:
    """[F, 3] of a primitive's corners in the order that its mode means (3.7.2.1)."""
    if mode == _TRIANGLES:
        return rows[: len(rows) // 3 * 3].reshape(-1, 3)
    if len(rows) < 3 or mode not in (_STRIP, _FAN):
        return np.zeros((0, 3), np.int64)
    if mode == _FAN:
        return np.stack([np.full(len(rows) - 2, rows[0]), rows[1:-1], rows[2:]], 1)
    made = np.stack([rows[:-2], rows[1:-1], rows[2:]], 1)
    made[1::2] = made[1::2][:, [1, 0, 2]]
    return made


def local_matrix(node: Json) -> np.ndarray:
    """[4, 4] of a node: its matrix by columns, or translation, rotation (xyzw) and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    made = np.eye(4)
    made[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64)
    made[:3, 3] = node.get("translation", (0, 0, 0))
    return made


def binary_chunk(data: bytes) -> bytes:
    """The BIN chunk of a GLB (4.4.3.3); empty where it has none."""
    size = struct.unpack("<I", data[12:16])[0]
    rest = data[20 + size :]
    if len(rest) < 8:
        return b""
    length, kind = struct.unpack("<I4s", rest[:8])
    return rest[8 : 8 + length] if kind == b"BIN\0" else b""

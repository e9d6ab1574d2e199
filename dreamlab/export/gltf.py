# SPDX-License-Identifier: Apache-2.0
"""A glTF 2.0 document that grows: tables of JSON objects, numbers behind accessors, pictures; and its two forms on
disk, one binary file, or text with a `.bin` and pictures beside it.

Section numbers are those of https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html. Every buffer view of vertices
has a target and every accessor of positions and times its bounds, as the Khronos validator asks.
"""

from __future__ import annotations

import json
import struct

import numpy as np

from dreamlab import __version__
from dreamlab.core.files import Json
from dreamlab.export.product import Files

ARRAY_BUFFER, ELEMENT_BUFFER = 34962, 34963  # 5.11.5, targets of buffer views
TRIANGLES, POINTS = 4, 0  # 5.24.4, modes of primitives
_LINEAR, _MIPMAPPED, _CLAMP, _REPEAT = 9729, 9987, 33071, 10497  # 5.26
_COMPONENTS = {"|i1": 5120, "|u1": 5121, "<i2": 5122, "<u2": 5123, "<u4": 5125, "<f4": 5126}  # 5.1.3
_SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Gltf:
    """`add` puts an object into a table and returns its index; `accessor`, `sparse` and `texture` do so with data."""

    def __init__(self, origin: Json) -> None:
        """`origin` (prompt, seed, recipe) travels in `asset.extras`, so that an asset can be made again from itself;
        nothing is told when it is empty."""
        asset: Json = {"version": "2.0", "generator": f"DreamLab {__version__}"}
        self._document: Json = {"asset": asset | ({"extras": origin} if origin else {}), "scene": 0}
        self._binary = bytearray()
        self._pictures: list[tuple[str, bytes]] = []
        self.add("scenes", {"nodes": []})

    def add(self, table: str, entry: Json) -> int:
        """Append to one of the document's arrays (nodes, meshes, materials, ...)."""
        entries: list[Json] = self._document.setdefault(table, [])
        entries.append(entry)
        return len(entries) - 1

    def change(self, table: str, index: int, more: Json) -> None:
        """Give an object further members."""
        self._document[table][index] |= more

    def show(self, node: int) -> None:
        """Make a node a root of the scene."""
        self._document["scenes"][0]["nodes"].append(node)

    def uses(self, extension: str, required: bool = False) -> None:
        """Name an extension that the document uses."""
        for key in ("extensionsUsed", *(["extensionsRequired"] if required else [])):
            names: list[str] = self._document.setdefault(key, [])
            if extension not in names:
                names.append(extension)

    def accessor(
        self, values: np.ndarray, target: int | None = None, bounds: bool = False, normalized: bool = False
    ) -> int:
        """Numbers [N] or [N, width], in the type that they have; `bounds` for positions and for times."""
        rows = values.reshape(len(values), -1)
        rows = np.ascontiguousarray(rows.astype(rows.dtype.newbyteorder("<"), copy=False))
        made = self._described(rows, bounds, normalized)
        spare = -rows.shape[1] * rows.itemsize % 4 if target == ARRAY_BUFFER else 0
        if spare:  # every row of an attribute begins at a multiple of four bytes (3.6.2.4)
            data = np.pad(rows.view(np.uint8).reshape(len(rows), -1), ((0, 0), (0, spare)))
            view = self._view(data.tobytes(), {"target": target, "byteStride": data.shape[1]})
        else:
            view = self._view(rows.tobytes(), {} if target is None else {"target": target})
        return self.add("accessors", made | {"bufferView": view})

    def sparse(self, values: np.ndarray) -> int:
        """Numbers [N, width] most of whose rows are 0 (3.6.2.3), with bounds: displacements of morph targets."""
        values = np.ascontiguousarray(values, "<f4")
        made = self._described(values, bounds=True, normalized=False)
        rows = np.flatnonzero(values.any(1))
        if not len(rows):
            return self.add("accessors", made)  # without a buffer view all are 0
        index = rows.astype("<u2" if len(values) <= 1 << 16 else "<u4")
        made["sparse"] = {
            "count": len(rows),
            "indices": {"bufferView": self._view(index.tobytes(), {}), "componentType": _COMPONENTS[index.dtype.str]},
            "values": {"bufferView": self._view(values[rows].tobytes(), {})},
        }
        return self.add("accessors", made)

    def texture(self, name: str, png: bytes, repeat: bool = False) -> int:
        """A picture under a name of its own."""
        wrap = _REPEAT if repeat else _CLAMP
        sampler = {"magFilter": _LINEAR, "minFilter": _MIPMAPPED, "wrapS": wrap, "wrapT": wrap}
        samplers: list[Json] = self._document.setdefault("samplers", [])
        if sampler not in samplers:
            samplers.append(sampler)
        self._pictures.append((name, png))
        return self.add("textures", {"source": len(self._pictures) - 1, "sampler": samplers.index(sampler)})

    def glb(self) -> bytes:
        """One file: header, JSON chunk padded with spaces, BIN chunk padded with zeros (4.4)."""
        kept, views = bytearray(self._binary), list(self._document.get("bufferViews", []))
        images = []
        for name, png in self._pictures:
            images.append({"bufferView": len(views), "mimeType": "image/png", "name": name})
            views.append({"buffer": 0, "byteOffset": len(kept), "byteLength": len(png)})
            kept += png + b"\0" * (-len(png) % 4)
        document = self._document | {"bufferViews": views, "buffers": [{"byteLength": len(kept)}]}
        text = json.dumps(document | _some("images", images), separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 4)
        header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(kept))
        chunks = ((b"JSON", text), (b"BIN\0", bytes(kept)))
        return header + b"".join(struct.pack("<I4s", len(data), kind) + data for kind, data in chunks)

    def files(self, stem: str) -> Files:
        """`stem.gltf`, `stem.bin`, and the pictures under their names."""
        images = [{"uri": f"{name}.png", "name": name} for name, _ in self._pictures]
        buffers = [{"uri": f"{stem}.bin", "byteLength": len(self._binary)}]
        document = self._document | {"buffers": buffers} | _some("images", images)
        text = json.dumps(document, indent=1, ensure_ascii=False).encode()
        pictures = {f"{name}.png": png for name, png in self._pictures}
        return {f"{stem}.gltf": text, f"{stem}.bin": bytes(self._binary)} | pictures

    def _view(self, data: bytes, more: Json) -> int:
        view = {"buffer": 0, "byteOffset": len(self._binary), "byteLength": len(data)}
        self._binary += data + b"\0" * (-len(data) % 4)
        return self.add("bufferViews", view | more)

    def _described(self, rows: np.ndarray, bounds: bool, normalized: bool) -> Json:
        made: Json = {
            "componentType": _COMPONENTS[rows.dtype.str],
            "type": _SHAPES[rows.shape[1]],
            "count": len(rows),
        }
        if normalized:
            made["normalized"] = True
        return made | ({"min": rows.min(0).tolist(), "max": rows.max(0).tolist()} if bounds else {})


def _some(name: str, entries: list[Json]) -> Json:
    """A table of a document, which may not be empty."""
    return {name: entries} if entries else {}

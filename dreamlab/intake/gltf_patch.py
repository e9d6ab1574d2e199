# SPDX-License-Identifier: Apache-2.0
"""Other materials in a glTF file whose geometry stays byte for byte.

The binary part keeps every byte that was in it where it was; what is new comes after it. Of the document only what
says a material changes: materials, the textures and images of theirs that nothing else shows, and the provenance in
`asset.extras`; extensions and extras of strangers stay. Where triangles get texture coordinates of their own (there
were none, or it was asked for), corners are repeated along the seams and the primitive names new accessors with the
old values, row by row. Section numbers: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html.
"""

from __future__ import annotations

import base64
import copy
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dreamlab.core.files import Json
from dreamlab.core.foreign.gltf import GltfFile, binary_chunk
from dreamlab.core.foreign.headers import glb_document, gltf_document

ARRAY, ELEMENTS = 34962, 34963
UINT, FLOAT = 5125, 5126
WEBP = "EXT_texture_webp"


@dataclass(frozen=True)
class NewPictures:
    """New pictures of a slot as files, by the name of what they show: base, rough_metal, normal."""

    name: str
    pictures: Mapping[str, bytes]


@dataclass
class GltfPatch:
    """A document on its way from the file that was to the file that will be."""

    document: Json
    binary: bytes | None  # the BIN chunk; none: a .gltf, whose new bytes are files beside it
    stem: str  # of the names of new files
    added: bytearray = field(default_factory=bytearray)
    files: dict[str, bytes] = field(default_factory=dict)

    @staticmethod
    def of(data: bytes, glb: bool, stem: str) -> GltfPatch:
        """Of a file that the parser's child has accepted."""
        if glb:
            return GltfPatch(glb_document(data), binary_chunk(data), stem)
        return GltfPatch(gltf_document(data), None, stem)

    # ---- bytes ------------------------------------------------------------------------------------------------------
    def view(self, data: bytes, **more: int) -> int:
        """A new buffer view with these bytes."""
        buffers = self.document.setdefault("buffers", [])
        inside = self.binary is not None and (not buffers or "uri" not in buffers[0])
        if self.binary is not None and not inside:  # the BIN chunk can only be buffer 0 (4.4.3.3), which is elsewhere
            uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
            buffers.append({"byteLength": len(data), "uri": uri})
            made = {"buffer": len(buffers) - 1, "byteOffset": 0, "byteLength": len(data)}
        else:
            if inside and not buffers:
                buffers.append({"byteLength": 0})
            start = len(self.binary or b"")
            start += -start % 4
            made = {"buffer": 0 if inside else -1, "byteOffset": start + len(self.added), "byteLength": len(data)}
            self.added += data + b"\0" * (-len(data) % 4)
        views: list[Json] = self.document.setdefault("bufferViews", [])
        views.append(made | more)
        return len(views) - 1

    def accessor(self, values: np.ndarray, like: Json, target: int) -> int:
        """A new accessor: rows of what an old one held, or of its own; columns start at multiples of four (3.6.2.4)."""
        width = values.itemsize * values.shape[1]
        stride = width + (-width % 4 if target == ARRAY else 0)
        padded = np.zeros((len(values), stride), np.uint8)
        padded[:, :width] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width)
        wider = {"byteStride": stride} if stride != width else {}
        made = {key: value for key, value in like.items() if key not in ("byteOffset", "sparse", "min", "max")}
        made |= {"bufferView": self.view(padded.tobytes(), target=target, **wider), "count": len(values)}
        if "min" in like:
            made |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        accessors: list[Json] = self.document.setdefault("accessors", [])
        accessors.append(made)
        return len(accessors) - 1

    # ---- materials --------------------------------------------------------------------------------------------------
    def dress(self, material: int, slot: Json, coat: NewPictures, coordinates: int | None) -> None:
        """Put pictures into the slots of a material; `coordinates`: the new set that they are read at."""
        found = self.document["materials"][material]
        rough = found.setdefault("pbrMetallicRoughness", {})
        old = rough.get("baseColorTexture", {})
        info = {key: value for key, value in old.items() if key != "index"}
        if coordinates is not None:
            info = {"texCoord": coordinates} if coordinates else {}
        found.get("extensions", {}).pop("KHR_materials_pbrSpecularGlossiness", None)  # it would be shown instead
        if not found.get("extensions", True):
            del found["extensions"]
        places = {"base": (rough, "baseColorTexture"), "rough_metal": (rough, "metallicRoughnessTexture")}
        places["normal"] = (found, "normalTexture")
        for name, data in coat.pictures.items():
            holder, key = places[name]
            before = holder.get(key, {}).get("index")
            index = self.texture(data, f"{coat.name}_{name}", before, old.get("index"))
            holder[key] = {"index": index} | info
        if "base" in coat.pictures:
            alpha = slot["factor"][3]
            rough.pop("baseColorFactor", None)
            if alpha != 1:
                rough["baseColorFactor"] = [1.0, 1.0, 1.0, alpha]
        if "rough_metal" in coat.pictures:
            rough.pop("roughnessFactor", None)
            rough.pop("metallicFactor", None)

    def texture(self, data: bytes, name: str, before: int | None, like: int | None) -> int:
        """A texture with this PNG: the one that was there when nothing else shows it, else a new one beside it."""
        textures: list[Json] = self.document.setdefault("textures", [])
        if before is not None and _uses(self.document["materials"], before) <= 1:
            texture, old = textures[before], _source(textures[before])
            texture.get("extensions", {}).pop(WEBP, None)
            if not texture.get("extensions", True):
                del texture["extensions"]
            texture["source"] = self.image(data, name, old)
            return before
        sampler = textures[like].get("sampler") if like is not None else None
        textures.append({"source": self.image(data, name, None)} | ({} if sampler is None else {"sampler": sampler}))
        return len(textures) - 1

    def image(self, data: bytes, name: str, before: int | None) -> int:
        """An image with this PNG, in the place of one that nothing else shows."""
        images: list[Json] = self.document.setdefault("images", [])
        sources = [image for texture in self.document["textures"] for image in _sources(texture)]
        fresh: Json = {"mimeType": "image/png"}
        if before is None or sources.count(before) > 1 or "uri" in images[before]:
            fresh["name"] = name
        else:
            fresh |= {key: images[before][key] for key in ("name", "extras") if key in images[before]}
        if self.binary is None:
            file = f"{self.stem}_{name}.png"
            self.files[file] = data
            fresh = {"uri": file} | fresh
        else:
            fresh["bufferView"] = self.view(data)
        if before is not None and sources.count(before) <= 1:
            images[before] = fresh
            return before
        images.append(fresh)
        return len(images) - 1

    # ---- texture coordinates ----------------------------------------------------------------------------------------
    def sets(self, mesh: int, primitive: int) -> int:
        """How many sets of texture coordinates a primitive has."""
        attributes = self.document["meshes"][mesh]["primitives"][primitive]["attributes"]
        return sum(name.startswith("TEXCOORD_") for name in attributes)

    def reseam(self, read: GltfFile, mesh: int, primitive: int, uv: np.ndarray, turned: bool, number: int) -> None:
        """Give a primitive's triangles coordinates [f, 3, 2] of their own in set `number`, and in those before it that
        it has not, for sets are counted without gaps."""
        found = self.document["meshes"][mesh]["primitives"][primitive]
        where = read.corners(read.document["meshes"][mesh]["primitives"][primitive])
        across = uv[:, ::-1] if turned else uv
        rows = np.concatenate([where.reshape(-1, 1).astype(np.float64), across.reshape(-1, 2)], 1)
        keys, index = np.unique(rows, axis=0, return_inverse=True)
        source = keys[:, 0].astype(np.int64)
        first = self.sets(mesh, primitive)

        def moved(accessor: int) -> int:
            return self.accessor(read.raw(accessor)[source], read.document["accessors"][accessor], ARRAY)

        found["attributes"] = {name: moved(accessor) for name, accessor in found["attributes"].items()}
        if "targets" in found:
            found["targets"] = [{name: moved(each) for name, each in target.items()} for target in found["targets"]]
        flat = {"componentType": FLOAT, "type": "VEC2"}
        made = self.accessor(keys[:, 1:].astype("<f4"), flat, ARRAY)
        found["attributes"] |= {f"TEXCOORD_{i}": made for i in range(first, number + 1)}
        scalar = {"componentType": UINT, "type": "SCALAR"}
        found["indices"] = self.accessor(index.reshape(-1, 1).astype("<u4"), scalar, ELEMENTS)
        found.pop("mode", None)
        found.get("extensions", {}).pop("KHR_draco_mesh_compression", None)  # of the triangles that were

    def material(self, like: int | None, name: str) -> int:
        """A new material, as another one is."""
        materials: list[Json] = self.document.setdefault("materials", [])
        made = {"pbrMetallicRoughness": {}} if like is None else copy.deepcopy(materials[like])
        materials.append(made | {"name": name})
        return len(materials) - 1

    def forget_colours(self, primitives: Iterable[tuple[int, int]]) -> None:
        """Name vertex colours no more: they multiply base colours (3.9.2), and can only darken what is painted."""
        for mesh, primitive in primitives:
            self.document["meshes"][mesh]["primitives"][primitive]["attributes"].pop("COLOR_0", None)

    def tell(self, origin: Json) -> None:
        """Provenance beside what others say of themselves there."""
        extras = self.document["asset"].get("extras", {})
        if origin and isinstance(extras, dict):
            self.document["asset"]["extras"] = extras | origin

    # ---- the file ---------------------------------------------------------------------------------------------------
    def finished(self) -> tuple[bytes, dict[str, bytes]]:
        """The file, and those that it names beside it."""
        self._forget_webp()
        if self.binary is not None:
            return self._glb(), {}
        if self.added:
            buffers = self.document.setdefault("buffers", [])
            name = f"{self.stem}_uv.bin"
            buffers.append({"byteLength": len(self.added), "uri": name})
            self.files[name] = bytes(self.added)
            for view in self.document["bufferViews"]:
                view["buffer"] = len(buffers) - 1 if view["buffer"] == -1 else view["buffer"]
        return json.dumps(self.document, indent=1).encode() + b"\n", self.files

    def _glb(self) -> bytes:
        assert self.binary is not None
        whole = self.binary
        if self.added:
            whole += b"\0" * (-len(whole) % 4) + bytes(self.added)
            if "uri" not in self.document["buffers"][0]:
                self.document["buffers"][0]["byteLength"] = len(whole)
        whole += b"\0" * (-len(whole) % 4)
        text = json.dumps(self.document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunk = struct.pack("<I4s", len(whole), b"BIN\0") + whole if whole else b""
        head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(chunk))
        return head + struct.pack("<I4s", len(text), b"JSON") + text + chunk

    def _forget_webp(self) -> None:
        """An extension that no texture uses any more need not be understood."""
        if any(WEBP in texture.get("extensions", {}) for texture in self.document.get("textures", [])):
            return
        for key in ("extensionsUsed", "extensionsRequired"):
            names = [name for name in self.document.get(key, []) if name != WEBP]
            if names:
                self.document[key] = names
            else:
                self.document.pop(key, None)


def _source(texture: Json) -> int | None:
    """The image that is shown of it."""
    found = _sources(texture)
    return found[0] if found else None


def _sources(texture: Json) -> list[int]:
    """All images that it names, WebP first."""
    webp = texture.get("extensions", {}).get(WEBP, {}).get("source")
    return [each for each in (webp, texture.get("source")) if each is not None]


def _uses(value: object, texture: int) -> int:
    """How often materials name a texture, in whichever slot or extension."""
    if isinstance(value, list):
        return sum(_uses(each, texture) for each in value)
    if not isinstance(value, dict):
        return 0
    own = sum(
        isinstance(each, dict) and each.get("index") == texture
        for key, each in value.items()
        if key.endswith("Texture")
    )
    return own + sum(_uses(each, texture) for each in value.values())


def bare_glb(points: np.ndarray, faces: np.ndarray, name: str) -> bytes:
    """A GLB of triangles alone, for what comes in a format that knows no materials."""
    document: Json = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"name": name, "primitives": [{"attributes": {}}]}],
    }
    made = GltfPatch(document, b"", name)
    primitive = document["meshes"][0]["primitives"][0]
    bounds: Json = {"componentType": FLOAT, "type": "VEC3", "min": [], "max": []}
    primitive["attributes"]["POSITION"] = made.accessor(points.astype("<f4"), bounds, ARRAY)
    rows = faces.reshape(-1, 1).astype("<u4")
    primitive["indices"] = made.accessor(rows, {"componentType": UINT, "type": "SCALAR"}, ELEMENTS)
    return made.finished()[0]

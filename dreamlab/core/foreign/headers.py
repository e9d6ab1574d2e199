# SPDX-License-Identifier: Apache-2.0
"""What the head of a mesh file promises, held against what the file has and what memory may be spent, before any parser
allocates it. glTF: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, sections 3.6 and 4.4."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import TypeGuard

from dreamlab.core.files import Json

MOST_BYTES = 1 << 30  # unpacked
MOST_EMPTY = 64 << 20  # bytes of accessors that say what they hold by saying nothing
MOST_PLACED = 10_000  # nodes of a glTF
MOST_JSON = 64 << 20
MOST_HEADER = 1 << 16  # bytes of a PLY header
UPRIGHT = "up +Z, front -Y"  # what our PLY and STL say of their axes
_COMPONENTS = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}  # bytes
_NUMBERS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TRANSFORM, _PACK = "npx @gltf-transform/cli", "npx gltfpack"
_PACKED = {  # extensions that pack a mesh: by what, and the command that unpacks it
    "KHR_draco_mesh_compression": ("Draco", f"{_TRANSFORM} copy IN.glb OUT.glb"),
    "EXT_meshopt_compression": ("meshopt", f"{_PACK} -i IN.glb -o OUT.glb -noq"),
    "KHR_meshopt_compression": ("meshopt", f"{_PACK} -i IN.glb -o OUT.glb -noq"),
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PLY_BYTES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
_PLY_BYTES |= {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8}


class Refused(ValueError):
    """Why a file is not read, in words for its owner."""


def glb_document(data: bytes) -> Json:
    """The JSON chunk of a GLB."""
    if len(data) < 20 or data[:4] != b"glTF" or struct.unpack("<I", data[8:12])[0] != len(data):
        raise Refused("not a whole GLB file")
    size, kind = struct.unpack("<I4s", data[12:20])
    if kind != b"JSON" or 20 + size > len(data):
        raise Refused("the first chunk of a GLB must be its JSON")
    return gltf_document(data[20 : 20 + size])


def gltf_document(text: bytes) -> Json:
    """The object that a glTF's JSON is."""
    if len(text) > MOST_JSON:
        raise Refused(f"its JSON has {len(text)} bytes; at most {MOST_JSON} are read")
    try:
        document = json.loads(text)
    except RecursionError:
        raise Refused("its JSON is nested too deeply") from None
    except ValueError as error:
        raise Refused(f"its JSON is damaged ({error})") from None
    if not isinstance(document, dict):
        raise Refused("its JSON is not an object")
    return document


def check_glb(data: bytes) -> Json:
    """The document of a GLB whose accessors lie in the file and whose nodes are a bounded tree."""
    return checked(glb_document(data), len(data), beside=False)


def check_gltf(data: bytes) -> Json:
    """The same of a .gltf; its buffers and pictures are in it, or files beside it."""
    return checked(gltf_document(data), len(data), beside=True)


def checked(document: Json, size: int, beside: bool) -> Json:
    """The document of a file of `size` bytes, if it keeps to what memory may be spent on it."""
    try:
        for name in document.get("extensionsRequired", []):
            if name in _PACKED:
                by, command = _PACKED[name]
                raise Refused(f"its mesh is packed with {by}; save it without compression, or unpack it: {command}")
        _check_data(document, size, beside)
        _check_nodes(document)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise Refused(f"its JSON does not describe a mesh as glTF 2.0 does ({type(error).__name__}: {error})") from None
    return document


def check_uri(uri: str, what: str, beside: bool) -> None:
    """Data in the URI itself, or a file in the same folder: never an address, nor a place elsewhere."""
    if uri.startswith("data:"):
        return
    if not beside:
        raise Refused(f"its {what} is another file ({uri[:80]!r}); save it as one .glb")
    steps = re.split(r"[/\\]|%2f|%5c", uri, flags=re.IGNORECASE)
    if _SCHEME.match(uri) or not steps[0] or any(re.sub("%2e", ".", step, flags=re.I) == ".." for step in steps):
        raise Refused(f"its {what} is not beside it ({uri[:80]!r}); put it into the folder of the file")


def _check_data(document: Json, size: int, beside: bool) -> None:
    lengths = []
    inside = 0
    for i, buffer in enumerate(document.get("buffers", [])):
        uri = buffer.get("uri")
        if uri is not None:
            check_uri(uri, f"buffer {i}", beside)
        lengths.append(_whole(buffer, "byteLength", f"buffer {i}"))
        inside += lengths[-1] if uri is None or uri.startswith("data:") else 0
    if inside > size:
        raise Refused(f"its buffers promise {inside} bytes, the file has {size}")
    if sum(lengths) > MOST_BYTES:
        raise Refused(f"its buffers promise {sum(lengths)} bytes; at most {MOST_BYTES} are read")
    views = []
    for i, view in enumerate(document.get("bufferViews", [])):
        offset, length = (_whole(view, key, f"buffer view {i}", 0) for key in ("byteOffset", "byteLength"))
        if offset + length > lengths[_whole(view, "buffer", f"buffer view {i}")]:
            raise Refused(f"its buffer view {i} ends beyond its buffer")
        views.append((length, _whole(view, "byteStride", f"buffer view {i}", 0)))
    for i, image in enumerate(document.get("images", [])):
        if "uri" in image:
            check_uri(image["uri"], f"image {i}", beside)
        elif _whole(image, "bufferView", f"image {i}") >= len(views):
            raise Refused(f"its image {i} names bytes that are not there")
    total = empty = 0
    for i, accessor in enumerate(document.get("accessors", [])):
        name = f"accessor {i}"
        each = _COMPONENTS[accessor["componentType"]] * _NUMBERS[accessor["type"]]
        count = _whole(accessor, "count", name)
        total += count * each
        if "bufferView" in accessor and count:
            _check_part(accessor, views, count, each, name)
        empty += 0 if "bufferView" in accessor else count * each
        if "sparse" in accessor:
            _check_sparse(accessor["sparse"], views, count, each, name)
    if total > MOST_BYTES:
        raise Refused(f"its accessors promise {total} bytes; at most {MOST_BYTES} are read")
    if empty > MOST_EMPTY:
        raise Refused(f"its accessors promise {empty} bytes of zeros; at most {MOST_EMPTY} are made")


def _check_part(part: Json, views: list[tuple[int, int]], count: int, each: int, name: str) -> None:
    """That `count` values of `each` bytes lie in the part of a buffer that they are said to be in."""
    length, stride = views[_whole(part, "bufferView", name)]
    needed = _whole(part, "byteOffset", name, 0) + (count - 1) * (stride or each) + each
    if needed > length:
        raise Refused(f"its {name} promises {needed} bytes, its part of the file has {length}")


def _check_sparse(sparse: Json, views: list[tuple[int, int]], count: int, each: int, name: str) -> None:
    """Replaced values (3.6.2.3): no more of them than there are values, and all of them there."""
    replaced = _whole(sparse, "count", f"{name}, sparse")
    if not 1 <= replaced <= count:
        raise Refused(f"its {name} replaces {replaced} of {count} values")
    index = _COMPONENTS[sparse["indices"]["componentType"]]
    _check_part(sparse["indices"], views, replaced, index, f"{name}, sparse indices,")
    _check_part(sparse["values"], views, replaced, each, f"{name}, sparse values,")


def _check_nodes(document: Json) -> None:
    """A tree, with few enough copies of its meshes."""
    nodes, meshes = document.get("nodes", []), document.get("meshes", [])
    if len(nodes) > MOST_PLACED:
        raise Refused(f"it places {len(nodes)} parts; at most {MOST_PLACED} are read: join them into one mesh")
    accessors = document.get("accessors", [])
    of_mesh = [
        sum(
            accessors[number]["count"]
            for part in mesh["primitives"]
            for number in (part["attributes"]["POSITION"], part.get("indices"))
            if number is not None
        )
        for mesh in meshes
    ]
    placed = sum(of_mesh[node["mesh"]] for node in nodes if "mesh" in node)
    if placed * 12 > MOST_BYTES:
        raise Refused(f"its {len(nodes)} parts unfold to {placed} corners: too many; simplify it")
    parents = [child for node in nodes for child in node.get("children", [])]
    if not all(_is_count(child) and child < len(nodes) for child in parents):
        raise Refused("one of its nodes names a child that is not there")
    if len(set(parents)) != len(parents):
        raise Refused("one of its nodes has two parents, or is its own: not a tree")
    reached, todo = set(parents), [i for i in range(len(nodes)) if i not in set(parents)]
    if nodes and not todo:
        raise Refused("its nodes go round in a ring: not a tree")
    while todo:
        i = todo.pop()
        reached.discard(i)
        todo += nodes[i].get("children", [])
    if reached:
        raise Refused("its nodes go round in a ring: not a tree")


def _whole(of: Json, key: str, name: str, default: int | None = None) -> int:
    found = of.get(key, default)
    if not _is_count(found):
        raise Refused(f"its {name} has the {key} {str(found)[:40]}")
    return found


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53  # as JSON's numbers go


def check_ply(data: bytes) -> None:
    """A PLY whose elements fit into what follows its header."""
    head, end, _ = data[:MOST_HEADER].partition(b"end_header")
    if not data.startswith(b"ply") or not end:
        raise Refused("not a PLY file: no header")
    length = len(data) - len(head) - len(end)
    text = b"format ascii" in head
    needed = count = rows = 0
    for line in head.decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3:
            count = _ply_count(words[2], words[1])
            rows += count
        elif words[:1] == ["property"] and len(words) >= 3:
            kind = words[2] if words[1] == "list" else words[1]  # an empty list is its length alone
            if kind not in _PLY_BYTES:
                raise Refused(f"its header has a property of the unknown kind {kind[:40]!r}")
            needed += count * (2 if text else _PLY_BYTES[kind])
    needed = max(needed, rows)  # elements without properties take no bytes, and time all the same
    if needed > length + 2:  # the last line may lack its end
        raise Refused(f"its header promises {needed} bytes, {length} follow: cut off or damaged")


def _ply_count(word: str, name: str) -> int:
    if not word.isdecimal() or len(word) > 12:
        raise Refused(f"its header has {word[:40]!r} of {name!r}")
    return int(word)


def stands(suffix: str, data: bytes) -> bool:
    """Whether a PLY or an STL says that +Z is its up, as ours do: in a comment, or in the text before the triangles."""
    head = data[: data.find(b"end_header")] if suffix == ".ply" else data[:80] if suffix == ".stl" else b""
    return UPRIGHT.encode() in head[:MOST_HEADER]


CHECKS = {".glb": check_glb, ".gltf": check_gltf, ".ply": check_ply}


def check_header(path: Path, data: bytes) -> None:
    """What can be known before parsing; other formats are text, whose size bounds what it holds."""
    check = CHECKS.get(path.suffix.lower())
    if check is not None:
        check(data)

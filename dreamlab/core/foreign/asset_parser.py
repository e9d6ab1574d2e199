# SPDX-License-Identifier: Apache-2.0
"""A user's asset as it stands, with its texture coordinates and materials; runs in the child of `apart`.

Triangles are in the file's world, as its nodes and skins put them; a mirror turns them over. A material that is drawn
is a slot; its pictures come along, made small. Corners without texture coordinates have NaN there.
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dreamlab.core.files import Json
from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.foreign.gltf import GltfFile, Piece, binary_chunk
from dreamlab.core.foreign.headers import Refused, check_glb, check_gltf
from dreamlab.core.foreign.mesh_parser import MOST_FILE, Beside, check_size, check_triangles
from dreamlab.core.foreign.mesh_parser import parse as parse_mesh
from dreamlab.core.foreign.obj import linear, read_obj
from dreamlab.core.foreign.usd import SUFFIXES as USD
from dreamlab.core.foreign.usd import read_usd

PICTURES = ("PNG", "JPEG", "WEBP")
MOST_SIDE, WORKING = 8192, 1024  # pixels that are read, and that are handed on
DEFAULT = "default"  # the name of what has no material


@dataclass
class Slot:
    """A material, or what stands in where there is none."""

    material: int | None
    name: str
    facts: Json = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class PartRows:
    """Corners and triangles of one part, and what slot it wears."""

    points: np.ndarray  # [V, 3]
    faces: np.ndarray  # [F, 3]
    uv: np.ndarray  # [V, 2]
    normals: np.ndarray  # [V, 3]
    tint: np.ndarray  # [V, 3] linear
    slot: np.ndarray  # [F]
    where: Json


def parse(path: Path) -> dict[str, np.ndarray]:
    """`points` [V, 3] float64, `faces` [F, 3], `uv` [V, 2], `normals` [V, 3], `tint` [V, 3] (linear, of vertex
    colours), `slot` [F] and `part` [F], pictures `base.I` and `rough_metal.I` of slot I, and `facts` in JSON."""
    data, kind = read_bytes(path, "it", MOST_FILE), path.suffix.lower()
    notes: list[str] = []
    if kind in (".glb", ".gltf"):
        parts, slots = _gltf(data, kind, path.parent, notes)
    elif kind == ".obj":
        parts, slots = _obj(data, path.parent)
    elif kind in USD:
        parts, slots = _usd(path)
    else:
        parts, slots = _bare(path)
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        return _nothing(kind)
    for part in parts:
        check_triangles(part.points, part.faces)
    starts = np.cumsum([0, *(len(part.points) for part in parts)])
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("points", "uv", "normals")}
    check_size(joined["points"])
    joined["tint"] = np.concatenate([part.tint for part in parts])
    joined["faces"] = np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=False)])
    joined["slot"] = np.concatenate([part.slot for part in parts])
    joined["part"] = np.concatenate([np.full(len(part.faces), i) for i, part in enumerate(parts)])
    facts = {
        "kind": kind,
        "slots": [{"material": slot.material, "name": slot.name} | slot.facts for slot in slots],
        "parts": [part.where | {"corners": len(part.points)} for part in parts],
        "notes": notes,
    }
    pictures = {f"{name}.{i}": picture for i, slot in enumerate(slots) for name, picture in slot.pictures.items()}
    packed = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    return {name: np.ascontiguousarray(array) for name, array in (joined | pictures | {"facts": packed}).items()}


def _nothing(kind: str) -> dict[str, np.ndarray]:
    """Of a file without triangles."""
    wide = {"points": 3, "uv": 2, "normals": 3, "tint": 3}
    found: dict[str, np.ndarray] = {name: np.zeros((0, width)) for name, width in wide.items()}
    found["faces"] = np.zeros((0, 3), np.int64)
    found["slot"] = found["part"] = np.zeros(0, np.int64)
    return found | {"facts": np.frombuffer(json.dumps({"kind": kind}).encode(), np.uint8)}


def _gltf(data: bytes, kind: str, folder: Path, notes: list[str]) -> tuple[list[PartRows], list[Slot]]:
    document = check_glb(data) if kind == ".glb" else check_gltf(data)
    beside = Beside(folder)
    try:
        read = GltfFile(document, binary_chunk(data) if kind == ".glb" else b"", beside.get)
        slots: dict[int, Slot] = {}
        parts = [_piece(read, piece, slots) for piece in read.pieces()]
        for slot in slots.values():
            _pictures_of(read, slot, notes)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, Refused):
            raise Refused(beside.refused or str(error)) from None
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise Refused(f"its JSON does not describe a mesh as glTF 2.0 does ({said})") from None
    order = {key: i for i, key in enumerate(slots)}
    for part in parts:
        part.slot = np.full(len(part.faces), order[part.where["slot"]], np.int64)
        part.where["slot"] = order[part.where["slot"]]
    return parts, list(slots.values())


def _piece(read: GltfFile, piece: Piece, slots: dict[int, Slot]) -> PartRows:
    primitive = read.primitive(piece)
    attributes, points = primitive["attributes"], read.points(piece)
    key = primitive.get("material", -1)
    if key not in slots:
        slots[key] = _slot(read, None if key == -1 else key)
    slot = slots[key]
    faces = read.corners(primitive)
    turned = bool(np.linalg.det(piece.matrix[:3, :3]) < 0)
    if turned:
        faces = np.ascontiguousarray(faces[:, ::-1])
    uv = np.full((len(points), 2), np.nan, np.float32)
    if slot.facts["set"] in attributes:
        uv = _transformed(read.accessor(attributes[slot.facts["set"]]).astype(np.float32), slot.facts["transform"])
    normals = np.full((len(points), 3), np.nan, np.float32)
    if "NORMAL" in attributes and "skin" not in read.document["nodes"][piece.node]:
        with np.errstate(all="ignore"):
            turn = np.linalg.inv(piece.matrix[:3, :3]).T if np.linalg.det(piece.matrix[:3, :3]) else np.eye(3)
            bent = read.accessor(attributes["NORMAL"]).astype(np.float64) @ turn.T
            normals = np.asarray(bent / np.linalg.norm(bent, axis=1, keepdims=True), np.float32)
    tint = np.ones((len(points), 3), np.float32)
    if "COLOR_0" in attributes:
        tint = read.accessor(attributes["COLOR_0"])[:, :3].astype(np.float32)
    where = {"mesh": piece.mesh, "primitive": piece.primitive, "node": piece.node, "slot": key, "turned": turned}
    return PartRows(points, faces, uv, normals, tint, np.zeros(0, np.int64), where)


def _slot(read: GltfFile, material: int | None) -> Slot:
    """What is asked of a material before its pictures: which coordinates its base colour is read at."""
    found: Json = {} if material is None else read.document["materials"][material]
    rough = found.get("pbrMetallicRoughness", {})
    base = rough.get("baseColorTexture", {})
    moved = base.get("extensions", {}).get("KHR_texture_transform", {})
    facts = {
        "set": f"TEXCOORD_{moved.get('texCoord', base.get('texCoord', 0))}",
        "transform": {key: moved[key] for key in ("offset", "rotation", "scale") if key in moved},
        "factor": [float(x) for x in rough.get("baseColorFactor", (1, 1, 1, 1))],
        "roughness": float(rough.get("roughnessFactor", 1)),
        "metallic": float(rough.get("metallicFactor", 1)),
        "alpha": found.get("alphaMode", "OPAQUE"),
        "wrap": [_wrap(read, base, axis) for axis in ("wrapS", "wrapT")],
        "texture": base.get("index"),
        "rough_metal": rough.get("metallicRoughnessTexture", {}).get("index"),
    }
    return Slot(material, str(found.get("name", DEFAULT if material is None else f"material {material}")), facts)


def _wrap(read: GltfFile, info: Json, axis: str) -> int:
    sampler = read.document["textures"][info["index"]].get("sampler") if "index" in info else None
    return 10497 if sampler is None else int(read.document["samplers"][sampler].get(axis, 10497))


def _transformed(uv: np.ndarray, moved: Json) -> np.ndarray:
    """KHR_texture_transform: scale, then turn, then move."""
    if not moved:
        return uv
    angle = float(moved.get("rotation", 0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    made: np.ndarray = uv * np.array(moved.get("scale", (1, 1))) @ turn.T + np.array(moved.get("offset", (0, 0)))
    return made.astype(np.float32)


def source_of(document: Json, texture: int) -> int | None:
    """The image of a texture: WebP's where it has one (EXT_texture_webp), else its own."""
    found = document["textures"][texture]
    source: int | None = found.get("extensions", {}).get("EXT_texture_webp", {}).get("source", found.get("source"))
    return source


def _pictures_of(read: GltfFile, slot: Slot, notes: list[str]) -> None:
    for name, key in (("base", "texture"), ("rough_metal", "rough_metal")):
        texture = slot.facts[key]
        if texture is None:
            continue
        source = source_of(read.document, texture)
        if source is None:
            notes.append(f"material {slot.name!r}: its {name} texture is of a kind that is not read; begun without it")
            continue
        slot.facts[f"{name}_size"], picture = small(read.image(source), f"image {source}")
        slot.pictures[name] = picture


def small(data: bytes, what: str) -> tuple[list[int], np.ndarray]:
    """Width and height of a picture, and its pixels [h, w, 4], at most WORKING a side."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=PICTURES)
        size = list(picture.size)
        if max(size) > MOST_SIDE:
            raise Refused(f"its {what} has {size[0]} x {size[1]} pixels; sides of at most {MOST_SIDE} are read")
        made = picture.convert("RGBA")
    except Image.DecompressionBombError:
        raise Refused(f"its {what} has too many pixels; sides of at most {MOST_SIDE} are read") from None
    except Refused:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        said = " ".join(str(error).split())
        raise Refused(f"its {what} is no PNG, JPEG or WebP that can be read ({said[:100]})") from None
    if max(size) > WORKING:
        made.thumbnail((WORKING, WORKING), Image.Resampling.BOX)
    return size, np.array(made)


def _obj(data: bytes, folder: Path) -> tuple[list[PartRows], list[Slot]]:
    beside = Beside(folder)
    found = read_obj(data, beside.get)
    slots = []
    for name, material in found.materials:
        facts: Json = {
            "factor": [*linear(np.array(material.base)).tolist(), 1.0],
            "roughness": 0.8,
            "metallic": 0.0,
            "wrap": [10497, 10497],
        }
        facts |= {"alpha": "OPAQUE", "set": "vt", "transform": {}, "texture": material.picture or None}
        slot = Slot(None, name, facts)
        if material.picture:
            try:
                slot.facts["base_size"], slot.pictures["base"] = small(beside.get(material.picture), material.picture)
            except FileNotFoundError:
                facts["texture"] = None
        slots.append(slot)
    if beside.refused:
        raise Refused(beside.refused)
    parts = [
        PartRows(
            found.points,
            found.faces,
            found.uv,
            found.normals,
            found.tint,
            found.slot,
            {"mesh": 0, "primitive": 0, "slot": 0},
        )
    ]
    return parts, slots


def _usd(path: Path) -> tuple[list[PartRows], list[Slot]]:
    """All its meshes as one."""
    found = read_usd(path)
    if not found:
        return [], []
    points, uv, tint = (np.concatenate(each) for each in zip(*found, strict=True))
    faces = np.arange(len(points)).reshape(-1, 3)
    blank, none = np.full((len(points), 3), np.nan, np.float32), np.zeros(len(faces), np.int64)
    where: Json = {"mesh": 0, "primitive": 0, "slot": 0}
    one = PartRows(points, faces, uv.astype(np.float32), blank, tint.astype(np.float32), none, where)
    return [one], [_plain()]


def _plain() -> Slot:
    """What is worn where a format tells of no material, or of none that is read."""
    facts: Json = {"factor": [1.0] * 4, "roughness": 0.8, "metallic": 0.0, "wrap": [10497, 10497], "alpha": "OPAQUE"}
    return Slot(None, DEFAULT, facts | {"set": "", "transform": {}, "texture": None})


def _bare(path: Path) -> tuple[list[PartRows], list[Slot]]:
    """A file without texture coordinates."""
    found = parse_mesh(path)
    points, faces = found["vertices"], found["faces"]
    tint = np.ones((len(points), 3), np.float32)
    if "colours" in found:
        tint = found["colours"].clip(0, 1)
        tint = np.where(found["linear"][:, None], tint, linear(tint)).astype(np.float32)
    blank, none = np.full((len(points), 3), np.nan, np.float32), np.zeros(len(faces), np.int64)
    where: Json = {"mesh": 0, "primitive": 0, "slot": 0}
    return [PartRows(points, faces, blank[:, :2].copy(), blank, tint, none, where)], [_plain()]

# SPDX-License-Identifier: Apache-2.0
"""What is in a file: counts, bounds, materials and their pictures, skins, animations, and where it says it comes from.
A line each, in words that a terminal can show."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.foreign.asset import read_asset
from dreamlab.core.foreign.asset_parser import source_of
from dreamlab.core.foreign.files import checked_size, read_bytes
from dreamlab.core.foreign.headers import MOST_HEADER, Refused, check_glb, check_gltf
from dreamlab.core.foreign.mesh_parser import MOST_FILE
from dreamlab.core.foreign.shape import CLOUDS, read_shape
from dreamlab.core.foreign.splat_ply import is_splats
from dreamlab.core.foreign.usd import LACKING
from dreamlab.core.text import printable, short
from dreamlab.intake.provenance import TELLING, origin_in, png_chunks
from renderers.gaussian.files import read_splats

ROLES = {  # slots of a material, and the light that their numbers are in (glTF 3.9.2)
    "baseColorTexture": "base colour, sRGB",
    "metallicRoughnessTexture": "roughness and metallic, linear",
    "normalTexture": "normals, linear",
    "occlusionTexture": "occlusion, linear",
    "emissiveTexture": "emission, sRGB",
}
SPLATS = "KHR_gaussian_splatting"
MOST_LINES = 60  # of one kind


def described(path: Path) -> list[str]:
    """The lines of a file; InputError says in one what is wrong with it."""
    readers: dict[str, Callable[[Path], list[str]]] = {
        ".glb": _gltf, ".gltf": _gltf, ".obj": _materials, ".ply": _ply, ".splat": _splats, ".spz": _splats,
        ".usdz": _usdz, ".png": _png,
    }  # fmt: skip
    suffix = path.suffix.lower()
    reader = readers.get(suffix, _mesh if suffix in CLOUDS else None)
    if reader is None:
        known = ", ".join(sorted({*readers, *CLOUDS}))
        raise InputError(f"{path}: inspect reads run folders and {known}")
    lines = reader(path) + _origin(origin_in(path) if suffix in TELLING else {})
    return [printable(line) for line in lines]


def _origin(origin: Json) -> list[str]:
    """What an asset tells of itself."""
    lines = [f"{key:<8} {origin[key]}" for key in ("prompt", "seed", "step", "version") if key in origin]
    models = origin.get("models")
    for each in models if isinstance(models, list) else []:
        if isinstance(each, dict):
            lines.append(f"model    {each.get('id')} ({each.get('licence')})")
    if "recipe" in origin:
        lines.append(f"recipe   {short(json.dumps(origin['recipe'], ensure_ascii=False), 380)}")
    return lines


def _gltf(path: Path) -> list[str]:
    data, glb = read_bytes(path, "mesh", MOST_FILE), path.suffix.lower() == ".glb"
    kind = "GLB" if glb else "glTF"
    try:
        document = check_glb(data) if glb else check_gltf(data)
        asset = document["asset"]
        lines = [f"{kind:<8} glTF {asset['version']} by {asset.get('generator', 'unknown')}"]
        if document.get("extensionsUsed"):
            lines.append(f"uses     {', '.join(map(str, document['extensionsUsed']))}")
        for mesh in document.get("meshes", []):
            lines += _parts(document, mesh)
        lines += _wears(document, data if glb else b"", path.parent)
        lines += _moves(document)
    except Refused as error:
        raise InputError(f"{path}: not a readable {kind} ({error})") from None
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error):
        raise InputError(
            f"{path}: not a readable {kind} (its JSON does not describe a mesh as glTF 2.0 does)"
        ) from None
    return lines


def _parts(document: Json, mesh: Json) -> list[str]:
    lines, accessors = [], document.get("accessors", [])
    for part in mesh["primitives"][:MOST_LINES]:
        vertices = accessors[part["attributes"]["POSITION"]]
        if SPLATS in part.get("extensions", {}):
            lines.append(f"splats   {mesh.get('name', '')}: {vertices['count']} Gaussians")
        else:
            count = accessors[part["indices"]]["count"] if "indices" in part else vertices["count"]
            many = {4: count // 3, 5: count - 2, 6: count - 2}.get(part.get("mode", 4))
            what = f"{many} triangles" if many is not None else "points or lines"
            lines.append(f"mesh     {mesh.get('name', '')}: {vertices['count']} vertices, {what}")
        lines.append(f"has      {', '.join(sorted(part['attributes']))}")
        if part.get("targets"):
            lines.append(f"morphs   {len(part['targets'])} targets")
        lines.append(f"bounds   {vertices.get('min')} to {vertices.get('max')}")
    return lines


def _wears(document: Json, data: bytes, folder: Path) -> list[str]:
    """Materials, and what their slots show: set of coordinates, size, kind."""
    lines = []
    for number, material in enumerate(document.get("materials", [])[:MOST_LINES]):
        mode = material.get("alphaMode", "OPAQUE").lower()
        sides = ", both sides" if material.get("doubleSided") else ""
        lines.append(f"material {material.get('name', number)}: {mode}{sides}")
        for slot, info in {**material, **material.get("pbrMetallicRoughness", {})}.items():
            if slot in ROLES:
                image = source_of(document, info["index"])
                shown = "another kind of picture" if image is None else _picture(document, data, folder, image)
                lines.append(f"texture  {ROLES[slot]}: {shown}, by TEXCOORD_{info.get('texCoord', 0)}")
    return lines


def _picture(document: Json, data: bytes, folder: Path, image: int) -> str:
    found = document["images"][image]
    if "uri" in found:
        if found["uri"].startswith("data:"):
            return "in the text"
        name = folder / found["uri"]
        missing = "" if name.is_file() else ", which is missing"
        return f"the file {found['uri']!r}{missing}"
    if not data:
        return "in its binary file"
    view = document["bufferViews"][found["bufferView"]]
    start = 28 + struct.unpack("<I", data[12:16])[0] + view.get("byteOffset", 0)
    return picture_size(data[start : start + view["byteLength"]])


def picture_size(data: bytes) -> str:
    """Width, height and format by the head of a picture, whose pixels stay packed."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        wide, high = struct.unpack(">II", data[16:24])
        return f"{wide} x {high} PNG"
    if data.startswith(b"\xff\xd8"):
        at = 2
        while at + 9 < len(data) and data[at] == 0xFF:
            if data[at + 1] in (0xC0, 0xC1, 0xC2):
                high, wide = struct.unpack(">HH", data[at + 5 : at + 9])
                return f"{wide} x {high} JPEG"
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if data[12:16] == b"VP8X":
            wide, high = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        elif data[12:16] == b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            wide, high = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        else:
            wide, high = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return f"{wide} x {high} WebP"
    return "no PNG, JPEG or WebP"


def _moves(document: Json) -> list[str]:
    lines = [f"skin     {skin.get('name', '')}: {len(skin['joints'])} joints" for skin in document.get("skins", [])]
    for animation in document.get("animations", [])[:MOST_LINES]:
        times = [document["accessors"][sampler["input"]] for sampler in animation["samplers"]]
        seconds = max((float(each["max"][0]) for each in times if each.get("max")), default=0.0)
        keys = max((each["count"] for each in times), default=0)
        paths = sorted({channel["target"]["path"] for channel in animation["channels"]})
        lines.append(
            f"motion   {animation.get('name', '')}: {seconds:g} s, {keys} keys, {len(animation['channels'])} channels "
            f"({', '.join(map(str, paths))})"
        )
    return lines


def _mesh(path: Path) -> list[str]:
    shape = read_shape(path, "mesh", CLOUDS)
    low, high = shape.vertices.aminmax(dim=0)
    bounds = f"bounds   {low.tolist()} to {high.tolist()}"
    if not len(shape.faces):
        return [f"cloud    {len(shape.vertices)} points", bounds]
    places, row = torch.unique(shape.vertices, dim=0, return_inverse=True)
    edges = row[shape.faces][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(-1).values
    uses = edges.unique(dim=0, return_counts=True)[1]
    solid = "watertight" if bool((uses == 2).all()) else "open"
    coloured = [] if shape.colours is None else ["has      colours"]
    count = f"mesh     {len(shape.vertices)} vertices ({len(places)} places), {len(shape.faces)} triangles, {solid}"
    return [count, *coloured, bounds]


def _materials(path: Path) -> list[str]:
    asset = read_asset(path, "mesh")
    mapped = int(asset.uv[asset.faces].isfinite().all(-1).all(-1).sum())
    lines = [*_mesh(path), f"has      texture coordinates at {mapped} of {len(asset.faces)} triangles"]
    for number, slot in enumerate(asset.facts["slots"][:MOST_LINES]):
        size = slot.get("base_size")
        shown = f"{size[0]} x {size[1]}, sRGB" if size else "one colour"
        lines.append(f"material {slot['name']}: {int((asset.slot == number).sum())} triangles, base colour: {shown}")
    return lines


def _ply(path: Path) -> list[str]:
    checked_size(path, "mesh", MOST_FILE)
    with path.open("rb") as handle:
        head = handle.read(MOST_HEADER)
    return _splats(path) if is_splats(head) else _mesh(path)


def _splats(path: Path) -> list[str]:
    cloud = read_splats(path)
    low, high = cloud.means.aminmax(dim=0)
    degree = round(cloud.harmonics.shape[1] ** 0.5) - 1
    return [
        f"splats   {len(cloud.means)} Gaussians, harmonics of degree {degree}",
        f"opacity  {float(cloud.opacity.mean()):.2f} on average",
        f"bounds   {low.tolist()} to {high.tolist()} (+Y up, front +Z)",
    ]


def _png(path: Path) -> list[str]:
    data = read_bytes(path, "picture", MOST_FILE)
    kinds = {0: "gray", 2: "colour", 3: "palette", 4: "gray with alpha", 6: "colour with alpha"}
    head = next(png_chunks(data), None) if data.startswith(b"\x89PNG\r\n\x1a\n") else None
    if head is None or head[0] != b"IHDR" or len(head[1]) != 13:
        raise InputError(f"{path}: not a readable PNG")
    wide, high, depth, kind = struct.unpack(">IIBB", head[1][:10])
    return [f"PNG      {wide} x {high}, {kinds.get(kind, 'unknown')}, {depth} bits a channel"]


def _usdz(path: Path) -> list[str]:
    data = read_bytes(path, "asset", MOST_FILE)
    try:
        entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path}: not a USDZ package ({' '.join(str(error).split())[:100]})") from None
    lines = [f"USDZ     {len(entries)} files, {len(data)} bytes"]
    for entry in entries[:MOST_LINES]:
        odd = "" if entry.compress_type == zipfile.ZIP_STORED else " (packed, which USDZ does not allow)"
        lines.append(f"file     {entry.filename}: {entry.file_size} bytes{odd}")
    if not find_spec("pxr"):
        return [*lines, f"note     what is in them {LACKING}"]
    try:
        return lines + _mesh(path)
    except InputError as error:  # a package may hold what is no mesh, and tell where it is from all the same
        return [*lines, f"note     {error}"]

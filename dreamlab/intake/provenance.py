# SPDX-License-Identifier: Apache-2.0
"""Where an asset says that it comes from, whatever its format; and the recipe in that, to be run again.

What stands in a file is data: it is read by the same typed reader as any recipe, and the files that it names are not
opened, wherever they would lie. Whoever has them gives them anew.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import yaml

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.foreign.headers import MOST_HEADER, Refused, glb_document, gltf_document
from dreamlab.core.foreign.mesh_parser import MOST_FILE
from dreamlab.core.settings import with_files
from dreamlab.core.text import short
from dreamlab.export.provenance import KEY
from dreamlab.recipe import dump, load
from dreamlab.recipe.tables import TABLES

TELLING = (".glb", ".gltf", ".png", ".ply", ".obj", ".usdz", ".usda")
MOST_TOLD = 1 << 20  # bytes of a provenance
_LACKING = "(lacking) "  # before the name of a file that is not in the asset


def origin_in(path: Path) -> Json:
    """What the asset tells of itself; nothing if that is nothing. InputError if it is not what it is called."""
    suffix = path.suffix.lower()
    if suffix not in TELLING:
        return {}
    data = read_bytes(path, "asset", MOST_FILE)
    try:
        if suffix in (".glb", ".gltf"):
            return _of_gltf(glb_document(data) if suffix == ".glb" else gltf_document(data))
        texts = {".png": _of_png, ".ply": _of_ply, ".obj": _of_obj, ".usdz": _of_usdz, ".usda": _of_usda}[suffix](data)
    except Refused as error:
        raise InputError(f"asset {path}: {error}") from None
    for text in texts:
        try:
            found = json.loads(text[:MOST_TOLD])
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def _of_gltf(document: Json) -> Json:
    asset = document.get("asset")
    extras = asset.get("extras") if isinstance(asset, dict) else None
    if not isinstance(extras, dict):
        return {}
    if isinstance(extras.get(KEY), dict):
        found: Json = extras[KEY]
        return found
    if "dreamlab_recipe" in extras:  # version 0.1
        return {"recipe": extras["dreamlab_recipe"]}
    return extras if isinstance(extras.get("recipe"), dict) else {}


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of every whole chunk (PNG 1.2, 3.2)."""
    at = 8
    while at + 12 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if at + 12 + size > len(data):
            return
        yield kind, data[at + 8 : at + 8 + size]
        at += 12 + size


def _of_png(data: bytes) -> Iterator[str]:
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise Refused("not a PNG file")
    for kind, content in png_chunks(data):
        key, _, rest = content.partition(b"\0")
        if key != KEY.encode() or kind not in (b"iTXt", b"tEXt"):
            continue
        if kind == b"tEXt":
            yield rest.decode("latin-1")
            continue
        packed, body = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        try:
            yield (zlib.decompressobj().decompress(body, MOST_TOLD) if packed else body).decode("utf-8", "replace")
        except zlib.error:
            continue


def _of_ply(data: bytes) -> Iterator[str]:
    head = data[:MOST_HEADER].partition(b"end_header")[0].decode("utf-8", "replace")
    for line in head.splitlines():
        found = re.match(rf"comment (?:{KEY}|origin:?) (\{{.*)", line)
        if found:
            yield found[1]


def _of_obj(data: bytes) -> Iterator[str]:
    for line in data[:MOST_TOLD].decode("utf-8", "replace").splitlines():
        if line.startswith(f"# {KEY} {{"):
            yield line.removeprefix(f"# {KEY} ")


def _of_usda(data: bytes) -> Iterator[str]:
    for found in re.finditer(rf'string {KEY} = ("(?:[^"\\]|\\.)*")', data[:MOST_TOLD].decode("utf-8", "replace")):
        try:
            yield json.loads(found[1])
        except ValueError:
            continue


def _of_usdz(data: bytes) -> Iterator[str]:
    import io

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist()[:64]:
                if entry.filename.endswith(".usda") and entry.compress_type == zipfile.ZIP_STORED:
                    with archive.open(entry) as handle:  # USDZ packs nothing, so it is no larger than the file
                        yield from _of_usda(handle.read(MOST_TOLD))
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        raise Refused(f"not a USDZ package ({' '.join(str(error).split())[:100]})") from None


def recalled(path: Path) -> str:
    """The recipe in an asset, as YAML; the names of files in it are marked, so that `lacking` finds them."""
    origin = origin_in(path)
    held = origin.get("recipe")
    if not isinstance(held, dict):
        says = (
            "tells nothing of how it was made" if path.suffix.lower() in TELLING else "is of a kind that tells nothing"
        )
        raise InputError(f"{path}: {says}; give a prompt instead, or the recipe by --recipe")
    try:
        text = yaml.safe_dump(held, sort_keys=False, allow_unicode=True, width=120)
    except (yaml.YAMLError, RecursionError):
        raise InputError(f"{path}: the recipe in it cannot be read") from None
    known = load(text, TABLES, name=f"the recipe in {path.name}")
    return dump(with_files(known, lambda _, name: _LACKING + name))


def lacking(text: str, overrides: list[str]) -> list[str]:
    """Files that a recalled recipe still names after what the command line gives."""
    names: list[str] = []

    def heard(_: str, name: str) -> str:
        names.append(name)
        return name

    with_files(load(text, TABLES, overrides=overrides), heard)
    return [short(name.removeprefix(_LACKING)) for name in dict.fromkeys(names) if name.startswith(_LACKING)]

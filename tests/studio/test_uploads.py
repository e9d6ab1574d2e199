# SPDX-License-Identifier: Apache-2.0
"""Uploads: judged by their own bytes (Pillow and trimesh make them), before anything decodes them; kept per owner under
their digest; gone after a while. Faults 32 to 36."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamlab.core.errors import InputError
from dreamlab.studio import uploads as module
from dreamlab.studio.answers import Refusal
from dreamlab.studio.sniff import sniff
from dreamlab.studio.uploads import LASTS_S, Upload, Uploads


def picture(kind: str, size: tuple[int, int] = (70, 41), mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 90).save(buffer, kind, **options)
    return buffer.getvalue()


def mesh(kind: str) -> bytes:
    made = trimesh.creation.icosphere(2)
    data = made.export(file_type=kind)
    return data.encode() if isinstance(data, str) else data


def put(store: Uploads, data: bytes, owner: str = "ann", name: str = "a") -> Upload:
    place = store.arriving()
    place.write_bytes(data)
    return store.take(owner, place, name)


def refusal(store: Uploads, data: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        put(store, data)
    assert "\n" not in caught.value.message and str(store.root) not in caught.value.message
    return caught.value


PICTURES = {
    "png": picture("PNG"),
    "gray": picture("PNG", mode="L"),
    "palette": picture("PNG", mode="P"),
    "jpeg": picture("JPEG"),
    "progressive": picture("JPEG", progressive=True, exif=b"Exif\0\0" + b"x" * 5000),
    "cmyk": picture("JPEG", mode="CMYK"),
    "webp": picture("WEBP"),
    "lossless": picture("WEBP", lossless=True),
    "alpha": picture("WEBP", mode="RGBA"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_s_size_is_read_off_its_head(name: str) -> None:
    """As Pillow says it is."""
    found = sniff(PICTURES[name], len(PICTURES[name]))
    assert found is not None and found.kind == "picture"
    assert (found.width, found.height) == Image.open(io.BytesIO(PICTURES[name])).size


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl", "stl_ascii"])
def test_meshes_are_known_by_their_bytes(kind: str) -> None:
    data = mesh(kind)
    found = sniff(data[:65536], len(data))
    assert found is not None and (found.kind, found.suffix) == ("mesh", f".{kind.partition('_')[0]}")


@pytest.mark.parametrize("name", ["png", "cmyk", "lossless"])
def test_pictures_are_kept_under_their_digest(tmp_path: Path, name: str) -> None:
    store, data = Uploads(tmp_path), PICTURES[name]
    made = put(store, data, name="../../etc/passwd\0\n.png")
    assert made.id == hashlib.sha256(data).hexdigest() and (made.kind, made.bytes) == ("picture", len(data))
    assert store.path("ann", made.id).read_bytes() == data and "\n" not in made.name
    assert store.finder("ann")(made.id) == store.path("ann", made.id)
    assert put(store, data) == made, "the same bytes are one file"
    assert {path.parent.parent for path in store.root.glob("*/*")} == {store.root}
    assert list((store.root / ".new").iterdir()) == []


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_a_mesh_s_facts_are_those_of_another_library(tmp_path: Path, kind: str) -> None:
    known = trimesh.creation.icosphere(2)
    facts = put(Uploads(tmp_path), mesh(kind)).facts
    assert facts["triangles"] == len(known.faces) and facts["watertight"] is True and facts["parts"] == 1
    assert np.allclose(facts["metres"], known.extents, atol=1e-3) and facts["uv"] is False


def test_a_mesh_with_a_hole_is_not_watertight(tmp_path: Path) -> None:
    holed = trimesh.creation.icosphere(2)
    holed.update_faces(np.arange(len(holed.faces)) > 3)
    assert put(Uploads(tmp_path), holed.export(file_type="ply")).facts["watertight"] is False


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(wide: int, high: int, packed: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def zipped(name: str, size: int = 10) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, b"0" * size)
    return buffer.getvalue()


def glb(document: bytes, data: bytes = b"") -> bytes:
    document += b" " * (-len(document) % 4)
    body = struct.pack("<I4s", len(document), b"JSON") + document
    if data:
        body += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


HUGE = b'{"asset":{"version":"2.0"},"accessors":[{"componentType":5126,"type":"VEC3","count":500000000}]}'
ABROAD = b'{"asset":{"version":"2.0"},"buffers":[{"uri":"../../../etc/passwd","byteLength":4}]}'
BAD = {
    "empty": (b"", 415),
    "text called a picture": (b"this is no picture", 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 415),
    "html": (b"<!doctype html><script>alert(1)</script>", 415),
    "gif": (b"GIF89a" + bytes(50), 415),
    "cut off": (PICTURES["png"][:60], 415),
    "cut off head": (PICTURES["jpeg"][:8], 415),
    "bomb": (png_of(20_000, 20_000), 413),
    "wide": (png_of(30_000, 20), 413),
    "more than 25 megapixels": (png_of(6000, 5000), 413),
    "one pixel": (picture("PNG", (1, 1)), 415),
    "sixteen bits": (picture("PNG", mode="I;16"), 415),
    "zip": (zipped("../../evil.png"), 415),
    "zip bomb": (zipped("a", 30 << 20), 415),
    "a mesh of 6 GB of zeros": (glb(HUGE), 415),
    "a mesh that reads elsewhere": (glb(ABROAD), 415),
    "a cut off mesh": (mesh("glb")[:300], 415),
    "a PLY of 2^31 points": (b"ply\nformat ascii 1.0\nelement vertex 2147483648\nproperty float x\nend_header\n", 415),
    "not a number": (b"v nan nan nan\nv 0 1 0\nv 1 0 0\nf 1 2 3\n", 415),
    "no triangles": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", 415),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_or_too_much_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, status = BAD[name]
    store = Uploads(tmp_path)
    assert refusal(store, data).status == status
    assert not store.folder("ann").exists() or list(store.folder("ann").iterdir()) == []
    assert list((store.root / ".new").iterdir()) == []


def test_pixels_are_counted_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_apart", lambda found, path: pytest.fail("it was decoded"))
    assert refusal(Uploads(tmp_path), png_of(20_000, 20_000, zlib.compress(bytes(100)))).status == 413


def test_an_upload_is_its_owner_s_alone(tmp_path: Path) -> None:
    """Who knows the bytes knows the id; that is no key to another's file."""
    store = Uploads(tmp_path)
    made = put(store, PICTURES["png"], "ann")
    for identity in (made.id, "0" * 64, "../" + made.id, made.id.upper(), ""):
        with pytest.raises(Refusal) as caught:
            store.path("bob", identity)
        assert caught.value.status == 404
    with pytest.raises(InputError, match="send it again"):
        store.finder("bob")(made.id)


def test_what_nobody_uses_goes_and_what_is_used_stays(tmp_path: Path) -> None:
    store = Uploads(tmp_path)
    old, used = put(store, PICTURES["png"]), put(store, PICTURES["jpeg"])
    ago = store.path("ann", used.id).stat().st_mtime
    for each in (old, used):
        os.utime(store.folder("ann") / f"{each.id}{each.suffix}", (ago - LASTS_S - 9, ago - LASTS_S - 9))
    store.path("ann", used.id)
    assert store.sweep(ago + 5) == 1 and store.get("ann", used.id) == used
    assert [path for path in store.root.rglob("*") if old.id in path.name] == []


def test_an_owner_has_so_much_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 1)
    store = Uploads(tmp_path)
    put(store, PICTURES["png"])
    said = refusal(store, PICTURES["jpeg"])
    assert said.status == 429 and "Retry-After" in said.headers
    assert put(store, PICTURES["jpeg"], "bob").kind == "picture"

# SPDX-License-Identifier: Apache-2.0
"""Assets with materials that were damaged, or made to harm: one line and an exit code, soon; nothing outside their
folder is read, nothing that they promise is allocated."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.asset import read_asset
from dreamlab.core.foreign.asset_parser import parse
from dreamlab.core.foreign.headers import Refused
from tests.conftest import Commands
from tests.hostile.test_meshes import BODIES, HEADS, glb, in_one_line, put
from tests.hostile.test_pictures import bomb, png
from tests.intake.awkward import AWKWARD, Writer

Document = dict[str, Any]


def changed(name: str, change: Callable[[Document], None]) -> bytes:
    """One of the awkward meshes, its document changed before it is packed."""
    made: Writer = AWKWARD[name]()
    change(made.document)
    return made.bytes()


def as_text(change: Callable[[Document], None], binary: str = "bytes.bin") -> bytes:
    """A .gltf whose buffer is a file beside it."""
    made = AWKWARD["mirrored"]()
    made.bytes()
    made.document["buffers"][0]["uri"] = binary
    change(made.document)
    return json.dumps(made.document).encode()


def sparse(**values: Any) -> Callable[[Document], None]:
    part = {"count": 2, "indices": {"bufferView": 0, "componentType": 5125}, "values": {"bufferView": 0}}
    return put("accessors", 0, sparse=part | values)


def pictured(data: bytes, form: str) -> bytes:
    """A mesh whose texture is `data`."""
    made = AWKWARD["mirrored"]()
    view = made.view(data, None)
    made.document["images"][0] = {"bufferView": view, "mimeType": form}
    return made.bytes()


def unlinked(document: Document) -> None:
    document["nodes"][0]["children"] = [0]


def skinned(document: Document) -> None:
    document["skins"][0]["joints"] = [0]


VAST_WEBP = b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0/\xff\xff\xff\x0f\0\0\0\0\0\0\0\0\0\0\0\0\0"  # 16384 x 16384 by its head
OUTSIDE = ("../../etc/passwd", "..\\secret.bin", "%2e%2e/secret.bin", "a/%2E%2e/../secret.bin", "/etc/passwd",
           "file:///etc/passwd", "http://127.0.0.1:9/a.bin", "C:\\secret.bin", "\\\\host\\a.bin")  # fmt: skip
FILES: dict[str, tuple[bytes, str]] = {
    "sparse_many.glb": (glb(sparse(count=9)), "replaces 9 of 8 values"),
    "sparse_bomb.glb": (glb(sparse(count=2**31)), "replaces 2147483648 of 8 values"),
    "sparse_far.glb": (glb(sparse(indices={"bufferView": 1, "componentType": 5125, "byteOffset": 140})), "s 148 bytes"),
    "sparse_view.glb": (glb(sparse(values={"bufferView": 7})), "glTF 2.0"),
    "sparse_row.glb": (glb(sparse(indices={"bufferView": 0, "componentType": 5125}, count=8)), "replaces value"),
    "empty.glb": (glb(lambda d: d["accessors"].append({"componentType": 5126, "type": "MAT4", "count": 2**21})),
                  "bytes of zeros"),
    "mesh.glb": (glb(put("nodes", 0, mesh=4)), "glTF 2.0"),
    "image.glb": (changed("mirrored", put("images", 0, bufferView=99)), "its image 0 names bytes that are not there"),
    "texture.glb": (changed("mirrored", put("textures", 0, source=5)), "glTF 2.0"),
    "ring.glb": (changed("mirrored", unlinked), "not a tree"),
    "joints.glb": (changed("rigged", skinned), "hangs on joint 1, and its skin has 1"),
    "vast.glb": (pictured(png(20_000, 20_000), "image/png"), "too many pixels"),
    "long.glb": (pictured(png(9000, 9000), "image/png"), "9000 x 9000 pixels"),
    "webp.glb": (pictured(VAST_WEBP, "image/webp"), "its image 0"),
    "text.glb": (pictured(b"<svg/>", "image/png"), "no PNG, JPEG or WebP"),
    "cut.glb": (pictured(png(64, 64, b"\0\0"), "image/png"), "its image 0"),
    "meshopt.glb": (glb(lambda d: d.update(extensionsRequired=["EXT_meshopt_compression"])), "npx gltfpack -i IN.glb"),
    "draco.glb": (glb(lambda d: d.update(extensionsRequired=["KHR_draco_mesh_compression"])), "npx @gltf-transform"),
    "deep.gltf": (b'{"extras": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "list.gltf": (b"[]", "its JSON is not an object"),
    "missing.gltf": (as_text(lambda d: None, "none.bin"), "'none.bin' is not beside it"),
    "short.gltf": (as_text(lambda d: None, "short.bin"), "cut off"),
    "base64.gltf": (as_text(lambda d: None, "data:;base64," + "@" * 30_000), "no base64"),
    "promise.gltf": (as_text(put("buffers", 0, byteLength=2**31)), "promise 2147483648 bytes"),
    "pipe.gltf": (as_text(lambda d: None, "pipe.bin"), "pipe.bin: is a pipe"),
    "linked.gltf": (as_text(lambda d: None, "linked.bin"), "is not beside it"),
    "indices.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/9 2 3\n", "names 9 of 0"),
    "words.obj": (b"v one two three\nf 1 2 3\n", "cannot be read as a .obj file"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FILES, *(each for each in HEADS | BODIES if not each.endswith("nothing.obj"))])
def test_what_is_damaged_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    data, words = (HEADS | BODIES | FILES)[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "short.bin").write_bytes(b"\0" * 64)
    os.mkfifo(tmp_path / "pipe.bin")
    (tmp_path / "linked.bin").symlink_to("/etc/hostname")
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        parse(tmp_path / name)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 400 and time.monotonic() - began < 20
    assert name in HEADS | BODIES or words in said, said


@pytest.mark.parametrize("place", ["buffers", "images"])
@pytest.mark.parametrize("uri", OUTSIDE)
def test_nothing_outside_the_folder_is_read(uri: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 100_000)
    inner = tmp_path / "inner"
    inner.mkdir()
    change = put("buffers", 0, uri=uri) if place == "buffers" else lambda d: d.update(images=[{"uri": uri}])
    (inner / "a.gltf").write_bytes(as_text(change))
    with pytest.raises(Refused, match="is not beside it"):
        parse(inner / "a.gltf")
    data = glb(put("buffers", 0, uri=uri)) if place == "buffers" else glb(lambda d: d.update(images=[{"uri": uri}]))
    (inner / "a.glb").write_bytes(data)
    with pytest.raises(Refused, match="is another file"):
        parse(inner / "a.glb")


def test_points_that_are_none_are_refused(tmp_path: Path) -> None:
    made = AWKWARD["mirrored"]()
    places = np.frombuffer(made.binary[: 325 * 12], "<f4").copy()
    start = made.document["bufferViews"][made.document["accessors"][0]["bufferView"]]["byteOffset"]
    places[7] = np.nan
    made.binary = made.binary[:start] + places.tobytes() + made.binary[start + len(places) * 4 :]
    (tmp_path / "nan.glb").write_bytes(made.bytes())
    with pytest.raises(Refused, match=r"is not finite"):
        parse(tmp_path / "nan.glb")


def test_a_large_black_texture_is_made_small_in_the_child(tmp_path: Path) -> None:
    """8000 x 8000 pixels in 190 kB come back as 1000 x 1000."""
    (tmp_path / "black.glb").write_bytes(pictured(png(8000, 8000, bomb(8000)), "image/png"))
    found = read_asset(tmp_path / "black.glb", "mesh")
    assert found.pictures["base.0"].shape == (1000, 1000, 4) or max(found.pictures["base.0"].shape[:2]) <= 1024
    assert found.facts["slots"][0]["base_size"] == [8000, 8000]


@pytest.mark.parametrize("name", ["sparse_bomb.glb", "deep.gltf", "pipe.gltf"])
def test_everybody_says_the_same(name: str, tmp_path: Path) -> None:
    data, words = FILES[name]
    (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.bin")
    in_one_line(lambda: read_asset(tmp_path / name, "mesh"), name, words)
    with (tmp_path / "two.glb").open("wb") as handle:
        handle.truncate(2 << 30)
    with pytest.raises(InputError, match="2147483648 bytes; at most"):
        read_asset(tmp_path / "two.glb", "mesh")


@pytest.mark.parametrize("name", ["sparse_bomb.glb", "deep.gltf", "promise.gltf", "indices.obj"])
@pytest.mark.parametrize("command", ["texture", "inspect"])
def test_commands_end_with_one_line(command: str, name: str, dreamlab: Commands, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name][0])
    ended = dreamlab(command, name, *(["a red duck"] if command == "texture" else []))
    assert ended.code == 3 and ended.err.count("\n") == 1 and ended.err.startswith("error: "), ended.err
    assert FILES[name][1] in ended.err and "(a defect" not in ended.err
    assert not (tmp_path / "runs").exists()

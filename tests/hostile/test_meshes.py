# SPDX-License-Identifier: Apache-2.0
"""Meshes that were damaged, or made to harm: one line, soon, whoever reads them; and what is well stays readable."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamlab.cli.inspection import describe
from dreamlab.core.errors import InputError
from dreamlab.core.foreign.apart import MEMORY, parsed
from dreamlab.core.foreign.headers import Refused, check_header
from dreamlab.core.foreign.mesh_parser import parse
from renderers.gaussian.seeds import from_file
from renderers.surface.files import read_mesh

ROOT = Path(__file__).parents[2]
CUBE = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
SIDES = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4)]
SIDES += [(1, 5, 7), (1, 7, 3)]


def glb(change: Callable[[dict[str, Any]], None] = lambda document: None, scale: float = 1.0) -> bytes:
    """A cube as a GLB, its document changed before it is packed."""
    places = (np.array(CUBE, "<f4") * np.float32(scale)).tobytes()
    corners = np.array(SIDES, "<u4").tobytes()
    document: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 8},
            {"bufferView": 1, "componentType": 5125, "type": "SCALAR", "count": len(SIDES) * 3},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(places)},
            {"buffer": 0, "byteOffset": len(places), "byteLength": len(corners)},
        ],
        "buffers": [{"byteLength": len(places + corners)}],
    }
    change(document)
    return packed(json.dumps(document).encode(), places + corners)


def packed(text: bytes, binary: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    total = 28 + len(text) + len(binary)
    head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


def obj(scale: str = "", extra: str = "") -> bytes:
    lines = [f"v {x}{scale} {y}{scale} {z}{scale}" for x, y, z in CUBE]
    return "\n".join([extra, *lines, *(f"f {a + 1} {b + 1} {c + 1}" for a, b, c in SIDES), ""]).encode()


def ply(vertices: object, faces: object, body: bytes) -> bytes:
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {vertices}\n"
    head += "property float x\nproperty float y\nproperty float z\n"
    head += f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    return head.encode() + body


def cube_ply(last: int = 7) -> bytes:
    corners = [*SIDES[:-1], (1, last, 3)]
    rows = b"".join(struct.pack("<B3i", 3, *row) for row in corners)
    return ply(8, len(corners), np.array(CUBE, "<f4").tobytes() + rows)


def put(key: str, index: int, **values: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: document[key][index].update(values)


def copies(document: dict[str, Any]) -> None:
    document["nodes"] = [{"mesh": 0, "translation": [i, 0, 0]} for i in range(200_000)]
    document["scenes"][0]["nodes"] = list(range(200_000))


def ring(document: dict[str, Any]) -> None:
    document["nodes"] = [{"mesh": 0}, {"children": [2]}, {"children": [1]}]


DEEP = packed(b'{"asset": {"version": "2.0"}, "extras": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", b"")
HEADS: dict[str, tuple[bytes, str]] = {
    "promises.glb": (glb(put("accessors", 0, bufferView=None, count=500_000_000)), "accessor 0"),
    "zeros.glb": (glb(lambda d: d["accessors"].append({"componentType": 5126, "type": "VEC3", "count": 5 * 10**8})),
                  "promise 6000000"),
    "short.glb": (glb(put("accessors", 0, count=9)), "promises 108 bytes, its part of the file has 96"),
    "stride.glb": (glb(put("bufferViews", 0, byteStride=24)), "promises 180 bytes"),
    "view.glb": (glb(put("bufferViews", 1, byteOffset=97)), "ends beyond its buffer"),
    "buffer.glb": (glb(put("buffers", 0, byteLength=10**12)), "promise 1000000000000 bytes"),
    "negative.glb": (glb(put("accessors", 0, byteOffset=-4)), "byteOffset -4"),
    "fraction.glb": (glb(put("accessors", 0, count=1e30)), "count 1e+30"),
    "outside.glb": (glb(put("buffers", 0, uri="../../etc/passwd")), "save it as one .glb"),
    "draco.glb": (glb(lambda d: d.update(extensionsRequired=["KHR_draco_mesh_compression"])), "packed with Draco"),
    "copies.glb": (glb(copies), "places 200000 parts"),
    "ring.glb": (glb(ring), "not a tree"),
    "self.glb": (glb(put("nodes", 0, children=[-1])), "names a child that is not there"),
    "digits.glb": (glb(put("accessors", 0, count=10**4000)), "has the count 1000000"),
    "deep.glb": (DEEP, "nested too deeply"),
    "list.glb": (glb(lambda d: d.update(accessors=3)), "glTF 2.0"),
    "cut.glb": (glb()[:300], "not a whole GLB"),
    "many.ply": (ply(2**31, 0, b"\0" * 96), "promises 25769803776 bytes"),
    "count.ply": (ply("1e99", 0, b""), "'1e99' of 'vertex'"),
    "cut.ply": (cube_ply()[:200], "cut off or damaged"),
    "empty.ply": (b"", "not a PLY file"),
}  # fmt: skip
BODIES: dict[str, tuple[bytes, str]] = {
    "indices.glb": (glb(put("accessors", 1, bufferView=0, count=24)), "names corner"),
    "huge.glb": (glb(scale=1e30), "at most 1e+06"),
    "tiny.glb": (glb(scale=1e-30), "at least 1e-06"),
    "huge.obj": (obj("e30"), "at most 1e+06"),
    "tiny.obj": (obj("e-30"), "at least 1e-06"),
    "nan.obj": (obj().replace(b"v 1 1 1", b"v 1 nan 1"), "not finite"),
    "far.obj": (obj().replace(b"v 1 ", b"v 900001 ").replace(b"v 0 ", b"v 900000 "), "move it"),
    "indices.obj": (obj() + b"f 1 2 99\n", "damaged"),
    "words.obj": (b"v one two three\nf 1 2 3\n", "cannot be read as a .obj file"),
    "indices.ply": (cube_ply(99), "names corner 99, and there are 8"),
    "minus.ply": (cube_ply(-3), "names corner"),
    "nothing.obj": (b"# nothing\n", "neither triangles nor points"),
}


def in_one_line(read: Callable[[], object], name: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        read()
    said = str(caught.value)
    assert words in said and name in said and "\n" not in said and len(said) < 400, said
    assert "Traceback" not in said and time.monotonic() - began < 30


@pytest.mark.parametrize("name", HEADS)
def test_what_a_header_promises_is_checked_before_parsing(name: str) -> None:
    data, words = HEADS[name]
    with pytest.raises(Refused) as caught:
        check_header(Path(name), data)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BODIES)
def test_what_a_parser_found_is_checked(name: str, tmp_path: Path) -> None:
    data, words = BODIES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Refused) as caught:
        parse(tmp_path / name)
    assert words in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["zeros.glb", "deep.glb", "many.ply", "indices.ply"])
def test_bad_meshes_are_one_line_for_everybody(name: str, tmp_path: Path) -> None:
    data, words = (HEADS | BODIES)[name]
    (tmp_path / name).write_bytes(data)
    in_one_line(lambda: read_mesh(str(tmp_path / name)), name, words)
    in_one_line(lambda: describe(tmp_path / name), name, words)
    in_one_line(lambda: from_file(str(tmp_path / name), 10, torch.Generator()), name, words)


def test_bad_clouds_are_one_line(tmp_path: Path) -> None:
    points = np.array(CUBE, "<f4")
    points[5, 1] = np.nan
    (tmp_path / "nan.ply").write_bytes(ply(8, 0, points.tobytes()))
    (tmp_path / "one.xyz").write_text("1 2 3\n1 2 3\n")
    for name, words in (("nan.ply", "its point 5 is not finite"), ("one.xyz", "in one place")):
        in_one_line(lambda name=name: from_file(str(tmp_path / name), 4, torch.Generator()), name, words)


@pytest.mark.parametrize("read", [lambda path: read_mesh(str(path)), describe], ids=["scene", "inspect"])
def test_pipes_and_devices_are_not_waited_for(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cube.mtl")
    (tmp_path / "cube.obj").write_bytes(obj(extra="mtllib cube.mtl"))
    in_one_line(lambda: read(tmp_path / "cube.obj"), "cube.obj", "cube.mtl: is a pipe")
    for name, place in (("zero.ply", "/dev/zero"), ("pipe.obj", None), ("folder.obj", tmp_path)):
        os.mkfifo(tmp_path / name) if place is None else (tmp_path / name).symlink_to(place)
        if name != "folder.obj" or read is not describe:  # inspect takes a folder for a run
            in_one_line(lambda name=name: read(tmp_path / name), name, "give a regular file")
    with (tmp_path / "large.ply").open("wb") as handle:
        handle.truncate(11 << 30)
    in_one_line(lambda: read(tmp_path / "large.ply"), "large.ply", "at most")


def test_a_promise_is_not_allocated(tmp_path: Path) -> None:
    """The parser's process of a 1 kB file that promises 6 GB: its peak memory stays below 500 MB."""
    (tmp_path / "zeros.glb").write_bytes(HEADS["zeros.glb"][0])
    code = f"""
import resource
from pathlib import Path
from dreamlab.core.foreign.apart import parsed
try:
    parsed("mesh", Path({str(tmp_path / "zeros.glb")!r}), "mesh")
except Exception as error:
    print(type(error).__name__, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    name, peak = done.stdout.split()
    assert name == "InputError" and int(peak) < 500_000


def test_the_parser_has_bounded_time_and_memory(tmp_path: Path) -> None:
    (tmp_path / "cube.obj").write_bytes(obj())
    with pytest.raises(InputError, match=r"cube.obj: not read after 0 s"):
        parsed("mesh", tmp_path / "cube.obj", "mesh", seconds=0.01)
    code = "from dreamlab.core.foreign.child import bound\nbound()\nbytearray({})"
    for size, ends in ((MEMORY // 4, 0), (MEMORY + 1, 1)):
        command = [sys.executable, "-c", code.format(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == ends and ("MemoryError" in done.stderr) == bool(ends)


def test_a_material_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    """A mesh goes on without it, as without one that is missing."""
    os.mkfifo(tmp_path / "cube.mtl")
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "cube.obj").write_bytes(obj(extra="mtllib ../cube.mtl"))
    assert len(read_mesh(str(folder / "cube.obj")).faces) == 12


def test_inspect_hands_nothing_to_the_terminal_but_text(tmp_path: Path) -> None:
    """A name that would clear the screen, and one of a million letters."""
    for name in ("\x1b[2J\x1b[H\nerror: none", "x" * 1_000_000):
        (tmp_path / "a.glb").write_bytes(glb(put("meshes", 0, name=name)))
        told = describe(tmp_path / "a.glb")
        assert all(line.isprintable() and len(line) <= 400 for line in told) and len(told) == 4


@pytest.mark.parametrize(("name", "data"), [("a.glb", glb()), ("a.obj", obj()), ("a.ply", cube_ply())])
def test_a_good_cube_is_read_whole(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    found = read_mesh(str(tmp_path / name), radius=None)
    assert len(found.faces) == 12
    torch.testing.assert_close(found.vertices, torch.tensor(sorted(CUBE)).float())
    assert any("12 triangles" in line for line in describe(tmp_path / name))

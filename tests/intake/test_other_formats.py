# SPDX-License-Identifier: Apache-2.0
"""Texture only in formats other than GLB: glTF with files, OBJ with and without texture coordinates, PLY and STL."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.asset import read_asset
from dreamlab.intake.painting import MAPS, copy_out, painted, taken, target
from renderers.surface.canvas import OwnCanvas
from renderers.surface.stretch import canvas_of
from tests.intake.awkward import AWKWARD, ball
from tests.intake.judges import Seen, issues, sampled
from tests.intake.test_texture_only import ORIGIN, colour, in_the_ball, inside, paint


def given_back(path: Path, folder: Path, fresh: bool = False) -> tuple[Path, OwnCanvas]:
    """The painted file in a folder, with what it names."""
    asset = read_asset(path, "mesh")
    canvas = canvas_of(asset, path.name, fresh)
    files = painted(taken(path), canvas, paint(canvas), ORIGIN, "painted", MAPS, asset)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(data)
    return folder / next(iter(files)), canvas


def obj_text(coordinates: bool, materials: bool = True) -> str:
    """Two balls of quads and a pentagon; odd spacing, comments and a line that goes on, all of which must stay."""
    lines = ["# of somebody", "mtllib  old stuff.mtl", "o thing"]
    first = 1
    for k, name in enumerate(("upper", "lower part")):
        places, _, others = ball(6, 10, at=(0, 1.2 - 2.4 * k, 0))
        lines += [f"v  {x:.6f} {y:.6f}   {z:.6f}" for x, y, z in places]
        lines += [f"vt {u:.6f} {1 - v:.6f} 0" for u, v in others["TEXCOORD_0"]] if coordinates else []
        lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in others["NORMAL"]]
        lines += [f"usemtl {name}", f"g {name}", "s 1"] if materials else []
        for i in range(6):
            for j in range(10):
                ring = [first + i * 11 + j + d for d in (0, 11, 12, 1)]
                words = [f"{a}/{a}/{a}" if coordinates else f"{a}//{a}" for a in ring]
                lines.append("f " + " ".join(words[:2]) + (" \\\n " if (i, j) == (2, 3) else " ") + " ".join(words[2:]))
        first += 77
    return "\r\n".join(lines) + "\r\n"


def folder_with_obj(folder: Path, coordinates: bool, materials: bool = True) -> Path:
    Image.new("RGB", (40, 20), (90, 30, 30)).save(folder / "u.png")
    (folder / "bump.png").write_bytes((folder / "u.png").read_bytes())
    (folder / "old stuff.mtl").write_text("newmtl upper\nKd 0.5 0.5 0.5\nmap_Kd u.png\nbump bump.png\nNs 20\n"
                                          "newmtl lower part\nKd 0 0 1\nnewmtl unused\nKd 1 0 0\n")  # fmt: skip
    (folder / "thing.obj").write_bytes(obj_text(coordinates, materials).encode())
    return folder / "thing.obj"


def statements(data: bytes, *words: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line.split() and line.split()[0] in words]


def test_lines_of_an_obj_stay(tmp_path: Path) -> None:
    """All but the line that names the material file; materials keep what is not painted, pictures that they still name
    come along."""
    path = folder_with_obj(tmp_path, coordinates=True)
    made, _ = given_back(path, tmp_path / "out")
    before, after = path.read_bytes(), made.read_bytes()
    assert after.replace(b"mtllib painted.mtl\r\n", b"") == before.replace(b"mtllib  old stuff.mtl\r\n", b"")
    library = (tmp_path / "out" / "painted.mtl").read_text()
    upper, lower = library.split("newmtl lower part")
    assert "map_Kd painted_upper_base.png" in upper and "bump bump.png" in upper and "Ns 20" in upper
    assert "u.png" not in library and "newmtl unused\nKd 1 0 0" in lower and "Kd 0 0 1" not in lower
    assert (tmp_path / "out" / "bump.png").read_bytes() == (tmp_path / "bump.png").read_bytes()
    assert Image.open(tmp_path / "out" / "painted_upper_base.png").size == (40, 20)


@pytest.mark.parametrize("coordinates", [True, False], ids=["own", "none"])
def test_an_obj_shows_what_was_painted(coordinates: bool, tmp_path: Path) -> None:
    """Read by trimesh, material by material."""
    path = folder_with_obj(tmp_path, coordinates)
    made, canvas = given_back(path, tmp_path / "out")
    if not coordinates:
        for words in ((b"v",), (b"vn",), (b"usemtl", b"g", b"s", b"o")):
            assert statements(made.read_bytes(), *words) == statements(path.read_bytes(), *words)
    scene = trimesh.load(made, process=False)
    assert len(scene.geometry) == 2 and sum(len(each.faces) for each in scene.geometry.values()) == 240
    for mesh in scene.geometry.values():
        places = in_the_ball(canvas, inside(mesh.vertices[mesh.faces]))
        uv = inside(mesh.visual.uv[mesh.faces]) * [1, -1] + [0, 1]
        error = np.abs(sampled(mesh.visual.material.image, uv)[:, :3] - colour(places)).max(1)
        assert np.quantile(error, 0.95) < 0.08, np.quantile(error, [0.5, 0.9, 0.95])


def test_an_obj_without_materials_gets_one(tmp_path: Path) -> None:
    path = folder_with_obj(tmp_path, coordinates=True, materials=False)
    made, _ = given_back(path, tmp_path / "out")
    after = made.read_bytes()
    assert after.count(b"usemtl default\r\n") == 1 and b"newmtl default" in (tmp_path / "out/painted.mtl").read_bytes()
    assert statements(after, b"v", b"vt", b"vn", b"f") == statements(path.read_bytes(), b"v", b"vt", b"vn", b"f")


def as_gltf(folder: Path, name: str, inline: bool = False) -> Path:
    """A GLB of the tests as .gltf with its bytes beside it, or in it."""
    import json

    made = AWKWARD[name]()
    made.bytes()
    made.document["buffers"][0]["uri"] = "the%20bytes.bin"
    (folder / "the bytes.bin").write_bytes(made.binary)
    if inline:
        made.document["buffers"][0]["uri"] = (
            "data:application/octet-stream;base64," + base64.b64encode(made.binary).decode()
        )
    (folder / f"{name}.gltf").write_text(json.dumps(made.document))
    return folder / f"{name}.gltf"


@pytest.mark.node
@pytest.mark.parametrize(("name", "fresh"), [("materials", False), ("without", False), ("rigged", True)])
def test_gltf_with_files(name: str, fresh: bool, tmp_path: Path) -> None:
    path = as_gltf(tmp_path, name)
    made, canvas = given_back(path, tmp_path / "out", fresh)
    assert (tmp_path / "out" / "the bytes.bin").read_bytes() == (tmp_path / "the bytes.bin").read_bytes()
    now, was = Seen(made), Seen(path)
    if name == "materials":
        assert now.document["meshes"] == was.document["meshes"] and now.document["buffers"] == was.document["buffers"]
    for sheet in now.sheets():
        base = now.picture(sheet.material["pbrMetallicRoughness"]["baseColorTexture"]["index"])
        middle = in_the_ball(canvas, inside(sheet.places))
        assert np.quantile(np.abs(sampled(base, inside(sheet.uv))[:, :3] - colour(middle)).max(1), 0.95) < 0.06
    assert not issues(made)


def test_bytes_in_a_data_uri_stay_there(tmp_path: Path) -> None:
    path = as_gltf(tmp_path, "mirrored", inline=True)
    (tmp_path / "the bytes.bin").unlink()
    made, _ = given_back(path, tmp_path / "out")
    assert Seen(made).document["buffers"] == Seen(path).document["buffers"]


@pytest.mark.node
@pytest.mark.parametrize("kind", ["ply", "stl"])
def test_formats_without_materials_become_glb(kind: str, tmp_path: Path) -> None:
    """Of the same triangles, in the same order and place."""
    made = trimesh.creation.icosphere(subdivisions=2, radius=300.0)
    made.apply_translation([1000.0, 20.0, -50.0])
    made.export(tmp_path / f"thing.{kind}")
    back, canvas = given_back(tmp_path / f"thing.{kind}", tmp_path / "out")
    assert back.name == "painted.glb" and not issues(back)
    (sheet,) = (seen := Seen(back)).sheets()
    np.testing.assert_array_equal(sheet.places.astype("<f4"), made.triangles.astype("<f4"))
    base = seen.picture(sheet.material["pbrMetallicRoughness"]["baseColorTexture"]["index"])
    error = np.abs(sampled(base, inside(sheet.uv))[:, :3] - colour(in_the_ball(canvas, inside(sheet.places)))).max(1)
    assert np.quantile(error, 0.97) < 0.06
    assert any("get texture coordinates" in line for line in canvas.facts["lines"])


def test_nothing_of_the_users_is_written_over(tmp_path: Path) -> None:
    path = as_gltf(tmp_path, "mirrored")
    for output, words in ((path, "is the file itself"), (tmp_path / "a.glb", "name it a.gltf"),
                          (tmp_path / "no" / "a.gltf", "there is no folder")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            target(taken(path), path, output)
    made, _ = given_back(path, tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    (other / "the bytes.bin").write_bytes(b"something else")
    with pytest.raises(InputError, match="is another file of that name"):
        copy_out(sorted((tmp_path / "out").iterdir(), key=lambda each: each != made), other / "painted.gltf")
    assert sorted(each.name for each in other.iterdir()) == ["the bytes.bin"]


def test_up_is_where_it_is_said_to_be(tmp_path: Path) -> None:
    """A file whose Z points up stands upright on the canvas; a cone's tip is at +Y."""
    trimesh.creation.cone(radius=1, height=4).export(tmp_path / "cone.stl")
    asset = read_asset(tmp_path / "cone.stl", "mesh")
    for up, axis in (("z", 1), ("y", 2)):
        vertices = canvas_of(asset, "cone", up=up).mesh.vertices
        spread = (vertices - vertices.mean(0)).abs().amax(0)
        assert int(spread.argmax()) == axis and bool((vertices[vertices[:, axis].argmax()].abs() < 0.01).sum() >= 2)


def test_a_glb_whose_bytes_are_elsewhere(tmp_path: Path) -> None:
    """Buffer 0 is a data URI, so that the binary part cannot take what is new: it goes into another."""
    import json

    made = AWKWARD["mirrored"]()
    made.bytes()
    made.document["buffers"][0]["uri"] = (
        "data:application/octet-stream;base64," + base64.b64encode(made.binary).decode()
    )
    text = json.dumps(made.document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(text)) + struct.pack("<I4s", len(text), b"JSON")
    (tmp_path / "a.glb").write_bytes(head + text)
    back, _ = given_back(tmp_path / "a.glb", tmp_path / "out")
    document = Seen(back).document
    assert document["buffers"][0] == made.document["buffers"][0] and len(document["buffers"]) == 3
    assert len(trimesh.load(back, process=False).geometry) == 1

# SPDX-License-Identifier: Apache-2.0
"""Every format as Blender opens it with the importer's own settings: how many objects, how large, which way up, which
picture in which slot, and what moves. Blender stands on the plane of X and Y: its point is (x, -z, y) of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from dreamlab.cli.doctor import programs
from dreamlab.core.errors import InputError
from dreamlab.core.formats import MISSING
from dreamlab.core.safemath import linear_to_srgb
from dreamlab.core.types import Mesh, Textures
from dreamlab.export.formats import WRITERS
from dreamlab.export.presets import files_of
from dreamlab.export.product import Product
from dreamlab.export.rig import track_of
from dreamlab.export.writers import blender
from tests.export.judges import Look, blender_looks, bpy_python
from tests.export.test_glb import ball, textured
from tests.export.test_rig import some_skin

ORIGIN = {"dreamlab_recipe": {"prompt": 'a 🦆 named "x" \\ y' * 100, "seed": 3}}
PLAIN = ("glb", "gltf", "obj", "ply", "stl", "usdz")
CASES = (
    *(("textured", kind) for kind in (*PLAIN, "obj for blender", "fbx", "blend")),
    *(("coloured", kind) for kind in (*PLAIN, "fbx")),
    *((case, kind) for case in ("moving", "changing") for kind in ("glb", "usdz", "fbx", "abc")),
)


def lopsided(mesh: Mesh) -> Mesh:
    """No turn and no mirror puts it onto itself: a high head, a long nose, one wide side; 1.7 m high."""
    x, y, z = mesh.vertices.unbind(-1)
    x, y, z = torch.where(x > 0, 1.3 * x, x), torch.where(y > 0, y * 1.0 / 0.7, y), torch.where(z > 0, 2 * z, z)
    return replace(mesh, vertices=torch.stack([x, y, z], -1))


def made(case: str) -> Product:
    if case == "textured":
        return Product("a-ball", lopsided(textured(True, True)), origin=ORIGIN)
    mesh = lopsided(ball(2))
    if case == "coloured":
        return Product("a-ball", mesh, origin=ORIGIN)
    skin = some_skin(mesh.vertices, False)
    return Product("a-ball", mesh, skin if case == "moving" else track_of(skin, mesh.vertices), origin=ORIGIN)


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, str], Look]:
    bpy_python()
    paths = []
    for case, kind in CASES:
        folder = tmp_path_factory.mktemp(f"{case}-{kind}")
        files = files_of(kind.split()[0], made(case), "blender" if "blender" in kind else "none")
        for name, data in files.items():
            (folder / name).write_bytes(data)
        paths.append(folder / next(iter(files)))
    return dict(zip(CASES, blender_looks(paths, tmp_path_factory.mktemp("looks")), strict=True))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The longest way from a point of one set to the nearest of the other."""
    return float(max(cKDTree(a).query(b)[0].max(), cKDTree(b).query(a)[0].max()))


@pytest.mark.parametrize(("case", "kind"), CASES)
def test_one_object_stands_in_metres_the_right_way_up(
    looks: Mapping[tuple[str, str], Look], case: str, kind: str
) -> None:
    look, product = looks[case, kind], made(case)
    assert len([each for each in look.found["objects"] if each["type"] == "MESH"]) == 1
    assert look.found["metres"] == 1.0
    assert look.mesh["triangles"] == len(product.mesh.faces)
    x, y, z = product.mesh.vertices.numpy().T
    first = look.mesh["frames"][0]
    assert apart(look.array(str(first)), np.stack([x, -z, y], -1)) < 2e-5


def means(textures: Textures) -> dict[str, np.ndarray]:
    """Of each picture, by the input that it belongs to."""
    assert textures.normal is not None
    pictures = (textures.base, textures.roughness, textures.metallic, textures.normal)
    names = ("Base Color", "Roughness", "Metallic", "Normal")
    return {name: picture.mean((0, 1)).numpy() for name, picture in zip(names, pictures, strict=True)}


@pytest.mark.parametrize("kind", ["glb", "gltf", "usdz", "fbx", "blend"])
def test_each_picture_is_in_its_slot_and_colour_space(looks: Mapping[tuple[str, str], Look], kind: str) -> None:
    """Means of the pictures tell them apart."""
    look, textures = looks["textured", kind], made("textured").mesh.textures
    assert textures is not None
    inputs, mean = look.inputs(), means(textures)
    base = inputs["Base Color"][-1]
    assert base["space"] == "sRGB" and base["node"] == "ShaderNodeTexImage"
    np.testing.assert_allclose(base["mean"], [*mean["Base Color"], 1], atol=0.01)
    for name, channel in (("Roughness", "Green"), ("Metallic", "Blue")):
        way = inputs[name]
        assert way[-1]["space"] == "Non-Color", (name, way)
        assert [each["output"] for each in way] == (["Color"] if kind == "fbx" else [channel, "Color"])
        shown = way[-1]["mean"][("Red", "Green", "Blue").index(channel)]
        assert shown == pytest.approx(float(mean[name].item()), abs=0.01)
    normal = inputs["Normal"]
    assert normal[0]["node"] == "ShaderNodeNormalMap" and normal[-1]["space"] == "Non-Color"
    np.testing.assert_allclose(normal[-1]["mean"][:3], mean["Normal"], atol=0.01)
    assert inputs["Alpha"] == 1.0 and look.mesh["uv"]


def test_an_obj_of_the_preset_is_right_once_blender_has_decoded_it(looks: Mapping[tuple[str, str], Look]) -> None:
    """Its importer takes every picture for sRGB. The plain file leaves the normal map out, which would be bent."""
    textures = made("textured").mesh.textures
    assert textures is not None and textures.normal is not None
    plain, own = looks["textured", "obj"].inputs(), looks["textured", "obj for blender"].inputs()
    assert "Normal" not in plain and plain["Roughness"][-1]["node"] == "ShaderNodeTexImage"
    for name, values in (
        ("Roughness", textures.roughness), ("Metallic", textures.metallic), ("Normal", textures.normal)
    ):  # fmt: skip
        assert own[name][-1]["space"] == "sRGB", "or the pictures need no more encoding"
        encoded = linear_to_srgb(values).mean((0, 1)).numpy()
        np.testing.assert_allclose(own[name][-1]["mean"][: len(encoded)], encoded, atol=0.01)
    np.testing.assert_allclose(own["Base Color"][-1]["mean"][:3], textures.base.mean((0, 1)), atol=0.01)


@pytest.mark.parametrize("kind", ["glb", "gltf", "usdz", "fbx", "obj"])
def test_colours_of_vertices_are_wired(looks: Mapping[tuple[str, str], Look], kind: str) -> None:
    """As an attribute where the format has a place for that, else as a picture; never gray."""
    inputs = looks["coloured", kind].inputs()
    way = inputs["Base Color"]
    if kind in ("glb", "gltf"):
        assert way[-1]["node"] == "ShaderNodeVertexColor"
    else:
        assert way[-1]["space"] == "sRGB"
        np.testing.assert_allclose(way[-1]["mean"][:3], made("coloured").mesh.colours.mean(0), atol=0.02)
    rough = inputs["Roughness"]
    assert (rough if isinstance(rough, float) else rough[-1]["mean"][1]) == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("kind", ["glb", "ply"])
def test_colours_of_vertices_are_the_scene_s(looks: Mapping[tuple[str, str], Look], kind: str) -> None:
    look, mesh = looks["coloured", kind], made("coloured").mesh
    points, colours = look.array("1"), look.array("colours")
    at = points[look.array("corners")] if len(colours) != len(points) else points
    x, y, z = mesh.vertices.numpy().T
    near = cKDTree(np.stack([x, -z, y], -1)).query(at)[1]
    np.testing.assert_allclose(colours, mesh.colours.numpy()[near], atol=0.004)


def test_a_ply_keeps_the_coordinates_of_its_texture(looks: Mapping[tuple[str, str], Look]) -> None:
    assert looks["textured", "ply"].mesh["uv"] and not looks["coloured", "ply"].mesh["uv"]


@pytest.mark.parametrize("kind", ["glb", "usdz", "fbx", "abc"])
@pytest.mark.parametrize("case", ["moving", "changing"])
def test_what_moves_moves_in_blender_as_in_the_scene(
    looks: Mapping[tuple[str, str], Look], case: str, kind: str
) -> None:
    """By a skin, or point by point; at the begin, the middle and the end of the clip, which lasts 48 frames."""
    look, product = looks[case, kind], made(case)
    assert product.motion is not None
    track = track_of(product.motion, product.mesh.vertices)
    frames = look.mesh["frames"]
    begin = 1 if kind == "fbx" else 0  # Blender's importer of FBX begins to count at 1
    assert frames == [begin, begin + 24, begin + 48]
    keyed = kind in ("glb", "fbx")
    assert bool(look.found["actions"]) == keyed
    cached = ["ARMATURE"] if case == "moving" else []
    assert look.mesh["modifiers"] == (cached if keyed else ["MESH_SEQUENCE_CACHE"])
    for frame, key in zip(frames, (0, 2, 4), strict=True):
        x, y, z = track.points[key].numpy().T
        assert apart(look.array(str(frame)), np.stack([x, -z, y], -1)) < 1e-4, frame
    assert np.abs(look.array(str(frames[2])) - look.array(str(frames[0]))).max() > 0.1


@pytest.mark.parametrize("kind", ["fbx", "blend"])
def test_what_blender_saves_tells_where_it_is_from(looks: Mapping[tuple[str, str], Look], kind: str) -> None:
    assert json.loads(looks["textured", kind].found["told"]) == ORIGIN


def program(folder: Path, text: str) -> str:
    path = folder / "blender"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_blender_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DREAMLAB_BLENDER", raising=False)
    assert "https://www.blender.org/download" in MISSING["fbx"]()
    assert any(line.startswith("note  formats fbx, abc, blend: Blender is not found") for line in programs())
    with pytest.raises(InputError, match=r"^abc: Blender is not found: install it"):
        WRITERS["abc"].write(made("coloured"))
    monkeypatch.setenv("DREAMLAB_BLENDER", "/nowhere/blender")
    assert "'/nowhere/blender', which is no program here" in MISSING["blend"]()
    monkeypatch.delenv("DREAMLAB_BLENDER")
    found = program(tmp_path, "exit 0")
    assert MISSING["fbx"]() == "" and f"ok    formats fbx, abc, blend: through {found}" in programs()


def test_a_blender_that_fails_or_hangs_costs_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DREAMLAB_BLENDER", program(tmp_path, "echo no such operator >&2; exit 3"))
    with pytest.raises(InputError, match=r"^fbx: Blender \(.*\) failed \(exit code 3, no such operator\)"):
        WRITERS["fbx"].write(made("coloured"))
    monkeypatch.setenv("DREAMLAB_BLENDER", program(tmp_path, "exit 0"))  # it writes nothing
    with pytest.raises(InputError, match=r"failed \(exit code 0\)"):
        WRITERS["fbx"].write(made("coloured"))
    monkeypatch.setenv("DREAMLAB_BLENDER", program(tmp_path, "exec sleep 60"))
    monkeypatch.setattr(blender, "SECONDS", 0.3)
    with pytest.raises(InputError, match="was not done after 0 s"):
        WRITERS["fbx"].write(made("coloured"))

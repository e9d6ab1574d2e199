# SPDX-License-Identifier: Apache-2.0
"""Formats against readers that are not ours: trimesh, Pillow, OpenUSD; and what each says of where an asset is from."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamlab.core.foreign.headers import glb_document
from dreamlab.export.formats import WRITERS
from dreamlab.export.painted import painted
from dreamlab.export.product import Files, Product
from dreamlab.export.rig import track_of
from renderers.surface.files import read_mesh
from tests.export.judges import usd_errors
from tests.export.test_glb import ball, textured
from tests.export.test_rig import some_skin
from tests.export.viewer import Glb, Obj, sampled

ORIGIN = {"prompt": 'a 🦆 named "x" \\ y\n', "seed": 3, "recipe": {"export": {"formats": ["glb"]}}}
STANDING = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # rows of points with +Z up, times this: +Y up


def write(kind: str, made: Product, folder: Path) -> Files:
    files = WRITERS[kind].write(made)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def told(kind: str, files: Files) -> list[str]:
    """The JSON of the origin in every place of a format where it may be."""
    found = []
    for name, data in files.items():
        if name.endswith(".png"):
            found.append(Image.open(io.BytesIO(data)).info.get("dreamlab"))
        elif name.endswith((".obj", ".mtl")):
            found += [line.split(" ", 2)[2] for line in data.decode().splitlines() if line.startswith("# dreamlab ")]
        elif name.endswith(".ply"):
            head = data[: data.index(b"end_header")].decode("ascii")
            found += [line.split(" ", 2)[2] for line in head.splitlines() if line.startswith("comment dreamlab ")]
        elif name.endswith((".glb", ".gltf")):
            document = glb_document(data) if name.endswith(".glb") else json.loads(data)
            found.append(json.dumps(document["asset"].get("extras")))
    return found


@pytest.mark.parametrize(("kind", "places"), [("glb", 1), ("gltf", 4), ("obj", 6), ("ply", 2), ("maps", 3)])
def test_each_file_tells_where_it_is_from_unless_it_shall_not(kind: str, places: int) -> None:
    made = Product("ball", textured(True, True), origin=ORIGIN)
    said = told(kind, WRITERS[kind].write(made))
    assert [json.loads(each) for each in said] == places * [ORIGIN]
    silent = WRITERS[kind].write(replace(made, origin={}))
    assert not any(each not in (None, "null") for each in told(kind, silent))
    assert not any(b"prompt" in data or b"\xf0\x9f\xa6\x86" in data for data in silent.values())
    if kind == "ply":
        assert b"comment" not in silent["model.ply"][:2000], "some readers refuse comments"


def test_a_ply_s_header_stays_one_that_readers_take(tmp_path: Path) -> None:
    made = Product("ball", ball(1), origin={"prompt": "a ball", "recipe": ["a recipe of many prompts"] * 10_000})
    files = write("ply", made, tmp_path)
    assert [json.loads(each) for each in told("ply", files)] == [{"prompt": "a ball"}]
    assert len(read_mesh(str(tmp_path / "model.ply")).faces) == len(made.mesh.faces)


def test_pictures_inside_a_glb_tell_it_too() -> None:
    glb = Glb(WRITERS["glb"].write(Product("ball", textured(True, True), origin=ORIGIN))["model.glb"])
    for image in glb.document["images"]:
        assert json.loads(Image.open(io.BytesIO(glb.blob(image["bufferView"]))).info["dreamlab"]) == ORIGIN


def test_an_stl_is_closed_where_the_mesh_is(tmp_path: Path) -> None:
    write("stl", Product("ball", ball(2), origin=ORIGIN), tmp_path)
    read: Any = trimesh.load(tmp_path / "model.stl")
    mesh = ball(2)
    assert read.is_watertight and len(read.faces) == len(mesh.faces)
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    assert read.volume == pytest.approx(float((a * torch.linalg.cross(b, c)).sum() / 6), rel=1e-5)
    data = (tmp_path / "model.stl").read_bytes()
    assert len(data) == 84 + 50 * len(mesh.faces) and not data.startswith(b"solid") and b"seed 3" in data[:80]
    corners = read.triangles.reshape(-1, 3) @ STANDING.T
    np.testing.assert_allclose(corners, mesh.vertices[mesh.faces].reshape(-1, 3), atol=1e-6)
    rows = np.frombuffer(data[84:], np.dtype([("normal", "<f4", 3), ("rest", "V38")]))
    outward = read.triangles_center / np.linalg.norm(read.triangles_center, axis=1, keepdims=True)
    np.testing.assert_allclose(rows["normal"], outward, atol=0.1)


def test_a_ply_is_read_as_it_is(tmp_path: Path) -> None:
    made = Product("ball", textured(), origin=ORIGIN)
    write("ply", made, tmp_path)
    read: Any = trimesh.load(tmp_path / "model.ply", process=False)
    np.testing.assert_allclose(read.vertices @ STANDING.T, made.mesh.vertices, atol=1e-6)
    np.testing.assert_array_equal(read.faces, made.mesh.faces)
    np.testing.assert_allclose(read.vertex_normals @ STANDING.T, made.mesh.normals, atol=1e-5)
    raw = read.metadata["_ply_raw"]["vertex"]["data"]
    assert made.mesh.uv is not None
    np.testing.assert_allclose(np.stack([raw["s"], 1 - raw["t"]], -1).reshape(-1, 2), made.mesh.uv, atol=1e-6)
    assert Image.open(tmp_path / "model_base_color.png").size == (32, 32)


def test_seams_of_a_texture_do_not_cut_the_surface_of_an_obj(tmp_path: Path) -> None:
    made = painted(Product("ball", ball(2)))  # every triangle an island of its own
    assert len(made.mesh.vertices) == 3 * len(made.mesh.faces)
    write("obj", made, tmp_path)
    read = Obj(tmp_path / "model.obj")
    assert len(read.places) == len(ball(2).vertices)
    edges = np.sort(read.indexed[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_a_material_says_it_in_the_words_of_old_and_new_readers(tmp_path: Path) -> None:
    textures = textured().textures
    assert textures is not None
    matt = replace(textures, metallic=torch.zeros_like(textures.metallic))
    write("obj", Product("ball", replace(textured(), textures=matt)), tmp_path)
    read = Obj(tmp_path / "model.obj").material
    assert {key: read[key] for key in ("Ka", "Kd", "Ks", "d", "illum", "Pr", "Pm")} == {
        "Ka": "1 1 1", "Kd": "1 1 1", "Ks": "0.5 0.5 0.5", "d": "1", "illum": "2", "Pr": "1", "Pm": "0",
    }  # fmt: skip
    assert "map_Pm" not in read and read["norm"] == "model_normal.png" and "map_Bump" not in read
    # Blender's words: roughness is 1 - sqrt(Ns / 1000)
    assert 1 - (float(read["Ns"]) / 1000) ** 0.5 == pytest.approx(float(textures.roughness.mean()), abs=1e-3)


def test_painted_triangles_show_their_colours_between_the_corners() -> None:
    """A look-up anywhere on the surface is the mixture of the corners' colours there, to a step of 8 bits."""
    mesh = ball(2)
    made = painted(Product("ball", mesh)).mesh
    glb = Glb(WRITERS["glb"].write(Product("ball", replace(made)))["model.glb"])
    share = torch.rand(len(mesh.faces), 3, generator=torch.Generator().manual_seed(1)).clamp(min=0.01)
    share = (share / share.sum(1, keepdim=True))[..., None]
    assert made.uv is not None
    uv = (share * made.uv[made.faces]).sum(1).numpy()
    shown = sampled(glb.picture(glb.material["pbrMetallicRoughness"]["baseColorTexture"]), uv)
    np.testing.assert_allclose(shown, (share * mesh.colours[mesh.faces]).sum(1), atol=0.006)


# ---- USD -----------------------------------------------------------------------------------------------------------
def moving() -> Product:
    return Product("ball", ball(2), some_skin(ball(2).vertices, False), origin=ORIGIN)


SORTS = {
    "textured": Product("a-ball", textured(True, True), origin=ORIGIN),
    "coloured": Product("3", ball(1)),
    "moving": moving(),
}


@pytest.mark.parametrize("sort", list(SORTS))
def test_no_validator_of_usd_finds_anything(tmp_path: Path, sort: str) -> None:
    write("usdz", SORTS[sort], tmp_path)
    assert usd_errors(tmp_path / "model.usdz") == []


def test_the_validators_of_usd_would_notice(tmp_path: Path) -> None:
    files = WRITERS["usdz"].write(Product("ball", textured()))
    archive = zipfile.ZipFile(io.BytesIO(files["model.usdz"]))
    text = archive.read("model.usda").decode()
    for was, now in (
        ('    upAxis = "Y"\n', ""),
        ('        prepend apiSchemas = ["MaterialBindingAPI"]\n', ""),
        ("float4 inputs:bias = (-1, -1, -1, 0)", "float4 inputs:bias = (0, 0, 0, 0)"),
    ):
        assert was in text
        (tmp_path / "model.usda").write_text(text.replace(was, now))
        assert usd_errors(tmp_path / "model.usda")


def test_a_usdz_is_a_plain_archive_aligned_to_64_bytes() -> None:
    data = WRITERS["usdz"].write(Product("ball", textured(True, True)))["model.usdz"]
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    assert archive.namelist()[0] == "model.usda" and len(archive.namelist()) == 4
    for entry in archive.infolist():
        assert entry.compress_type == zipfile.ZIP_STORED
        name, extra = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
        assert (entry.header_offset + 30 + name + extra) % 64 == 0, entry.filename


def test_usd_holds_the_mesh_its_material_and_its_origin(tmp_path: Path) -> None:
    pxr = pytest.importorskip("pxr.Usd", reason="needs the package usd-core")
    from pxr import UsdGeom, UsdShade

    made = Product("a-ball", textured(True, True), origin=ORIGIN)
    write("usdz", made, tmp_path)
    stage = pxr.Stage.Open(str(tmp_path / "model.usdz"))
    assert stage.GetDefaultPrim().GetName() == "a_ball"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0 and UsdGeom.GetStageUpAxis(stage) == "Y"
    assert json.loads(stage.GetRootLayer().customLayerData["dreamlab"]) == ORIGIN
    (mesh,) = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    np.testing.assert_allclose(mesh.GetPointsAttr().Get(), made.mesh.vertices, atol=1e-5)
    np.testing.assert_array_equal(np.reshape(mesh.GetFaceVertexIndicesAttr().Get(), (-1, 3)), made.mesh.faces)
    np.testing.assert_allclose(mesh.GetNormalsAttr().Get(), made.mesh.normals, atol=1e-5)
    assert mesh.GetSubdivisionSchemeAttr().Get() == "none"
    material, _ = UsdShade.MaterialBindingAPI(mesh.GetPrim()).ComputeBoundMaterial()
    surface, *_ = material.ComputeSurfaceSource()
    ways = {}
    for name in ("diffuseColor", "roughness", "metallic", "occlusion", "normal"):
        source, output, _ = surface.GetInput(name).GetConnectedSource()
        shader = UsdShade.Shader(source.GetPrim())
        picture = shader.GetInput("file").Get()
        ways[name] = (Path(picture.path).name, str(output), shader.GetInput("sourceColorSpace").Get())
    packed = "occlusion_roughness_metallic.png"
    assert ways == {
        "diffuseColor": ("base_color.png", "rgb", "sRGB"),
        "occlusion": (packed, "r", "raw"),
        "roughness": (packed, "g", "raw"),
        "metallic": (packed, "b", "raw"),
        "normal": ("normal.png", "rgb", "raw"),
    }


def test_usd_moves_as_the_skin_does(tmp_path: Path) -> None:
    """The reader of GLB files works the skin out for itself; both show the same points at the same seconds."""
    pxr = pytest.importorskip("pxr.Usd", reason="needs the package usd-core")
    from pxr import UsdGeom

    made = moving()
    write("usdz", made, tmp_path)
    stage = pxr.Stage.Open(str(tmp_path / "model.usdz"))
    (mesh,) = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    glb = Glb(WRITERS["glb"].write(made)["model.glb"])
    rows = made.mesh.faces.reshape(-1)
    assert made.motion is not None
    track = track_of(made.motion, made.mesh.vertices)
    for key, seconds in enumerate((0.0, 0.5, 1.0, 1.5, 2.0)):
        code = seconds * stage.GetTimeCodesPerSecond()
        shown = np.array(mesh.GetPointsAttr().Get(code))
        np.testing.assert_allclose(shown, glb.points(seconds)[rows], atol=5e-5)
        np.testing.assert_allclose(track.points[key], glb.points(seconds), atol=5e-5)
        low, high = mesh.GetExtentAttr().Get()
        assert (shown >= np.array(low) - 1e-4).all() and (shown <= np.array(high) + 1e-4).all()
        a, b, c = track.points[key][made.mesh.faces].numpy().transpose(1, 0, 2)
        normals = np.zeros(made.mesh.vertices.shape)
        for corner in range(3):
            np.add.at(normals, made.mesh.faces[:, corner].numpy(), np.cross(b - a, c - a))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        np.testing.assert_allclose(np.array(mesh.GetNormalsAttr().Get(code)), normals[rows], atol=2e-3)

# SPDX-License-Identifier: Apache-2.0
"""Exported files against parsers that are not ours: the Khronos validator and trimesh."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamlab.core.foreign.headers import glb_document
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import Mesh, Textures
from dreamlab.export.glb import glb_bytes, gltf_of, place_mesh
from dreamlab.export.gltf import ARRAY_BUFFER, Gltf
from dreamlab.export.product import Files, Product
from dreamlab.export.writers.obj import obj, obj_bytes
from renderers.surface.clean import fewer_faces, open_edges
from renderers.surface.files import ply_bytes
from tests.export.viewer import Glb

VALIDATE = """
const fs = require('fs'), path = require('path'), validator = require(process.argv[1]);
const beside = uri => Promise.resolve(new Uint8Array(
  fs.readFileSync(path.join(path.dirname(process.argv[2]), decodeURIComponent(uri)))));
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2])), {externalResourceFunction: beside})
  .then(report => console.log(JSON.stringify(report.issues)));
"""


def ball(subdivisions: int = 3) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.7)
    vertices = torch.from_numpy(np.array(made.vertices)).float()
    colours = (vertices + 0.7) / 1.4
    return Mesh(
        vertices,
        torch.from_numpy(np.array(made.faces)).long(),
        colours,
        torch.nn.functional.normalize(vertices, dim=-1),
    )


def validator() -> str:
    package = os.environ.get("DREAMLAB_GLTF_VALIDATOR", "")
    if shutil.which("node") is None or not Path(package, "package.json").is_file():
        pytest.skip("needs Node.js and the npm package gltf-validator (DREAMLAB_GLTF_VALIDATOR names its folder)")
    return package


def issues(data: bytes | Files, folder: Path) -> dict[str, object]:
    """What the validator says of a GLB, or of a glTF with the files beside it."""
    package = validator()
    files = {"model.glb": data} if isinstance(data, bytes) else data
    for name, content in files.items():
        (folder / name).write_bytes(content)
    command = ["node", "-e", VALIDATE, package, str(folder / next(iter(files)))]
    found: dict[str, object] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


@pytest.mark.node
def test_the_khronos_validator_finds_nothing(tmp_path: Path) -> None:
    found = issues(glb_bytes(ball(), "ball", {"dreamlab_recipe": {"prompt": 'a 🦆 "x"'}}), tmp_path)
    assert (found["numErrors"], found["numWarnings"], found["numInfos"]) == (0, 0, 0), found


def textured(normal: bool = True, occlusion: bool = False) -> Mesh:
    """The ball with a latitude-longitude texture of its own; poles and the seam have corners of their own."""
    rows, columns = 12, 24
    v, u = torch.meshgrid(torch.arange(rows + 1) / rows, torch.arange(columns + 1) / columns, indexing="ij")
    up, around = torch.pi * (0.02 + 0.96 * v), 2 * torch.pi * u
    n = torch.stack([up.sin() * around.sin(), up.cos(), up.sin() * around.cos()], -1).reshape(-1, 3)
    first = (torch.arange(rows)[:, None] * (columns + 1) + torch.arange(columns)).reshape(-1)
    below, beside = first + columns + 1, first + 1
    faces = torch.cat([torch.stack([first, below, beside], 1), torch.stack([beside, below, below + 1], 1)])
    along = torch.stack([around.cos(), torch.zeros_like(u), -around.sin()], -1).reshape(-1, 3)
    tangents = torch.cat([along, torch.ones(len(n), 1)], 1)
    size = 32
    base = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), -1) / (size - 1)
    picture = torch.cat([base, torch.full((size, size, 1), 0.25)], -1)
    up_z = torch.tensor([0.5, 0.5, 1.0]).expand(size, size, 3)
    made = Textures(
        picture,
        base[..., :1] * 0.5,
        base[..., 1:],
        up_z if normal else None,
        1 - 0.5 * base[..., 1:] if occlusion else None,
    )
    uv = torch.stack([u, v], -1).reshape(-1, 2)
    return Mesh(0.7 * n, faces, torch.full_like(n, 0.5), n, uv, tangents, made)


@pytest.mark.node
@pytest.mark.parametrize("occlusion", [True, False])
@pytest.mark.parametrize("normal", [True, False])
def test_the_khronos_validator_finds_nothing_in_textures(tmp_path: Path, normal: bool, occlusion: bool) -> None:
    made = gltf_of(Product("ball", textured(normal, occlusion)))
    for files in (made.glb(), made.files("model")):
        found = issues(files, tmp_path)
        assert (found["numErrors"], found["numWarnings"], found["numInfos"]) == (0, 0, 0), found


@pytest.mark.node
def test_the_khronos_validator_finds_nothing_in_sparse_and_padded_accessors(tmp_path: Path) -> None:
    mesh = ball(1)
    made = Gltf({})
    node = place_mesh(made, mesh, "ball", made.add("materials", {}))
    made.show(node)
    some = np.zeros((len(mesh.vertices), 3), "<f4")
    some[3], some[7] = (0.1, -0.2, 0.3), (0, 0, 1)
    tint = (mesh.colours.numpy() * 255).astype("u1")  # three bytes a row, which glTF wants at multiples of four
    attributes = {
        "POSITION": made.accessor(mesh.vertices.numpy(), ARRAY_BUFFER, bounds=True),
        "COLOR_0": made.accessor(tint, ARRAY_BUFFER, normalized=True),
    }
    targets = [{"POSITION": made.sparse(some)}, {"POSITION": made.sparse(0 * some)}]
    other = made.add("meshes", {"primitives": [{"attributes": attributes, "targets": targets}]})
    made.show(made.add("nodes", {"mesh": other}))
    found = issues(made.glb(), tmp_path)
    assert (found["numErrors"], found["numWarnings"]) == (0, 0), found
    read = Glb(made.glb(), mesh=1)
    np.testing.assert_allclose(read.attribute("COLOR_0") * 255, tint, atol=1e-4)
    for target, want in zip(targets, (some, 0 * some), strict=True):
        np.testing.assert_array_equal(read.read(target["POSITION"]), want)


def test_occlusion_is_wired_to_the_red_of_the_packed_picture() -> None:
    glb = Glb(glb_bytes(textured(occlusion=True), "ball", {}))
    assert glb.material["occlusionTexture"] == glb.material["pbrMetallicRoughness"]["metallicRoughnessTexture"]
    red = glb.picture(glb.material["occlusionTexture"])[..., 0] / 255
    np.testing.assert_allclose(red, torch.linspace(1, 0.5, 32).expand(32, 32), atol=0.003)
    bare = Glb(glb_bytes(textured(), "ball", {}))
    assert "occlusionTexture" not in bare.material
    assert (bare.picture(bare.material["pbrMetallicRoughness"]["metallicRoughnessTexture"])[..., 0] == 255).all()
    assert bare.picture(bare.material["pbrMetallicRoughness"]["baseColorTexture"]).shape[-1] == 3  # opaque: no alpha


def test_nothing_is_told_of_an_asset_without_origin() -> None:
    assert "extras" not in glb_document(glb_bytes(ball(1), "ball", {}))["asset"]


def test_trimesh_reads_textures_where_gltf_puts_them() -> None:
    mesh = textured()
    scene = trimesh.load(io.BytesIO(glb_bytes(mesh, "ball", {})), file_type="glb", process=False)
    (read,) = scene.geometry.values()
    material, textures = read.visual.material, mesh.textures
    assert textures is not None and mesh.uv is not None
    # trimesh turns v over; glTF's grows downward, as ours.
    np.testing.assert_allclose(read.visual.uv * [1, -1] + [0, 1], mesh.uv, atol=1e-6)
    np.testing.assert_allclose(np.asarray(material.baseColorTexture) / 255, textures.base, atol=0.003)
    packed = np.asarray(material.metallicRoughnessTexture) / 255
    np.testing.assert_allclose(packed[..., 1:2], textures.roughness, atol=0.003)
    np.testing.assert_allclose(packed[..., 2:], textures.metallic, atol=0.003)
    assert material.metallicFactor in (None, 1.0) and material.roughnessFactor in (None, 1.0)
    np.testing.assert_allclose(np.asarray(material.normalTexture)[0, 0], [128, 128, 255])
    document = glb_document(glb_bytes(mesh, "ball", {}))
    assert set(document["meshes"][0]["primitives"][0]["attributes"]) == {"POSITION", "NORMAL", "TANGENT", "TEXCOORD_0"}


def test_an_obj_finds_its_material_and_pictures(tmp_path: Path) -> None:
    mesh = textured()
    assert mesh.textures is not None and mesh.uv is not None
    for name, data in obj(Product("ball", mesh)).items():
        (tmp_path / name).write_bytes(data)
    read = trimesh.load(tmp_path / "model.obj", process=False)
    read_uv, uv = read.visual.uv[read.faces], mesh.uv[mesh.faces]
    np.testing.assert_allclose(read_uv * [1, -1] + [0, 1], uv, atol=1e-5)
    np.testing.assert_allclose(np.asarray(read.visual.material.image) / 255, mesh.textures.base, atol=0.003)
    words = (tmp_path / "model.mtl").read_text().split()
    kinds = ("base_color", "roughness", "metallic", "normal")
    assert [word for word in words if word.endswith(".png")] == [f"model_{kind}.png" for kind in kinds]


def test_textures_without_coordinates_are_refused() -> None:
    mesh = textured()
    with pytest.raises(ValueError, match="uv"):
        glb_bytes(replace(mesh, uv=None), "ball", {})
    with pytest.raises(ValueError, match="tangents"):
        glb_bytes(replace(mesh, tangents=None), "ball", {})
    assert fewer_faces(mesh, 64) is mesh


@pytest.mark.node
def test_a_finished_run_passes_the_validator(finished_run: Path, tmp_path: Path) -> None:
    found = issues((finished_run / "export" / "model.glb").read_bytes(), tmp_path)
    assert found["numErrors"] == found["numWarnings"] == 0, found


@pytest.mark.node
def test_the_validator_would_notice(tmp_path: Path) -> None:
    mesh = ball()
    broken = Mesh(mesh.vertices, mesh.faces, mesh.colours, mesh.normals * 3)
    assert issues(glb_bytes(broken, "ball", {}), tmp_path)["numErrors"] != 0


def test_trimesh_reads_back_geometry_and_linear_colours() -> None:
    mesh = ball()
    scene = trimesh.load(io.BytesIO(glb_bytes(mesh, "ball", {})), file_type="glb", process=False)
    (read,) = scene.geometry.values()
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-7)
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_allclose(read.vertex_normals, mesh.normals, atol=1e-6)
    # trimesh keeps COLOR_0 with its material; 16-bit normalised, in linear light as the format says.
    stored = read.visual.vertex_attributes["color"][:, :3] / 65535
    np.testing.assert_allclose(stored, srgb_to_linear(mesh.colours), atol=1e-4)


def test_the_file_carries_its_recipe_and_is_a_function_of_the_mesh() -> None:
    data = glb_bytes(ball(), "ball", {"dreamlab_recipe": {"seed": 3}})
    assert glb_document(data)["asset"]["extras"]["dreamlab_recipe"] == {"seed": 3}
    assert data == glb_bytes(ball(), "ball", {"dreamlab_recipe": {"seed": 3}})


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_text_formats_are_read_by_trimesh(kind: str) -> None:
    mesh = ball()
    data = obj_bytes(mesh, "ball") if kind == "obj" else ply_bytes(mesh)
    read = trimesh.load(io.BytesIO(data), file_type=kind, process=False)
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-5)
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_allclose(read.visual.vertex_colors[:, :3] / 255, mesh.colours, atol=0.004)
    np.testing.assert_allclose(read.vertex_normals, mesh.normals, atol=2e-2)


def test_simplify_keeps_shape_colour_and_orientation() -> None:
    mesh = ball(5)
    slim = fewer_faces(mesh, 2000)
    assert len(slim.faces) <= 2000 < len(mesh.faces)
    volume, before = (trimesh.Trimesh(m.vertices, m.faces, process=False).volume for m in (slim, mesh))
    assert not open_edges(slim.faces).any() and volume == pytest.approx(before, rel=0.01)
    torch.testing.assert_close(slim.colours, (slim.vertices + 0.7) / 1.4, atol=0.03, rtol=0)
    outward = torch.nn.functional.normalize(slim.vertices, dim=-1)
    assert (outward * slim.normals).sum(-1).min() > 0.98
    assert fewer_faces(slim, 5000) is slim

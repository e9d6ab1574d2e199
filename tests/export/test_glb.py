# SPDX-License-Identifier: Apache-2.0
"""Exported files against parsers that are not ours: the Khronos validator and trimesh."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import Mesh
from dreamlab.export import mesh_report
from dreamlab.export.glb import glb_bytes, read_document
from dreamlab.export.simplify import simplify
from dreamlab.export.text_formats import obj_bytes, ply_bytes

VALIDATE = """
const fs = require('fs'), validator = require(process.argv[1]);
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""


def ball(subdivisions: int = 3) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.7)
    vertices = torch.from_numpy(np.array(made.vertices)).float()
    colors = (vertices + 0.7) / 1.4
    return Mesh(
        vertices, torch.from_numpy(np.array(made.faces)).long(), colors, torch.nn.functional.normalize(vertices, dim=-1)
    )


def validator() -> str:
    package = os.environ.get("DREAMLAB_GLTF_VALIDATOR", "")
    if shutil.which("node") is None or not Path(package, "package.json").is_file():
        pytest.skip("needs Node.js and the npm package gltf-validator (DREAMLAB_GLTF_VALIDATOR names its folder)")
    return package


def issues(data: bytes, folder: Path) -> dict[str, object]:
    package = validator()
    (folder / "model.glb").write_bytes(data)
    command = ["node", "-e", VALIDATE, package, str(folder / "model.glb")]
    found: dict[str, object] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


@pytest.mark.node
def test_the_khronos_validator_finds_nothing(tmp_path: Path) -> None:
    found = issues(glb_bytes(ball(), "ball", {"dreamlab_recipe": {"prompt": 'a 🦆 "x"'}}), tmp_path)
    assert (found["numErrors"], found["numWarnings"], found["numInfos"]) == (0, 0, 0), found


@pytest.mark.node
def test_a_finished_run_passes_the_validator(finished_run: Path, tmp_path: Path) -> None:
    found = issues((finished_run / "export" / "model.glb").read_bytes(), tmp_path)
    assert found["numErrors"] == found["numWarnings"] == 0, found


@pytest.mark.node
def test_the_validator_would_notice(tmp_path: Path) -> None:
    mesh = ball()
    broken = Mesh(mesh.vertices, mesh.faces, mesh.colors, mesh.normals * 3)
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
    np.testing.assert_allclose(stored, srgb_to_linear(mesh.colors), atol=1e-4)


def test_the_file_carries_its_recipe_and_is_a_function_of_the_mesh() -> None:
    data = glb_bytes(ball(), "ball", {"dreamlab_recipe": {"seed": 3}})
    assert read_document(data)["asset"]["extras"]["dreamlab_recipe"] == {"seed": 3}
    assert data == glb_bytes(ball(), "ball", {"dreamlab_recipe": {"seed": 3}})


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_text_formats_are_read_by_trimesh(kind: str) -> None:
    mesh = ball()
    data = obj_bytes(mesh, "ball") if kind == "obj" else ply_bytes(mesh)
    read = trimesh.load(io.BytesIO(data), file_type=kind, process=False)
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-5)
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_allclose(read.visual.vertex_colors[:, :3] / 255, mesh.colors, atol=0.004)
    np.testing.assert_allclose(read.vertex_normals, mesh.normals, atol=2e-2)


def test_simplify_keeps_shape_colour_and_orientation() -> None:
    mesh = ball(5)
    slim = simplify(mesh, 2000)
    assert len(slim.faces) <= 2000 < len(mesh.faces)
    report = mesh_report(slim)
    assert report["watertight"] and report["volume"] == pytest.approx(mesh_report(mesh)["volume"], rel=0.01)
    torch.testing.assert_close(slim.colors, (slim.vertices + 0.7) / 1.4, atol=0.03, rtol=0)
    outward = torch.nn.functional.normalize(slim.vertices, dim=-1)
    assert (outward * slim.normals).sum(-1).min() > 0.98
    assert simplify(slim, 5000) is slim

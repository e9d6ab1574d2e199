# SPDX-License-Identifier: Apache-2.0
"""The default recipe ends in the surface itself: what leaves in the file is what was optimised, in one piece."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from configs import DEFAULT, find
from dreamlab.pipeline import create, execute, finished_scene
from dreamlab.run.folder import Run
from renderers.mesh import TexturedMesh
from renderers.surface.clean import parts_of

SMALL = (
    "stages.shape.steps=10", "stages.shape.scene.count=400", "stages.shape.size=32", "stages.surface.steps=4",
    "stages.surface.size=32", "stages.surface.scene.texture=128", "stages.surface.scene.resolution=32",
    "export.texture=128", "export.turntable=2", "export.size=32",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = create("a red ball", find(DEFAULT), tmp_path_factory.mktemp("runs"), SMALL, None, ["dreamlab"])
    execute(made)
    return made


def test_the_file_is_the_scene_to_the_corner(run: Run) -> None:
    _, scene, step = finished_scene(run)
    assert isinstance(scene, TexturedMesh) and step == 14
    file = trimesh.load(run.export / "model.glb", process=False, force="mesh")
    mine, theirs = (np.unique(np.round(each, 5), axis=0) for each in (scene.corners().detach().numpy(), file.vertices))
    np.testing.assert_allclose(theirs, mine, atol=2e-5)
    assert len(file.faces) == len(scene.surface.faces)
    check = json.loads((run.export / "report.json").read_text())["check"]
    assert check["psnr"] > 35 and check["silhouette_iou"] > 0.99 and "below" not in check


def test_its_corners_have_moved_and_hang_together(run: Run) -> None:
    _, scene, _ = finished_scene(run)
    assert isinstance(scene, TexturedMesh)
    assert float(scene.params["shift"].detach().abs().max()) > 0.001
    assert int(parts_of(scene.surface.faces, len(scene.rest)).max()) == 0
    assert torch.equal(scene.surface.vertices, scene.corners().detach())


def test_the_change_is_said_with_what_it_kept(run: Run) -> None:
    became = [event for event in run.events() if event["kind"] == "became"]
    assert [(event["was"], event["now"], event["stage"]) for event in became] == [("gaussians", "mesh", "surface")]


def test_a_run_that_ends_in_gaussians_is_named_where_splats_are_asked_for(tmp_path: Path) -> None:
    small = [each for each in SMALL if "surface" not in each]
    made = create("a red ball", find("toybox-gaussians"), tmp_path, [*small, "formats=splat-ply"], None, ["dreamlab"])
    files = execute(made)
    assert "splats.ply" in [path.name for path in files]

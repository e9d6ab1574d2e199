# SPDX-License-Identifier: Apache-2.0
"""GLB files of the preset as Godot's own importer takes them (3.2, Debian's headless program): textures in their slots,
a hull to collide with, a clip that repeats."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.opened import godot_imports
from dreamlab.core.types import Skin
from dreamlab.export.presets import files_of
from dreamlab.export.product import Product
from tests.export.test_blender import lopsided
from tests.export.test_glb import ball, textured
from tests.export.test_rig import some_skin

PROJECT = 'config_version=4\n[application]\nconfig/name="look"\n'
RED, GREEN, BLUE = 0, 1, 2  # SpatialMaterial.TextureChannel


def still() -> Product:
    return Product("a-ball", lopsided(textured(True, True)))


def moving() -> Product:
    mesh = ball(2)
    skin = some_skin(mesh.vertices, still=False)
    there_and_back = [0, 1, 2, 3, 2, 1, 0]
    shift, turn = skin.shift[there_and_back], skin.turn[there_and_back]
    return Product("other", mesh, replace(skin, times=torch.linspace(0, 1, 7), shift=shift, turn=turn))


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program = shutil.which("godot3-server")
    if program is None:
        pytest.skip("needs Godot without a screen (Debian's package godot3-server)")
    folder = tmp_path_factory.mktemp("project")
    (folder / "project.godot").write_text(PROJECT)
    shutil.copy(Path(__file__).with_name("godot_look.gd"), folder)
    for name, made, preset in (("still", still(), "godot"), ("moving", moving(), "godot"), ("plain", still(), "none")):
        (folder / f"{name}.glb").write_bytes(files_of("glb", made, preset)["model.glb"])
    command = [program, "--path", str(folder)]
    godot_imports(folder, 3)
    done = subprocess.run([*command, "-s", "godot_look.gd"], capture_output=True, text=True, timeout=120)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOOK ")]
    found: dict[str, Any] = json.loads(line.removeprefix("LOOK "))
    return found


@pytest.mark.parametrize("name", ["still", "plain"])
def test_every_texture_arrives_in_its_slot(looked: dict[str, Any], name: str) -> None:
    (material,) = looked[name]["materials"]
    assert material["albedo"] == material["normal"] == [32, 32]
    assert material["roughness"] == [[32, 32], GREEN] and material["metallic"] == [[32, 32], BLUE]
    assert material["occlusion"] == [[32, 32], RED]
    assert material["tint"] == "ffffffff" and not material["vertex"]


def test_it_stands_in_metres_with_y_up(looked: dict[str, Any]) -> None:
    points = still().mesh.vertices
    np.testing.assert_allclose(looked["still"]["low"], points.amin(0), atol=1e-4)
    np.testing.assert_allclose(looked["still"]["high"], points.amax(0), atol=1e-4)
    assert looked["still"]["shown"] == 1


def test_it_collides_by_its_hull_where_the_preset_asks(looked: dict[str, Any]) -> None:
    assert looked["still"]["hulls"] == 1 and looked["plain"]["hulls"] == looked["moving"]["hulls"] == 0


def test_a_clip_repeats_and_colours_are_seen(looked: dict[str, Any]) -> None:
    moved = looked["moving"]
    ((loop, length, tracks),) = moved["clips"].values()
    skin = moving().motion
    assert isinstance(skin, Skin)
    assert loop and length == pytest.approx(2.0) and tracks == len(skin.anchors)
    (material,) = moved["materials"]
    assert material["albedo"] is not None, "colours of vertices are painted, for Godot switches them off"

# SPDX-License-Identifier: Apache-2.0
"""Scenes that become other scenes: what is kept, and the recipe's way."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import trimesh

from dreamlab import recipe
from dreamlab.core.errors import RecipeError
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from renderers.become import become
from renderers.dmtet import DMTet
from renderers.gaussians import Gaussians
from renderers.mesh import TexturedMesh
from renderers.surface.extraction import extract
from renderers.surface.views import Kept, compare, psnr, silhouette_iou
from tests.conftest import Commands
from tests.renderers.test_extraction import painted, stream


def test_measures_are_what_they_say() -> None:
    a = torch.zeros(2, 4, 4, 3)
    assert psnr(a, a + torch.tensor([0.1, 0.01])[:, None, None, None]) == pytest.approx(30)
    solid = torch.zeros(2, 4, 4, 1)
    solid[0, :, :2] = 1
    half = solid.clone()
    half[0, :, 1:] = 0
    assert silhouette_iou(solid, half) == pytest.approx((0.5 + 1) / 2)


def test_a_ball_becomes_a_textured_mesh_and_gaussians() -> None:
    ball = painted()
    mesh = TexturedMesh(TexturedMesh.Settings(texture=128, faces=1500, resolution=32, unwrap="own"), stream())
    made, kept = become(ball, mesh, stream())
    assert kept is not None and kept.psnr > 27 and kept.iou > 0.97
    assert isinstance(made, TexturedMesh) and len(made.surface.faces) <= 1500
    cloud, kept = become(ball, Gaussians(Gaussians.Settings(count=3000, opacity=0.9), stream()), stream())
    assert kept is not None and kept.iou > 0.9 and len(cloud.state_dict()["means"]) == 3000
    back, kept = become(cloud, DMTet(DMTet.Settings(resolution=24), stream()), stream())
    assert kept is not None and kept.iou > 0.9
    found = extract(back, 0)
    solid = trimesh.Trimesh(found.vertices.numpy(), found.faces.numpy(), process=False)
    assert solid.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.15)


def test_the_same_kind_hands_over_its_state() -> None:
    ball = painted()
    other, kept = become(ball, DMTet(DMTet.Settings(resolution=24), stream()), stream())
    assert kept is None
    assert compare(ball, other) == Kept(100.0, 1.0)


def test_a_mesh_hands_its_material_on_without_its_light() -> None:
    """A stage of another texture size or material begins with the same base colour, roughness and metallic."""
    first = TexturedMesh(TexturedMesh.Settings(texture=64, unwrap="own", shading="pbr"), stream())
    with torch.no_grad():
        first.params["texture"][..., :3] = torch.tensor([1.0, 0.0, -1.0])
        first.params["texture"][..., 3:5] = torch.tensor([0.7, -0.7])
    for settings in ({"texture": 64}, {"texture": 96}, {"texture": 48, "material": "hash"}):
        wanted = TexturedMesh.Settings(unwrap="own", shading="pbr", **settings)
        second, kept = become(first, TexturedMesh(wanted, stream()), stream())
        assert kept is None or kept.psnr > 35
        assert isinstance(second, TexturedMesh)
        a, b = first.textures(), second.textures()
        for name in ("base", "roughness", "metallic"):
            x, y = getattr(a, name).mean((0, 1)), getattr(b, name).mean((0, 1))
            torch.testing.assert_close(x, y, atol=0.02, rtol=0)


CHAIN = """
prompt: a red mushroom with a white stem
stages:
  - name: shape
    scene: {kind: dmtet, resolution: 12}
    terms: [{guidance: truth, system: photometric}]
    steps: 1
    size: 16
  - name: surface
    scene: {kind: %s, from: shape%s}
    terms: [{guidance: truth, system: photometric}]
    steps: 1
    size: 16
"""


@pytest.mark.parametrize(
    ("kind", "more"),
    [("mesh", ", texture: 64, faces: 400, unwrap: own"), ("gaussians", ", count: 200"), ("dmtet", ", resolution: 12")],
)
def test_a_recipe_chains_kinds(kind: str, more: str) -> None:
    wanted = recipe.load(CHAIN % (kind, more), TABLES)
    assembler = Assembler(wanted, "cpu")
    first = assembler.stage(0, {})
    second = assembler.stage(1, {"shape": first.scene})
    assert second.scene.kind == kind and (not second.changes) == (kind == "dmtet")
    again = assembler.stage(1)  # as when a run resumes in its second stage
    again.scene.load_state_dict(second.scene.state_dict())
    assert compare(second.scene, again.scene).psnr == 100.0


def test_what_cannot_begin_from_a_surface_says_so() -> None:
    with pytest.raises(RecipeError, match="cannot become"):
        Assembler(recipe.load(CHAIN % ("several", ""), TABLES), "cpu")


RUN = """
prompt: a red mushroom with a white stem
stages:
  - name: cloud
    scene: {kind: gaussians, count: 300, radius: 0.5, opacity: 0.8, surface: fusion}
    terms: [{guidance: truth, system: photometric}]
    steps: 4
    views: 2
    size: 16
  - name: skin
    scene: {kind: mesh, from: cloud, texture: 64, faces: 400, resolution: 24, unwrap: own}
    terms: [{guidance: truth, system: photometric}]
    steps: 2
    size: 16
  - name: shape
    scene: {kind: dmtet, from: skin, resolution: 12}
    terms: [{guidance: truth, system: photometric}]
    steps: 2
    size: 16
export: {resolution: 24, turntable: 2, size: 32}
"""


def test_a_run_says_what_every_change_kept(dreamlab: Commands, tmp_path: Path) -> None:
    """On the terminal, in the log, in the events and in the export's report; the same numbers, of this run's scenes."""
    (tmp_path / "chain.yaml").write_text(RUN)
    ended = dreamlab("dream", "--recipe", "chain.yaml")
    assert ended.code == 0, ended.err
    run = tmp_path / ended.out.splitlines()[-1]
    events = [e for e in map(json.loads, (run / "events.jsonl").open()) if e["kind"] == "became"]
    assert [(e["was"], e["now"], e["views"]) for e in events] == [("gaussians", "mesh", 24), ("mesh", "dmtet", 24)]
    for event, source, stage in zip(events, ("cloud", "skin"), ("skin", "shape"), strict=True):
        line = (
            f"{stage}: {source} became {event['now']}, keeping {event['psnr']:.1f} dB and {event['silhouette_iou']:.3f}"
        )
        assert ended.err.count(line) == 1 and (run / "log.txt").read_text().count(line) == 1
        assert event["psnr"] > 8 and event["silhouette_iou"] > 0.5
    changes = json.loads((run / "export" / "report.json").read_text())["changes"]
    assert [c["now"] for c in changes] == ["mesh", "dmtet", "export"]
    assert [c["psnr"] for c in changes[:2]] == [e["psnr"] for e in events]
    assert changes[2]["psnr"] > 15 and changes[2]["silhouette_iou"] > 0.8  # a surface, coloured at its vertices

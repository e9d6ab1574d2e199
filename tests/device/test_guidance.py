# SPDX-License-Identifier: Apache-2.0
"""The embedded prior in all its roles, its adapter, the given picture and many prompts on the second device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamlab import pipeline
from dreamlab.export import export_mesh, export_pictures
from dreamlab.run import train
from dreamlab.run.assemble import Assembler
from tests.device.pretend import left_behind, the_device
from tests.device.runs import GRID, begun, cheap, recipe_of, steps
from tests.toybox.tiny_prior import tiny_prior

__all__ = ["cheap"]
CLOUD, MOVING = "{kind: gaussians, count: 24}", "{kind: gaussians4d, count: 24, deform: {points: 4, moments: 4}}"
SKIN = "{kind: mesh, faces: 100, texture: 32}"
ROLES = {
    "toybox": (CLOUD, "system: sds", "views: 2"),
    "toybox-views": (CLOUD, "system: {kind: sds, shared_t: true}", "views: 4, cameras: {ring: 4}"),
    "toybox-video": (MOVING, "system: {kind: video, frames: 8}", "views: 8, cameras: {clip: 8}"),
    "toybox-control": (SKIN, "system: csd", "views: 2"),
    "adapter": (CLOUD, "system: {kind: vsd, net: adapter, rank: 2}", "views: 2"),
    "whole": (CLOUD, "system: {kind: bootstrapped, net: adapter, cycle: 2, dream: 0.5, polish: 2}", "views: 2"),
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_prior(tmp_path_factory.mktemp("prior"))


def told(role: str, prior: Path) -> str:
    kind = role if role.startswith("toybox") else "toybox"
    scene, system, stage = ROLES[role]
    term = f"{{guidance: {{kind: {kind}, weights: {prior}, dtype: float32}}, {system}}}"
    return (
        "prompt: a rocking red mushroom with a white stem\n"
        f"stages:\n  - {{name: s, scene: {scene}, terms: [{term}], steps: 6, size: 16, {stage}}}\n"
    )


@pytest.mark.parametrize("role", ROLES)
def test_a_role_on_the_device(role: str, prior: Path, tmp_path: Path, one_thread: None) -> None:
    def figures(device: str) -> list[dict[str, float]]:
        run, wanted, assembler = begun(told(role, prior), tmp_path / device, device)
        stage = assembler.stage(0, {})
        found = steps(stage, [0, 1], assembler.device)
        train.save(run, wanted, stage, train.Position(0, 2), 2)
        _, stage = train.restore(run, wanted, assembler)
        return found + steps(stage, [2], assembler.device)

    expected = figures("cpu")
    with the_device() as device:
        found = figures(device)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["healthy"] == 1 and ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


def test_a_given_picture_on_the_device(prior: Path, tmp_path: Path, one_thread: None) -> None:
    shape = np.zeros((32, 32, 4), np.uint8)
    shape[8:24, 8:24] = (200, 30, 30, 255)
    Image.fromarray(shape).save(tmp_path / "p.png")
    novel = (
        f"{{guidance: {{kind: toybox-novel, weights: {prior}, dtype: float32}}, system: sds, views: others, sample: 1}}"
    )
    text = (
        f"prompt: the object in the picture\nstages:\n  - name: s\n    scene: {CLOUD}\n    terms:\n"
        f"      - {{guidance: picture, system: {{kind: photometric, mask: 0.5}}, views: given}}\n      - {novel}\n"
        "    steps: 4\n    views: 4\n    size: 16\n    given: {share: 0.25, widen: 0.5}\n"
    )
    (tmp_path / "recipe.yaml").write_text(text)

    def figures(device: str) -> list[dict[str, float]]:
        run = pipeline.create(None, tmp_path / "recipe.yaml", tmp_path / device, [], None, [], tmp_path / "p.png")
        assembler = Assembler(pipeline.load_recipe(run), device, run.path)
        return steps(assembler.stage(0, {}), [0, 1, 2], assembler.device)

    with pytest.warns(UserWarning, match="the picture is .*, seen from"):
        expected = figures("cpu")
        with the_device() as device:
            found = figures(device)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-3)


def test_many_prompts_on_the_device(tmp_path: Path, cheap: None, one_thread: None) -> None:
    """Asked in turn, exported one by one, shown with what lies between them."""
    text = recipe_of(f"{{kind: hyper_field, {GRID}, code: 8, hyper: 8}}").replace(
        "a yellow duck jumping", "a yellow duck\nprompts: [a green pear]"
    )
    with the_device() as device:
        run, wanted, assembler = begun(text, tmp_path, device)
        scene = train.train(run, wanted, assembler)
        assert left_behind(scene, "") == []
        files = export_mesh(run, wanted, scene, 4) + export_pictures(run, wanted, scene, 4, assembler.device)
    assert {"model.glb", "contact.png", "between.png", "turntable.mp4"} <= {path.name for path in files}
    assert all(path.stat().st_size > 100 for path in files)

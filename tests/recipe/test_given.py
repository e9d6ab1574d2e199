# SPDX-License-Identifier: Apache-2.0
"""Where the files of a recipe are looked for, and that a run keeps its own of each: it needs nothing else, anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlab import pipeline, recipe
from dreamlab.core.errors import InputError
from dreamlab.recipe.checks import check
from dreamlab.recipe.given import own_files, placed
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from renderers.light.hdr import hdr_bytes

RECIPE = """
prompt: a ball
stages:
  - name: cloud
    scene: {kind: gaussians, count: 8, start: file, file: eight.xyz}
    terms:
      - {guidance: {kind: oracle, others: 0}, system: {kind: sds}}
      - {guidance: {kind: oracle, others: 0}, system: {kind: cloud, points: parts/guide.txt}}
    steps: 1
    size: 16
    views: 1
  - name: paint
    scene: {kind: mesh, file: parts/tent.obj, texture: 16, shading: pbr, lights: [white, parts/sky.hdr, studio]}
    terms:
      - {guidance: {kind: oracle, others: 0}, system: {kind: sds}}
    steps: 1
    size: 16
    views: 1
export: {turntable: 2, size: 32}
"""
EIGHT = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
SKY = torch.linspace(0.1, 4.0, 8 * 16 * 3).reshape(8, 16, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe and what it names."""
    home = tmp_path / "home"
    (home / "parts").mkdir(parents=True)
    (home / "recipe.yaml").write_text(RECIPE)
    (home / "eight.xyz").write_text("".join(f"{x} {y} {z}\n" for x, y, z in EIGHT))
    (home / "parts" / "guide.txt").write_text("0 0.5 0\n0 -0.5 0\n")
    (home / "parts" / "tent.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    (home / "parts" / "sky.hdr").write_bytes(hdr_bytes(SKY))
    return home


def test_a_run_needs_none_of_the_files_it_was_made_from(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = pipeline.create(None, folder / "recipe.yaml", tmp_path / "runs", [], None, [])
    shutil.rmtree(folder)
    kept = recipe.load(run.recipe_path(), TABLES)
    first, second = kept.stages
    assert first.scene.settings.file == "cloud.ply" and first.terms[1].system.settings.points == "cloud.2.txt"
    assert second.scene.settings.file == "paint.ply"
    assert second.scene.settings.lights == ("white", "paint.2.hdr", "studio")
    moved = run.path.rename(tmp_path / "moved")
    assembler = Assembler(kept, "cpu", moved)
    stage = assembler.stage(0)
    means = stage.scene.params["means"].detach()  # type: ignore[attr-defined]
    found = means[np.lexsort(means.T.numpy())] / means.abs().max()
    torch.testing.assert_close(found, torch.tensor(sorted(EIGHT, key=lambda p: p[::-1])) * 2, rtol=0, atol=1e-4)
    assert torch.equal(stage.terms[1].system.points, torch.tensor([[0, 0.5, 0], [0, -0.5, 0]]))  # type: ignore[attr-defined]
    assembler.stage(1)
    pipeline.execute(pipeline.Run.open(moved))
    assert (moved / "export" / "model.glb").stat().st_size > 500


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("eight.xyz", "scene.file: {}"),
        ("parts/tent.obj", "mesh {}"),
        ("parts/guide.txt", "points {}"),
        ("parts/sky.hdr", "environment {}"),
    ],
)
def test_a_missing_or_broken_file_is_said_before_a_folder_is_made(name: str, line: str, folder: Path) -> None:
    """By the user's name for it; and it is not taken from where the command is called."""
    for data in (None, b"\0\0\0"):
        (folder / name).unlink(missing_ok=True)
        if data is not None:
            (folder / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            pipeline.create(None, folder / "recipe.yaml", folder / "runs", [], None, [])
        assert str(caught.value).startswith(line.format(folder / name)), str(caught.value)
        assert not (folder / "runs").exists()


def test_names_are_not_looked_for_where_the_command_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "parts")
    (folder / "parts" / "tent.obj").rename(folder / "tent.obj")
    (folder / "parts" / "parts").mkdir()
    shutil.copy(folder / "tent.obj", folder / "parts" / "parts" / "tent.obj")
    with pytest.raises(InputError, match=r"home/parts/tent.obj: no such file"):
        pipeline.create(None, folder / "recipe.yaml", folder / "runs", [], None, [])


def test_what_the_command_names_is_where_it_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "parts")
    words = ["stages.paint.scene.file=tent.obj", "stages.paint.scene.lights=[sky.hdr, white]"]
    words.append("stages.0.terms.0.guidance={kind: toybox, weights: ../prior}")
    made = placed(recipe.load(folder / "recipe.yaml", TABLES, overrides=words), folder)
    paint = made.stages[1].scene.settings
    assert paint.file == str(folder / "parts" / "tent.obj")
    assert paint.lights == (str(folder / "parts" / "sky.hdr"), "white")
    assert made.stages[0].scene.settings.file == str(folder / "eight.xyz")
    assert Path(made.stages[0].terms[0].guidance.settings.weights).resolve() == (folder / "prior").resolve()


def test_the_names_of_shipped_things_are_no_files(folder: Path) -> None:
    text = "prompt: a duck\nstages: [{name: a, scene: gaussians, terms: [{guidance: toybox, system: sds}]}]\n"
    made = recipe.load(text, TABLES)
    assert placed(made, folder) == made
    again, files = own_files(made, folder)
    check(again)
    assert again == made and not files

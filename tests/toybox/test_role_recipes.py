# SPDX-License-Identifier: Apache-2.0
"""The recipes of the prior's roles from end to end, with a network of random weights and a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamlab import pipeline, recipe
from dreamlab.cli.inspection import write_object
from dreamlab.core.cameras import OrbitSettings, orbit, sample_orbit
from dreamlab.core.errors import InputError
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.folder import Run
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.toybox.draw import draw
from dreamlab.toybox.mesh import inside
from dreamlab.toybox.shapes import program
from tests.toybox.tiny_prior import tiny_prior

FAST = ("stages.0.steps=2", "stages.0.size=16", "export.turntable=2", "export.size=32", "export.resolution=24")


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_prior(tmp_path_factory.mktemp("prior"))


def made(name: str, out: Path, prior: Path, *more: str, image: Path | None = None) -> Run:
    term = 1 if name == "image" else 0
    weights = [f"stages.0.terms.{term}.guidance={{kind: {kind_of(name)}, weights: {prior}}}"]
    if name == "video":  # the object first, then what it does
        weights = [weights[0].replace("stages.0", "stages.2"), "stages.2.steps=2", "stages.2.size=16"]
        for stage in (0, 1):
            weights.append(f"stages.{stage}.terms.0.guidance={{kind: toybox-views, weights: {prior}}}")
        weights += ["stages.1.steps=2", "stages.1.size=16", "stages.1.scene.faces=600"]
    if name == "image":
        weights += [weights[0].replace("stages.0", "stages.1"), "stages.1.steps=2", "stages.1.size=16"]
    return pipeline.create(None, recipe.find(name), out, [*FAST, *weights, *more], None, [], image)


def kind_of(name: str) -> str:
    roles = {"toybox": "views", "image": "novel", "texture": "control", "video": "video"}
    return f"toybox-{roles[name]}"


def finished(run: Run) -> trimesh.Trimesh:
    names = {path.name for path in pipeline.execute(run)}
    assert {"model.glb", "contact.png", "turntable.mp4"} <= names and run.state()["state"] == "succeeded"
    found = trimesh.load(run.export / "model.glb", force="mesh")
    assert isinstance(found, trimesh.Trimesh) and len(found.faces) > 50
    return found


@pytest.mark.parametrize("name", ["toybox", "video"])
def test_text_becomes_an_asset(name: str, tmp_path: Path, prior: Path) -> None:
    finished(made(name, tmp_path, prior, "stages.0.scene.count=400"))


def test_a_picture_becomes_an_asset_and_the_run_keeps_it(tmp_path: Path, prior: Path) -> None:
    shown = draw(program("mug"), orbit([0.0], 20.0, 3.2, 42.0), 64)
    picture = tmp_path / "mug.png"
    Image.fromarray((shown.over(0.9)[0, 0] * 255).byte().numpy()).save(picture)
    with pytest.raises(InputError, match="--image"):
        made("image", tmp_path, prior)
    run = made("image", tmp_path, prior, "image.elevation_deg=25", image=picture)
    picture.unlink()
    wanted = recipe.load(run.recipe_path(), TABLES)
    assert wanted.image.file == "image.png" and wanted.image.elevation_deg == 25
    finished(Run.open(run.path.rename(tmp_path / "moved")))


@pytest.mark.parametrize("stage", [0, 1])
def test_what_a_picture_does_not_show_has_its_colours(stage: int, tmp_path: Path, prior: Path) -> None:
    """A lilac ball, and a prior that knows nothing: from behind, what either stage makes is lilac, and not so
    without the term that carries the picture's colours round."""
    lilac = torch.tensor([0.62, 0.50, 0.80])
    shown = draw(program("ball"), orbit([0.0], 20.0, 3.2, 42.0), 64)
    rgba = torch.cat([lilac.expand(64, 64, 3), shown.alpha[0, 0]], -1)
    Image.fromarray((rgba * 255).byte().numpy()).save(tmp_path / "ball.png")

    def far(*more: str) -> float:
        few = (f"stages.{stage}.steps=24", "stages.0.scene.count=400", "stages.1.scene={kind: mesh, faces: 200}")
        run = made("image", tmp_path, prior, *few, *more, image=tmp_path / "ball.png")
        assembler = Assembler(pipeline.load_recipe(run), "cpu", run.path)
        built, ring = assembler.stage(stage, {}), Ring(METRICS, 24, "cpu")
        for i in range(24):
            step(built, i, ring)
        with torch.no_grad():
            frames = built.scene.render(orbit([150.0, 210.0], 20.0, 3.2, 42.0), 32, torch.ones(2, 3))
        solid = frames.alpha[..., 0] > 0.5
        alpha = frames.alpha[solid]
        assert len(alpha) > 50
        return float((((frames.rgb[solid] - 1 + alpha) / alpha) - lilac).norm(dim=-1).mean())

    without, kept = far(f"stages.{stage}.terms.2.weight=0"), far()
    assert kept < 0.5 * without


def test_nothing_is_left_where_the_picture_shows_nothing(tmp_path: Path) -> None:
    """A picture that a side was cut from, and a prior that is sure the object has it: from the picture's camera what
    is made has less than half as much there as with an eighth of the outline's weight."""
    camera, cut = orbit([0.0], 20.0, 3.2, 42.0), 14
    shown = draw(program("mug"), camera, 32)
    rgba = torch.cat([shown.rgb, shown.alpha], -1)[0, 0]
    rgba[..., :3] /= rgba[..., 3:].clamp(min=1e-6)
    rgba[:, :cut] = 0
    Image.fromarray((rgba.clamp(0, 1) * 255).byte().numpy()).resize((64, 64), 0).save(tmp_path / "cut.png")
    oracle = "stages.0.terms.1.guidance={kind: oracle}"
    few = ("image.fill=0", "stages.0.steps=80", "stages.0.size=32", "stages.0.scene.count=800", oracle)

    def beside(*more: str) -> float:
        run = pipeline.create("a mug", recipe.find("image"), tmp_path, [*few, *more], None, [], tmp_path / "cut.png")
        built, ring = Assembler(pipeline.load_recipe(run), "cpu", run.path).stage(0, {}), Ring(METRICS, 80, "cpu")
        for i in range(80):
            step(built, i, ring)
        with torch.no_grad():
            alpha = built.scene.render(camera, 32, torch.ones(1, 3)).alpha[0, ..., 0]
        assert float(alpha[:, cut + 2 :].sum()) > 30
        return float(alpha[:, : cut - 2].sum())

    light, kept = beside("stages.0.terms.0.system.mask=0.25"), beside()
    assert kept < 0.5 * light


def test_a_given_mesh_is_painted(tmp_path: Path, prior: Path) -> None:
    """The shape stays but for its simplification to 600 triangles; its base colour is a texture that has learnt."""
    file = write_object("a mushroom", tmp_path / "mushroom.obj", 0, False)
    run = made(
        "texture",
        tmp_path,
        prior,
        f"stages.paint.scene.file={file}",
        "stages.0.scene.faces=600",
        "stages.0.scene.texture=128",
        "stages.0.views=2",
    )
    file.unlink()
    found = finished(run)
    low, high = found.bounds
    points = np.array(found.vertices)
    assert np.linalg.norm(points - (low + high) / 2, axis=1).max() == pytest.approx(0.9, abs=0.02)
    base = np.asarray(found.visual.material.baseColorTexture.convert("RGB"), np.float32) / 255
    assert base.shape[0] == 128 and np.abs(base - 0.7).max() > 0.02


def test_a_true_object_is_written_gray_or_painted(tmp_path: Path) -> None:
    gray = trimesh.load(write_object("a duck", tmp_path / "duck.ply", 3, False), force="mesh")
    painted = trimesh.load(write_object("a red duck", tmp_path / "red.ply", 3, True), force="mesh")
    assert isinstance(gray, trimesh.Trimesh) and gray.is_watertight and isinstance(painted, trimesh.Trimesh)
    centre = torch.from_numpy(np.array(gray.vertices, np.float32)).mean(0)
    assert bool(inside(program("duck", seed=3), centre[None, None])[0, 0])
    colours = np.asarray(painted.visual.vertex_colors)[:, :3]
    assert (colours[:, 0].astype(int) > colours[:, 2] + 60).mean() > 0.5
    with pytest.raises(InputError, match=r"\.glb, \.obj or \.ply"):
        write_object("a duck", tmp_path / "duck.stl", 0, False)


def test_rings_stand_around_at_one_height() -> None:
    settings = OrbitSettings(ring=4)
    cameras = sample_orbit(settings, 8, torch.Generator().manual_seed(0))
    for group in (cameras[:4], cameras[4:]):
        gaps = torch.remainder(group.azimuth_deg.roll(-1) - group.azimuth_deg, 360.0)
        torch.testing.assert_close(gaps, torch.full((4,), 90.0), atol=1e-3, rtol=0)
        for value in (group.elevation_deg, group.distance, group.fovy_deg):
            torch.testing.assert_close(value, value[:1].expand(4))
    assert cameras.elevation_deg[0] != cameras.elevation_deg[4]
    plain = sample_orbit(OrbitSettings(), 8, torch.Generator().manual_seed(0))  # one stream of draws with or without
    torch.testing.assert_close(plain.elevation_deg[::4], cameras.elevation_deg[::4])
    torch.testing.assert_close(plain.fovy_deg[::4], cameras.fovy_deg[::4])

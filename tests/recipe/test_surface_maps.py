# SPDX-License-Identifier: Apache-2.0
"""Maps of depth and normals beside a user's picture: what is in them arrives in the world, however it is stored and
framed; bad ones are one line; DreamCraft3D's recipe runs on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamlab import recipe
from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError
from dreamlab.core.types import Framing, Reference
from dreamlab.recipe import load
from dreamlab.recipe.given import own_files
from dreamlab.recipe.models import on_embedded
from dreamlab.recipe.picture import PictureSettings, read_picture, reframed
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.toybox.draw import draw
from dreamlab.toybox.shapes import program

SIZE, ELEVATION = 96, 25.0
RECIPE = """
prompt: an object
stages:
  - name: shape
    scene: {kind: field, normals: analytic}
    terms: [{guidance: picture, views: given, system: {kind: photometric, depth: 1, normal: 1}}]
    given: {share: 1}
"""


def world(name: str = "mushroom", distance: float = 3.2, fovy: float = 42.0, elevation: float = ELEVATION) -> Reference:
    """The exact picture, depth and normals of an object of the procedural world."""
    camera = orbit([0.0], elevation, distance, fovy)
    shown = draw(program(name), camera, SIZE)
    alpha = shown.alpha[0, 0]
    rgb = (shown.rgb[0, 0] / alpha.clamp(min=1e-4)).clamp(0, 1)
    normal = torch.nn.functional.normalize(shown.normal[0, 0], dim=-1)
    return Reference(rgb, alpha, camera, shown.depth[0, 0], normal)


def stored(true: Reference, folder: Path, bits: int = 16, light: str = "far", grow: int = 1) -> dict[str, str]:
    """Picture and maps as files; written here by NumPy from the documented convention alone."""
    rgba = torch.cat([true.rgb, true.alpha], -1)
    Image.fromarray((rgba * 255).round().byte().numpy()).save(folder / "object.png")
    assert true.depth is not None and true.normal is not None
    there = true.alpha[..., 0] > 0
    low, high = true.depth[there].min(), true.depth[there].max()
    depth = ((true.depth[..., 0] - low) / (high - low)).clamp(0, 1).numpy()
    depth = np.where(there, depth if light == "far" else 1 - depth, 0.0)
    most = 2**bits - 1
    kind = np.uint16 if bits == 16 else np.uint8
    Image.fromarray((depth * most).round().astype(kind).repeat(grow, 0).repeat(grow, 1)).save(folder / "depth.png")
    turn = true.camera.camera_to_world[0, :3, :3].numpy()
    right, up, back = turn[:, 0], turn[:, 1], turn[:, 2]
    world_normal = true.normal.numpy()
    axes = np.stack([world_normal @ right, world_normal @ up, world_normal @ back], -1)
    pixels = np.where(there[..., None], ((axes + 1) / 2 * 255).round(), 0).astype(np.uint8)
    Image.fromarray(pixels.repeat(grow, 0).repeat(grow, 1)).save(folder / "normal.png")
    return {name: str(folder / f"{name}.png") for name in ("depth", "normal")} | {"file": str(folder / "object.png")}


def settings(files: dict[str, str], **more: object) -> PictureSettings:
    wanted = {"elevation_deg": ELEVATION, "distance": 3.2, "fovy_deg": 42.0, "fill": 0.0, **files, **more}
    return PictureSettings(**wanted)  # type: ignore[arg-type]


def degrees(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(torch.acos((a * b).sum(-1).clamp(-1, 1)))


def fits(found: Reference, true: Reference, inside: torch.Tensor) -> tuple[float, float]:
    """Largest error of depth after the best scale and shift, as a share of its range; largest angle of the normals."""
    assert found.depth is not None and found.normal is not None and true.depth is not None and true.normal is not None
    mine, theirs = found.depth[..., 0][inside].double(), true.depth[..., 0][inside].double()
    columns = torch.stack([mine, torch.ones_like(mine)], 1)
    scale, shift = torch.linalg.lstsq(columns, theirs[:, None]).solution[:, 0]
    assert scale > 0  # larger is farther
    worst = (scale * mine + shift - theirs).abs().max() / (theirs.max() - theirs.min())
    return float(worst), float(degrees(found.normal[inside], true.normal[inside]).max())


@pytest.mark.parametrize(
    ("bits", "light", "grow", "worst"),
    [(16, "far", 1, 1e-4), (8, "far", 1, 3e-3), (16, "near", 1, 1e-4), (16, "far", 3, 1e-4)],
)
def test_depth_and_normals_arrive_in_the_world(tmp_path: Path, bits: int, light: str, grow: int, worst: float) -> None:
    true = world()
    files = stored(true, tmp_path, bits, light, grow)
    found = read_picture(Path(files["file"]), settings(files, depth_light=light))
    depth, angle = fits(found, true, true.alpha[..., 0] > 0.99)
    assert depth < worst and angle < 0.7  # 8 bits of a normal are good for 0.4 degrees
    assert found.depth is not None and found.depth[true.alpha == 0].abs().max() == 0


def test_the_axes_of_a_normal_map_are_those_of_the_camera(tmp_path: Path) -> None:
    """By hand, seen from 30 degrees above: blue looks at the camera, red to +X, green along the camera's up."""
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:, :24], colours[:, 24:40], colours[:, 40:] = (255, 128, 128), (128, 255, 128), (128, 128, 255)
    Image.fromarray(colours).save(tmp_path / "normal.png")
    solid = np.zeros((64, 64, 4), np.uint8)
    solid[2:-2, 2:-2] = 255
    Image.fromarray(solid).save(tmp_path / "object.png")
    given = PictureSettings(fill=0.0, elevation_deg=30.0, normal=str(tmp_path / "normal.png"))
    found = read_picture(tmp_path / "object.png", given)
    assert found.normal is not None and found.depth is None
    s, c = math.sin(math.radians(30)), math.cos(math.radians(30))
    for column, wanted in ((10, (1.0, 0.0, 0.0)), (32, (0.0, c, -s)), (56, (0.0, s, c))):
        assert degrees(found.normal[32, column], torch.tensor(wanted)) < 0.7


def test_a_run_keeps_its_own_maps_framed_as_the_picture_is(tmp_path: Path) -> None:
    """Cut to the object's box and squared: the copies read back as the reference that was stored, and still fit."""
    true = world()
    files = stored(true, tmp_path, light="near")
    listed = ", ".join(f"{name}: {file}" for name, file in files.items())
    image = f"image: {{{listed}, depth_light: near, fill: 0.8, fit: false, elevation_deg: {ELEVATION}}}"
    made = load(f"{image}{RECIPE}", TABLES)
    kept, copies = own_files(made, tmp_path)
    assert set(copies) == {"image.png", "image_depth.png", "image_normal.png"}
    run = tmp_path / "run"
    run.mkdir()
    for name, data in copies.items():
        (run / name).write_bytes(data)
    before = read_picture(Path(files["file"]), made.image)
    for name in files:
        Path(files[name]).unlink()
    after = Assembler(kept, "cpu", run).prompts[0].image
    assert after is not None and after.depth is not None and before.depth is not None
    inside = before.alpha[..., 0] > 0.99
    torch.testing.assert_close(after.depth[inside], before.depth[inside], atol=1 / 65535, rtol=0)
    assert fits(after, before, inside)[1] < 0.7
    # The object now fills 0.8 of the side: what stood at the box's centre in depth and normal stands in the middle.
    rows, columns = (torch.nonzero((true.alpha[..., 0] > 0.5).any(axis)).flatten() for axis in (1, 0))
    middle = int(rows[0] + rows[-1]) // 2, int(columns[0] + columns[-1]) // 2
    half = after.alpha.shape[0] // 2
    assert true.normal is not None and after.normal is not None
    assert degrees(after.normal[half, half], true.normal[middle]) < 15


def test_maps_move_with_the_picture() -> None:
    """A tilted plane on a disc, made half as large again about another place: depth is linear in the old place."""
    place = (torch.arange(96) + 0.5) * (2 / 96) - 1
    x, y = torch.meshgrid(place, place, indexing="xy")
    disc = ((x.square() + y.square()) < 0.16).float()[..., None]
    normal = torch.tensor([0.6, 0.0, 0.8]).expand(96, 96, 3)
    before = Reference(torch.full((96, 96, 3), 0.5), disc, orbit([0.0]), (0.5 + 0.3 * x - 0.2 * y)[..., None], normal)
    after = reframed(before, Framing(1.5, (0.0, 0.1), (0.2, -0.1)))
    assert after.depth is not None and after.normal is not None
    inside = after.alpha[..., 0] > 0.999
    expected = 0.5 + 0.3 * (x - 0.2) / 1.5 - 0.2 * ((y + 0.1) / 1.5 + 0.1)
    torch.testing.assert_close(after.depth[..., 0][inside], expected[inside], atol=1e-3, rtol=0)
    torch.testing.assert_close(after.normal[inside], normal[inside], atol=1e-5, rtol=0)
    assert inside.sum() > 500 and after.depth[after.alpha == 0].abs().max() == 0


def test_bad_maps_are_one_line(tmp_path: Path) -> None:
    files = stored(world(), tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "colour.png")
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    Image.fromarray(noise[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(noise[:60]).save(tmp_path / "wide.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "depth.png").read_bytes()[:200])
    cases = {
        ("depth", "absent.png"): "no such file",
        ("depth", "colour.png"): "a map of depth is gray",
        ("depth", "photo.jpg"): "cannot be read as PNG",
        ("depth", "cut.png"): "cannot be read as PNG",
        ("depth", "wide.png"): "96 x 60 pixels are not the shape of the picture's 96 x 96",
        ("normal", "gray.png"): "three channels",
        ("normal", "wide.png"): "not the shape",
    }
    for (name, file), said in cases.items():
        with pytest.raises(InputError) as caught:
            read_picture(Path(files["file"]), settings(files, **{name: str(tmp_path / file)}))
        told = str(caught.value)
        assert said in told and file in told and f"image.{name}" in told and "\n" not in told, told


def test_a_weight_on_what_nobody_gave_is_said_before_a_run(tmp_path: Path) -> None:
    files = stored(world(), tmp_path)
    wanted = load(recipe.find("paper/dreamcraft3d").read_text(encoding="utf-8"), TABLES)
    bare = replace(wanted, image=replace(wanted.image, file=files["file"]))
    with pytest.raises(InputError, match=r"photometric compares the picture's depth.*image\.depth=FILE"):
        own_files(bare, tmp_path)
    own_files(replace(bare, image=replace(bare.image, depth=files["depth"], fit=False)), tmp_path)


def test_dreamcraft3ds_recipe_runs_on_a_given_picture_and_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps of the packaged recipe on a tiny field, two of them on the given view: healthy, its depth counts."""
    for name in ("DREAMLAB_MODELS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    files = stored(world("mushroom", 3.8, 20.0, 0.0), tmp_path)
    small = ["stages.0.size=12", "stages.0.steps=4", "stages.0.scene.log2_entries=8", "stages.0.scene.levels=4"]
    slopes = []
    for depth in (0.05, 0.0):
        given = [f"image.{name}={file}" for name, file in files.items()]
        more = [*small, *given, f"stages.0.terms.0.system.depth={depth}", "image.fit=false", "image.fill=0"]
        wanted, notes = on_embedded(load(recipe.find("paper/dreamcraft3d").read_text("utf-8"), TABLES, overrides=more))
        assert len(notes) == 2  # DeepFloyd IF and Zero123 are not here
        kept, copies = own_files(wanted, tmp_path)
        for name, data in copies.items():
            (tmp_path / name).write_bytes(data)
        stage, ring = Assembler(kept, "cpu", tmp_path).stage(0), Ring(METRICS, 4, "cpu")
        for i in range(4):
            step(stage, i, ring)
        rows = ring.drain()
        assert len(rows) == 4 and all(row["healthy"] == 1 and math.isfinite(row["loss"]) for row in rows)
        assert sum(row["grad_rms"] > 0 for row in rows) == 2  # the others have no diffusion model
        slopes.append(rows[[row["grad_rms"] for row in rows].index(0)]["loss"])
    assert slopes[0] > slopes[1]

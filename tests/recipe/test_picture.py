# SPDX-License-Identifier: Apache-2.0
"""Pictures from users: what is cut out is what is there, and every bad file is one line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamlab import pipeline, recipe
from dreamlab.core.cameras import orbit
from dreamlab.core.errors import DreamError, InputError, RecipeError
from dreamlab.core.types import Framing, Reference
from dreamlab.recipe import load
from dreamlab.recipe.given import own_files
from dreamlab.recipe.picture import NEAR, PictureSettings, png_of, read_picture, reframed
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.folder import Run
from dreamlab.toybox.draw import draw
from dreamlab.toybox.shapes import program

KEEP = PictureSettings(fill=0.0)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **how: object) -> Path:
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **how)  # type: ignore[arg-type]
    return path


def disc(size: int = 96, radius: float = 30.0, at: tuple[float, float] = (48.0, 48.0)) -> torch.Tensor:
    """[S, S, 1] exact coverage, to a sixteenth of a pixel."""
    line = (torch.arange(size * 16) + 0.5) / 16
    inside = (line[:, None] - at[1]) ** 2 + (line[None] - at[0]) ** 2 < radius**2
    return inside.float().reshape(size, 16, size, 16).mean((1, 3))[..., None]


def as_bytes(rgb: torch.Tensor) -> np.ndarray:
    return (rgb.clamp(0, 1) * 255).round().byte().numpy()


def test_a_plain_background_is_taken_away_and_what_it_encloses_stays(tmp_path: Path) -> None:
    """A green disc with an eye of the background's colour: the eye is not background, and edges are unmixed."""
    cover, eye = disc(), disc(radius=6.0)
    ground, green = torch.tensor([0.9, 0.88, 0.85]), torch.tensor([0.1, 0.6, 0.2])
    rgb = cover * (green * (1 - eye) + ground * eye) + (1 - cover) * ground
    found = read_picture(saved(tmp_path / "disc.png", as_bytes(rgb)), KEEP)
    assert found.rgb.shape == (96, 96, 3) and found.alpha.shape == (96, 96, 1)
    faint = NEAR / float((green - ground).abs().max())  # a pixel with less of the object is taken for background
    assert (found.alpha - cover).abs().max() <= faint and abs(float(found.alpha.sum() / cover.sum()) - 1) < 0.01
    rim = (cover > 0.3) & (cover < 0.7)
    torch.testing.assert_close(found.rgb[rim[..., 0]], green.expand(int(rim.sum()), 3), atol=0.02, rtol=0)
    middle = found.rgb[48, 48]
    torch.testing.assert_close(middle, ground, atol=0.01, rtol=0)


def test_alpha_is_believed_and_colours_under_nothing_do_not_bleed(tmp_path: Path) -> None:
    cover = disc()
    rgb = torch.where(cover > 0, torch.tensor([0.2, 0.3, 0.8]), torch.tensor([1.0, 0.0, 0.0]))
    path = saved(tmp_path / "disc.png", as_bytes(torch.cat([rgb, cover], -1)))
    found = read_picture(path, PictureSettings(fill=0.5))
    there = found.alpha[..., 0] > 0.2
    assert (found.rgb[there] - torch.tensor([0.2, 0.3, 0.8])).abs().max() < 0.02
    rows = torch.nonzero(there.any(1)).flatten()
    side = found.alpha.shape[0]
    assert abs((int(rows[-1]) - int(rows[0]) + 1) / side - 0.5) < 0.03
    assert abs((int(rows[-1]) + int(rows[0]) + 1) / 2 - side / 2) <= 1  # centred


def test_wide_pictures_are_padded_and_large_ones_shrink(tmp_path: Path) -> None:
    rgb = np.full((300, 900, 3), 250, np.uint8)
    rgb[100:200, 400:500] = (200, 10, 10)
    found = read_picture(saved(tmp_path / "wide.jpg", rgb, quality=95), KEEP)
    assert found.rgb.shape == (256, 256, 3)
    rows, columns = (torch.nonzero((found.alpha[..., 0] > 0.5).any(axis)).flatten() for axis in (1, 0))
    assert abs(len(rows) - 256 / 9) < 2.5 and abs(len(columns) - 256 / 9) < 2.5
    assert abs(int(rows[0]) - 256 * (300 + 100) / 900) < 2.5
    torch.testing.assert_close(found.camera.camera_to_world, orbit([0.0], 20.0, 3.2, 42.0).camera_to_world)


def test_a_picture_of_the_world_is_kept_as_it_was_taken(tmp_path: Path) -> None:
    """With alpha and `fill: 0`, size kept: what a renderer drew is what a term compares with. Twice is once."""
    shown = draw(program("mug"), orbit([0.0], 20.0, 3.2, 42.0), 64)
    alpha = shown.alpha[0, 0]
    straight = shown.rgb[0, 0] / alpha.clamp(min=1e-4)
    path = saved(tmp_path / "mug.png", as_bytes(torch.cat([straight, alpha], -1)))
    found = read_picture(path, KEEP)
    torch.testing.assert_close(found.rgb * found.alpha, shown.rgb[0, 0], atol=0.005, rtol=0)
    again_path = tmp_path / "again.png"
    again_path.write_bytes(png_of(found))
    again = read_picture(again_path, KEEP)
    assert png_of(again) == png_of(found)


def test_pictures_turned_by_exif_are_upright(tmp_path: Path) -> None:
    rgb = np.full((64, 64, 3), 255, np.uint8)
    rgb[4:20, 24:40] = (0, 0, 200)  # at the top
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=95, exif=turned)
    path = tmp_path / "turned.jpg"
    path.write_bytes(buffer.getvalue())
    rows = torch.nonzero((read_picture(path, KEEP).alpha[..., 0] > 0.5).any(1)).flatten()
    assert int(rows[0]) > 40


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    whole = saved(folder / "whole.png", noisy)
    (folder / "cut.png").write_bytes(whole.read_bytes()[:2000])
    saved(folder / "gif.gif", noisy)
    deep = Image.fromarray(rng.integers(0, 60000, (64, 64)).astype(np.uint16))
    deep.save(folder / "deep.png")
    said = {
        "absent.png": "no such file",
        "text.png": "cannot be read as PNG or JPEG",
        "empty.png": "cannot be read",
        "cut.png": "cannot be read",
        "gif.gif": "cannot be read as PNG or JPEG",
        "deep.png": "16 or 32 bits",
        "noisy.png": "not plain",
        "plain.png": "no object found",
        "clear.png": "no object found",
        "small.png": "8 x 64 pixels",
        "long.png": "9000 x 20 pixels",
    }
    saved(folder / "noisy.png", noisy)
    saved(folder / "plain.png", np.full((64, 64, 3), 200, np.uint8))
    saved(folder / "clear.png", np.zeros((64, 64, 4), np.uint8))
    saved(folder / "small.png", np.zeros((64, 8, 3), np.uint8))
    saved(folder / "long.png", np.zeros((20, 9000, 3), np.uint8))
    return {name: (folder / name, words) for name, words in said.items()}


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    for name, (path, words) in bad_files(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read_picture(path, PictureSettings())
        assert words in str(caught.value) and name in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


RECIPE = """
prompt: a ball
image: {{file: "{image}", elevation_deg: 10, fill: 0.5, fit: false}}
stages:
  - name: paint
    scene: {{kind: mesh, file: "{mesh}", texture: 16}}
    terms:
      - {{guidance: {guidance}, system: {{kind: sds}}}}
    steps: 2
    size: 16
    views: 1
"""


def test_what_a_recipe_names_becomes_the_runs_own(tmp_path: Path) -> None:
    """The files may go and the folder may move; the copies are what the originals were."""
    image = saved(tmp_path / "disc.png", as_bytes(torch.cat([disc().expand(-1, -1, 3) * 0.5, disc()], -1)))
    (tmp_path / "tent.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    text = RECIPE.format(image="disc.png", mesh="tent.obj", guidance="toybox-novel")
    made, files = own_files(load(text, TABLES), tmp_path)
    assert set(files) == {"image.png", "paint.ply"} and made.image.file == "image.png" and made.image.fill == 0
    run = tmp_path / "run"
    run.mkdir()
    for name, data in files.items():
        (run / name).write_bytes(data)
    kept, before = read_picture(run / "image.png", made.image), read_picture(image, PictureSettings(fill=0.5))
    torch.testing.assert_close(kept.rgb * kept.alpha, before.rgb * before.alpha, atol=0.005, rtol=0)
    assert float(kept.camera.elevation_deg) == 10
    plain = RECIPE.format(image="", mesh="paint.ply", guidance="oracle")
    vertices = Assembler(load(plain, TABLES), "cpu", run).stage(0).scene.surface.vertices  # type: ignore[attr-defined]
    other = RECIPE.format(image="", mesh="tent.obj", guidance="oracle")
    original = Assembler(load(other, TABLES), "cpu", tmp_path).stage(0).scene.surface.vertices  # type: ignore[attr-defined]
    torch.testing.assert_close(vertices, original)
    assert isinstance(run, Path) and len(vertices) == 4


def test_a_picture_is_moved_and_enlarged_about_what_is_asked_for() -> None:
    """A disc of radius 0.3 about the middle, made half as large again about (0.2, -0.1)."""
    place = (torch.arange(96) + 0.5) * (2 / 96) - 1
    x, y = place[None, :], place[:, None]
    disc = ((x.square() + y.square()) < 0.09).float()[..., None]
    camera = orbit([0.0], 20.0, 3.2, 42.0)
    before = Reference(disc * torch.tensor([1.0, 0.5, 0.0]), disc, camera)
    after = reframed(before, Framing(1.5, (0.0, 0.0), (0.2, -0.1)))
    wanted = (((x - 0.2).square() + (y + 0.1).square()) < 0.45**2).float()[..., None]
    assert (after.alpha - wanted).abs().mean() < 0.01
    inside = wanted[..., 0].bool() & (after.alpha[..., 0] > 0.99)
    torch.testing.assert_close(after.rgb[inside], torch.tensor([1.0, 0.5, 0.0]).expand(int(inside.sum()), 3))
    same = reframed(before, Framing(1.0, (0.3, 0.4), (0.3, 0.4)))
    torch.testing.assert_close(same.alpha, before.alpha, atol=1e-4, rtol=0)


def test_a_recipes_picture_stands_as_its_guidance_knows_such_an_object(tmp_path: Path) -> None:
    """A true car, cropped to its box: the run's copy lies over the picture that it was cropped from."""
    shown = draw(program("car"), orbit([40.0], 20.0, 3.2, 42.0), 128)
    picture = torch.cat([shown.rgb[0, 0], shown.alpha[0, 0]], -1)
    straight = torch.cat([(picture[..., :3] / picture[..., 3:].clamp(min=1e-4)).clamp(0, 1), picture[..., 3:]], -1)
    rows, columns = (torch.nonzero((picture[..., 3] > 0).any(axis)).flatten() for axis in (1, 0))
    tight = straight[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    padded = torch.nn.functional.pad(tight.permute(2, 0, 1), [4] * 4).permute(1, 2, 0)
    image = saved(tmp_path / "car.png", as_bytes(padded))
    source, overlap = recipe.find("image").read_text(encoding="utf-8"), {}
    for fit in (True, False):
        made = load(f"image: {{file: {image}, fit: {str(fit).lower()}}}\n{source}", TABLES)
        (tmp_path / "kept.png").write_bytes(own_files(made, tmp_path)[1]["image.png"])
        kept = read_picture(tmp_path / "kept.png", KEEP).alpha.permute(2, 0, 1)[None]
        mask = torch.nn.functional.interpolate(kept, (128, 128), mode="bilinear", antialias=True)[0, 0] > 0.5
        true = picture[..., 3] > 0.5
        overlap[fit] = float((mask & true).sum() / (mask | true).sum())
    assert overlap[True] > 0.9 > 0.8 > overlap[False]


def test_a_picture_without_a_use_and_a_use_without_a_picture_are_said(tmp_path: Path) -> None:
    image = saved(tmp_path / "disc.png", as_bytes(torch.cat([disc().expand(-1, -1, 3), disc()], -1)))
    for name, guidance, error in ((str(image), "oracle", RecipeError), ("", "toybox-novel", InputError)):
        with pytest.raises(error, match="--image") as caught:
            own_files(load(RECIPE.format(image=name, mesh="", guidance=guidance), TABLES), tmp_path)
        assert isinstance(caught.value, DreamError)


def test_a_run_with_a_mesh_of_its_own_resumes_without_the_original(tmp_path: Path) -> None:
    (tmp_path / "tent.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    source = tmp_path / "recipe.yaml"
    more = "export: {turntable: 2, size: 32}\n"
    source.write_text(RECIPE.format(image="", mesh="tent.obj", guidance="oracle") + more)
    run = pipeline.create(None, source, tmp_path / "runs", [], None, [])
    (tmp_path / "tent.obj").unlink()
    files = pipeline.execute(run)
    moved = run.path.rename(tmp_path / "elsewhere")
    first = (moved / "export" / "model.glb").read_bytes()
    assert any(path.name == "model.glb" for path in files)
    pipeline.execute(Run.open(moved))
    assert (moved / "export" / "model.glb").read_bytes() == first

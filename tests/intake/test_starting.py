# SPDX-License-Identifier: Apache-2.0
"""A run that begins as a file: every kind of scene looks like it, in its colours; what is odd is refused in a line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from configs import find
from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.types import Splats
from dreamlab.export.splats.ply import splat_ply_bytes
from dreamlab.intake.starting import beginnings
from dreamlab.recipe.given import kept
from dreamlab.recipe.tables import TABLES
from tests.conftest import Commands
from tests.intake.awkward import AWKWARD, Writer, ball

SIZE = 64
CAMERA = orbit([30.0], 20.0, 3.2, 42.0)


def halves(folder: Path) -> Path:
    """A ball of radius 3, off-centre, whose texture is red above and blue below."""
    made = Writer()
    picture = Image.new("RGB", (64, 64), (230, 20, 20))
    picture.paste((20, 20, 230), (0, 32, 64, 64))
    image = made.image(64, 64, (0, 0, 0))
    import io

    packed = io.BytesIO()
    picture.save(packed, "WEBP", lossless=True)
    made.document["images"][image] = {"bufferView": made.view(packed.getvalue(), None), "mimeType": "image/webp"}
    made.document |= {"extensionsUsed": ["EXT_texture_webp"], "extensionsRequired": ["EXT_texture_webp"]}
    skin = made.material("skin", made.texture(image, extensions={"EXT_texture_webp": {"source": image}}))
    made.mesh(made.primitive(ball(16, 24, radius=3.0, at=(10.0, -4.0, 2.0)), skin))
    (folder / "halves.glb").write_bytes(made.bytes())
    return folder / "halves.glb"


def begun(kind: str, key: str, file: Path, folder: Path, **more: Any) -> Tensor:
    """[SIZE, SIZE, 4] of a scene that begins as the run's own copy of a file."""
    suffix, data = kept({"file": "cloud" if kind == "gaussians" else "mesh"}.get(key, key), file)
    own = folder / f"own{suffix}"
    own.write_bytes(data)
    form = TABLES.scenes[kind]
    scene = form(form.Settings(**{key: str(own)}, **more), torch.Generator().manual_seed(0))
    with torch.no_grad():
        frames = scene.render(CAMERA, SIZE, torch.ones(1, 3))
    return torch.cat([frames.rgb[0].clamp(0, 1), frames.alpha[0]], -1)


def truth() -> Tensor:
    """The same view of a ball of radius 0.9: red above, blue below its middle; by rays, without the product."""
    eye = CAMERA.camera_to_world[0, :3, 3].double()
    turn, focal = CAMERA.camera_to_world[0, :3, :3].double(), 0.5 * SIZE / math.tan(math.radians(42.0) / 2)
    row, column = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    ray = (
        torch.stack([(column - SIZE / 2) / focal, (SIZE / 2 - row) / focal, -torch.ones_like(row)], -1).double()
        @ turn.T
    )
    ray = ray / ray.norm(dim=-1, keepdim=True)
    b, c = (ray * eye).sum(-1), eye @ eye - 0.81
    hit = b * b - c > 0
    height = (eye + (-b - (b * b - c).clamp(min=0).sqrt())[..., None] * ray)[..., 1]
    red, blue = torch.tensor([230, 20, 20]).double() / 255, torch.tensor([20, 20, 230]).double() / 255
    colour = torch.where(hit[..., None], torch.where(height[..., None] > 0, red, blue), 1.0)
    return torch.cat([colour, hit[..., None].double()], -1).float()


@pytest.mark.parametrize(("kind", "key", "more", "least"), [
    ("gaussians", "file", {"start": "file", "count": 8000, "opacity": 0.95}, 0.86),
    ("field", "file", {"levels": 6, "occupancy": 32}, 0.9),
    ("dmtet", "mesh", {"start": "mesh", "resolution": 32}, 0.93),
    ("mesh", "asset", {"texture": 128}, 0.96),
    ("mesh", "file", {"texture": 128}, 0.9),
])  # fmt: skip
def test_every_kind_begins_with_the_files_colours(
    kind: str, key: str, more: dict[str, Any], least: float, tmp_path: Path
) -> None:
    """Alpha and the colour of the halves against a picture traced by hand."""
    seen, wanted = begun(kind, key, halves(tmp_path), tmp_path, **more), truth()
    solid, there = seen[..., 3] > 0.5, wanted[..., 3] > 0.5
    overlap = float((solid & there).sum() / (solid | there).sum())
    assert overlap > least, overlap
    both = solid & there
    right = (seen[..., 0] > seen[..., 2]) == (wanted[..., 0] > wanted[..., 2])
    assert float(right[both].float().mean()) > 0.93
    assert float((seen[..., :3] - wanted[..., :3]).abs()[both].mean()) < 0.1


def test_gaussians_begin_as_gaussians(tmp_path: Path) -> None:
    """As they are in the file, but for where and how large: opacity, colour, proportions and turn."""
    stream = torch.Generator().manual_seed(1)
    means = torch.randn(500, 3, generator=stream)
    quats = torch.nn.functional.normalize(torch.randn(500, 4, generator=stream), dim=-1)
    scales = torch.rand(500, 3, generator=stream) * 0.05 + 0.01
    opacity, harmonics = torch.rand(500, generator=stream) * 0.9 + 0.05, torch.randn(500, 4, 3, generator=stream) * 0.3
    (tmp_path / "a.ply").write_bytes(splat_ply_bytes(Splats(means, quats, scales, opacity, harmonics), {}, "rub"))
    suffix, data = kept("cloud", tmp_path / "a.ply")
    assert suffix == ".ply" and data == (tmp_path / "a.ply").read_bytes()
    form = TABLES.scenes["gaussians"]
    scene = form(form.Settings(start="file", file=str(tmp_path / "a.ply"), sh_degree=1), torch.Generator())
    found = scene.splats()
    assert len(found.means) == 500
    torch.testing.assert_close(found.opacity, opacity, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.harmonics, harmonics, atol=1e-3, rtol=0)
    torch.testing.assert_close((found.quats * quats).sum(-1).abs(), torch.ones(500), atol=1e-4, rtol=0)
    factor = (found.scales / scales).mean()
    torch.testing.assert_close(found.scales, scales * factor, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        found.means[1:] - found.means[:-1], factor * (means[1:] - means[:-1]), atol=1e-3, rtol=1e-3
    )
    assert 0.85 < float(torch.quantile(found.means.norm(dim=-1), 0.99)) < 0.95


@pytest.mark.parametrize(("name", "recipe", "wanted"), [
    ("m.glb", "toybox", ["start=file", "file=m.glb"]),
    ("m.glb", "texture", ["asset=m.glb"]),
    ("bare.glb", "texture", ["file=bare.glb"]),
    ("m.stl", "texture", ["file=m.stl"]),
    ("m.glb", "fit-field", ["file=m.glb"]),
    ("m.glb", "fit-dmtet", ["start=mesh", "mesh=m.glb"]),
])  # fmt: skip
def test_settings_follow_the_scene(name: str, recipe: str, wanted: list[str], tmp_path: Path) -> None:
    (tmp_path / "m.glb").write_bytes(AWKWARD["webp"]().bytes())
    (tmp_path / "bare.glb").write_bytes(AWKWARD["without"]().bytes())
    trimesh.creation.icosphere().export(tmp_path / "m.stl")
    found = beginnings(tmp_path / name, find(recipe), [])
    *found, place = [each.replace(f"{tmp_path}/", "") for each in found]
    assert found == [f"stages.0.scene.{each}" for each in wanted] and place.startswith("export.place=[1.11")


def test_what_cannot_begin_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.splat").write_bytes(np.zeros(32, np.uint8).tobytes())
    (tmp_path / "m.glb").write_bytes(AWKWARD["webp"]().bytes())
    with pytest.raises(InputError, match="holds Gaussians, and the recipe begins with mesh"):
        beginnings(tmp_path / "a.splat", find("texture"), [])
    with pytest.raises(InputError, match="no such file"):
        beginnings(tmp_path / "none.glb", find("toybox"), [])
    with pytest.raises(RecipeError, match="a scene of gaussians4d cannot begin as a file"):
        beginnings(tmp_path / "m.glb", find("fit-gaussians4d"), ["stages.0.scene.kind=gaussians4d"])


def test_a_run_begins_as_a_mesh(dreamlab: Commands, tiny: Path, tmp_path: Path) -> None:
    """The whole way: the run keeps a copy of its own, and goes on without the file."""
    file = halves(tmp_path)
    ended = dreamlab("dream", "a red mushroom with a white stem", "--recipe", str(tiny), "--init", str(file))
    assert ended.code == 0, ended.err
    run = tmp_path / ended.out.splitlines()[-1]
    assert "start: file" in (run / "recipe.yaml").read_text() and (run / "shape.ply").is_file()
    # Where the file had it, and as large: a ball of radius 3 around (10, -4, 2).
    low, high = trimesh.load(run / "export" / "model.glb").bounds
    np.testing.assert_allclose((low + high) / 2, [10.0, -4.0, 2.0], atol=1.5)
    assert 2.0 < (high - low).max() / 2 < 4.5

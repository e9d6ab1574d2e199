# SPDX-License-Identifier: Apache-2.0
"""The self-check: what is read back is what was written, pictures of a file are measured as the formula says, and a
file that is wrong is found out, with the step that spoiled it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Frames, Mesh, Skin, Splats, Track
from dreamlab.export.check import FLOORS, compared, line, lost_by
from dreamlab.export.drawing import Viewed, at
from dreamlab.export.formats import WRITERS
from dreamlab.export.placing import Placing, placed, placing
from dreamlab.export.product import Product
from dreamlab.export.readback import read_back
from dreamlab.export.readback_motion import motion_back
from renderers.surface.views import all_around
from tests.export.test_glb import ball
from tests.export.viewer import Glb
from tests.wiring.test_assets import Solid, exported, slots


def frames(rgb: Tensor, alpha: Tensor) -> Frames:
    return Frames(rgb[None], alpha[None, ..., None], alpha[None, ..., None], torch.ones(1, 3))


def test_only_the_object_counts() -> None:
    """8 x 8 pixels, 16 of them the scene's object, 16 the file's, 8 of both: an error of 0.1 on the file's half alone
    is 10 log10(24 / 16 / 0.01) dB of the 24, 8 / 24 of the outline, and 0.1 in colour where both are."""
    white, one, two = torch.ones(8, 8, 3), torch.zeros(8, 8), torch.zeros(8, 8)
    one[:, :2], two[:, 1:3] = 1, 1
    seen = compared(frames(white, one), frames(white - 0.1 * two[..., None], two))[0]
    assert seen.psnr == pytest.approx(10 * math.log10(24 / 16 / 0.01), abs=1e-3)
    assert seen.iou == pytest.approx(8 / 24) and seen.colour == pytest.approx(0.1)
    same = compared(frames(white, one), frames(white, one))[0]
    assert same.psnr == pytest.approx(100) and same.iou == 1 and same.colour == 0


def test_the_step_that_lost_most_is_named() -> None:
    steps = [{"name": "extract", "psnr": 31.0}, {"name": "decimate", "psnr": 30.0}, {"name": "bake", "psnr": 21.0}]
    assert lost_by(steps) == "bake"
    assert lost_by([{"name": "extract", "psnr": 15.0}, {"name": "bake", "psnr": 15.5}]) == "extract"
    assert lost_by([{"name": "write"}]) == "unknown"
    found = {"file": "model.glb", "psnr": 20.0, "silhouette_iou": 0.99, "below": {"psnr": 26.0}, "lost_by": "bake"}
    assert line(found).endswith("below 26 dB: most is lost by the step 'bake'; look at check.png")


@pytest.mark.parametrize("kind", ["glb", "gltf", "obj", "ply"])
def test_what_is_read_back_is_what_was_written(tmp_path: Path, kind: str) -> None:
    mesh = ball(2)
    files = WRITERS[kind].write(Product("ball", mesh))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    read = read_back(tmp_path / f"model.{kind}")
    torch.testing.assert_close(corners(read), corners(mesh), atol=1e-5, rtol=0)
    if kind != "obj":  # its colours are a picture, for readers that know no others
        assert read.textures is None
        torch.testing.assert_close(read.colours[read.faces], mesh.colours[mesh.faces], atol=0.003, rtol=0)


def corners(mesh: Mesh) -> Tensor:
    """[F, 3, 3] in the order of the middles: an OBJ's reader may put its triangles in another."""
    found = mesh.vertices[mesh.faces].double()
    key = (found.mean(1) * torch.tensor([1.0, 1e2, 1e4])).sum(-1)
    return found[key.argsort()]


@pytest.mark.parametrize("kind", ["glb", "gltf"])
def test_textures_are_read_back_from_their_own_slots(tmp_path: Path, kind: str) -> None:
    mesh = slots()
    assert mesh.textures is not None and mesh.uv is not None
    for name, data in WRITERS[kind].write(Product("ball", mesh)).items():
        (tmp_path / name).write_bytes(data)
    read = read_back(tmp_path / f"model.{kind}")
    assert read.textures is not None and read.uv is not None
    torch.testing.assert_close(read.uv, mesh.uv, atol=1e-6, rtol=0)
    for name in ("base", "roughness", "metallic", "normal"):
        mine, theirs = getattr(mesh.textures, name), getattr(read.textures, name)
        torch.testing.assert_close(theirs, mine, atol=0.0021, rtol=0)


def test_a_file_is_drawn_as_its_scene_is_and_a_spoilt_one_is_found_out(tmp_path: Path) -> None:
    scene = Solid(ball(3))
    run, _ = exported(tmp_path, scene, "glb", settings=("export.texture=0", "export.faces=9000", "export.fit=false"))
    check = json.loads((run.export / "report.json").read_text())["check"]
    assert check["psnr"] > 45 and check["silhouette_iou"] > 0.999 and "below" not in check
    assert check["file"] == "model.glb" and (run.export / "check.png").is_file()
    mesh = read_back(run.export / "model.glb")
    cameras = all_around(4)
    truth = scene.render(cameras, 96, torch.ones(4, 3))
    for spoilt in (
        replace(mesh, colours=mesh.colours[:, [1, 0, 2]]),
        replace(mesh, vertices=mesh.vertices[:, [2, 1, 0]] * torch.tensor([1.0, 1.0, 0.8])),
    ):
        seen = compared(truth, Viewed(spoilt).render(cameras, 96, torch.ones(4, 3)))
        assert all(view.psnr < FLOORS["psnr"] for view in seen)


def test_a_normal_texture_bends_what_a_light_sees_and_a_flat_look_does_not_care() -> None:
    """Under a light that shows normals as colours, a texture that leans by 45 degrees along u leans the picture."""
    mesh = slots()
    assert mesh.textures is not None and mesh.tangents is not None

    class Shows:
        def lit(self, view: object, made: object, normal: Tensor) -> Tensor:
            return (normal + 1) / 2

    lean = torch.tensor([0.5 + 0.5**0.5 / 2, 0.5, 0.5 + 0.5**0.5 / 2])
    leaning = replace(mesh, textures=replace(mesh.textures, normal=lean.expand(16, 16, 3).contiguous()))
    straight = torch.tensor([0.5, 0.5, 1.0]).expand(16, 16, 3).contiguous()
    flat = replace(mesh, textures=replace(mesh.textures, normal=straight))
    cameras, white = all_around(3), torch.ones(3, 3)
    a, b = (Viewed(each, Shows()).render(cameras, 64, white) for each in (leaning, flat))
    inside = (a.alpha > 0.99) & (b.alpha > 0.99)
    cos = ((2 * a.rgb - 1) * (2 * b.rgb - 1)).sum(-1, keepdim=True)[inside]
    assert cos.median() == pytest.approx(0.5**0.5, abs=0.03)
    plain = [Viewed(each).render(cameras, 64, white).rgb for each in (leaning, flat)]
    torch.testing.assert_close(plain[0], plain[1])


def test_height_and_origin_take_everything_along() -> None:
    """A ball of radius 0.7 at (0.1, 0.2, 0.3), to be 3 m high and stand on the ground: scale 3 / 1.4."""
    mesh = replace(ball(3), vertices=ball(3).vertices + torch.tensor([0.1, 0.2, 0.3]))
    where = placing(mesh, 3.0, "bottom")
    high = float(mesh.vertices[:, 1].max() - mesh.vertices[:, 1].min())
    assert where.scale == pytest.approx(3 / high)
    turn = torch.nn.functional.normalize(torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    g = torch.Generator().manual_seed(1)
    count = len(mesh.vertices)
    skin = Skin(
        torch.tensor([0.0, 1.0]),
        torch.randn(4, 3, generator=g),
        torch.randint(4, (count, 2), generator=g),
        torch.full((count, 2), 0.5),
        torch.randn(2, 4, 3, generator=g),
        turn,
    )
    splats = Splats(
        mesh.vertices, torch.randn(count, 4), torch.rand(count, 3), torch.rand(count), torch.rand(count, 1, 3)
    )
    track = Track(torch.tensor([0.0, 1.0]), torch.stack([mesh.vertices, mesh.vertices + 1]))
    made = placed(Product("ball", mesh, skin, (mesh,), splats=splats), where)
    low, top = made.mesh.vertices.aminmax(dim=0)
    assert low[1] == pytest.approx(0, abs=1e-5) and top[1] == pytest.approx(3, abs=1e-4)
    torch.testing.assert_close((low + top)[[0, 2]], torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(where.back(made.mesh.vertices), mesh.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(made.levels[0].vertices, made.mesh.vertices)
    assert made.splats is not None and isinstance(made.motion, Skin)
    torch.testing.assert_close(made.splats.scales, where.scale * splats.scales)
    moved = placed(Product("ball", mesh, track), where).motion
    assert isinstance(moved, Track)
    torch.testing.assert_close(moved.points[1] - moved.points[0], torch.full((count, 3), where.scale))
    # A point moved by the skin and then placed is the placed point moved by the placed skin.
    for moment in range(2):
        before = where.points(skinned(skin, mesh.vertices, moment))
        torch.testing.assert_close(skinned(made.motion, made.mesh.vertices, moment), before, atol=2e-5, rtol=1e-5)
    assert placing(mesh, None, "centre") == Placing()


def skinned(skin: Skin, points: Tensor, moment: int) -> Tensor:
    """The definition in core/types.py, with quaternions as v + 2 u x (u x v + w v)."""
    total = torch.zeros_like(points)
    for k in range(skin.index.shape[1]):
        one = skin.index[:, k]
        q, anchor = skin.turn[moment][one], skin.anchors[one]
        v, w, u = points - anchor, q[:, :1], q[:, 1:]
        turned = v + 2 * torch.linalg.cross(u, torch.linalg.cross(u, v) + w * v)
        total += skin.weight[:, k : k + 1] * (turned + anchor + skin.shift[moment][one])
    return total


def test_a_clip_is_played_as_another_viewer_plays_it(tmp_path: Path) -> None:
    mesh, g = ball(2), torch.Generator().manual_seed(3)
    count = len(mesh.vertices)
    turn = torch.randn(5, 3, 4, generator=g) * 0.2 + torch.tensor([1.0, 0, 0, 0])
    turn[0], shift = torch.tensor([1.0, 0, 0, 0]), 0.3 * torch.randn(5, 3, 3, generator=g)
    shift[0] = 0
    weight = torch.rand(count, 3, generator=g)
    skin = Skin(
        torch.linspace(0, 1, 5), torch.randn(3, 3, generator=g), torch.arange(3).expand(count, 3),
        weight / weight.sum(1, keepdim=True), shift, turn / turn.norm(dim=-1, keepdim=True),
    )  # fmt: skip
    (tmp_path / "model.glb").write_bytes(WRITERS["glb"].write(Product("ball", mesh, skin))["model.glb"])
    played, viewer = motion_back(tmp_path / "model.glb"), Glb((tmp_path / "model.glb").read_bytes())
    assert played is not None
    for moment in (0.0, 0.25, 0.75, 1.0):
        expected = viewer.points(moment * viewer.lasts)
        np.testing.assert_allclose(at(played, moment), expected, atol=4e-3)
    np.testing.assert_allclose(played.points[3], skinned(skin, mesh.vertices, 3), atol=1e-5)
    (tmp_path / "still.glb").write_bytes(WRITERS["glb"].write(Product("ball", mesh))["model.glb"])
    assert motion_back(tmp_path / "still.glb") is None


def test_a_moving_file_is_drawn_where_it_is_at_the_time() -> None:
    mesh = ball(2)
    away = torch.tensor([0.5, 0.0, 0.0])
    track = Track(torch.tensor([0.0, 1.0]), torch.stack([mesh.vertices, mesh.vertices + away]))
    cameras: Cameras = replace(all_around(2), time=torch.tensor([0.0, 0.5]))
    moving = Viewed(mesh, None, track).render(cameras, 64, torch.ones(2, 3))
    still = [Viewed(replace(mesh, vertices=mesh.vertices + s * away)) for s in (0.0, 0.5)]
    for i, each in enumerate(still):
        torch.testing.assert_close(moving.alpha[i], each.render(cameras[i : i + 1], 64, torch.ones(1, 3)).alpha[0])

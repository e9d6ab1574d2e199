# SPDX-License-Identifier: Apache-2.0
"""From a scene to a finished surface: what it keeps of the scene, what it does when a step fails, against the truth of
the procedural world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import Diverged, OutOfMemory
from dreamlab.core.types import Frames, LevelSet, Mesh, Triangles
from dreamlab.metrics.geometry import iou, shape_of_mesh, shape_of_program
from dreamlab.toybox import mesh as toy
from dreamlab.toybox.caption import parse, programs_for
from renderers.mesh import TexturedMesh
from renderers.surface import finish as room
from renderers.surface.atlas import Atlas
from renderers.surface.bake import texels
from renderers.surface.finish import Finished, FinishSettings, finish
from renderers.surface.finish.coarser import coarser, levels
from renderers.surface.finish.fit import fitted
from renderers.surface.finish.journal import Journal, Way
from renderers.surface.finish.transfer import apart, feet, foot
from renderers.surface.pictures import drawn, likeness, taken_of
from renderers.surface.views import SIZE
from tests.renderers.solids import Shown, ball, bright

QUICK = FinishSettings(resolution=40, faces=3000, texture=256, seconds=60.0)


def round_(p: Tensor) -> Tensor:
    return p.norm(dim=-1) - 0.6


def scene(wrong: float = 0.0) -> Shown:
    return Shown(ball(0.6, 4), round_, wrong=wrong)


def ways(made: Finished) -> dict[str, str]:
    return {step["name"]: step["way"] for step in made.steps}


def test_a_soft_scene_ends_as_a_textured_surface_like_its_pictures() -> None:
    """Its density is off by 3 cm; the file's floors are 26 dB and an IoU of 0.97."""
    made = finish(scene(wrong=0.03), QUICK)
    mesh = made.mesh
    assert mesh.textures is not None and mesh.uv is not None and mesh.tangents is not None
    assert mesh.textures.base.shape == (256, 256, 3) and mesh.textures.occlusion is not None
    assert len(mesh.faces) <= 3000 and made.health["watertight"] and made.health["slivers"] < 0.02
    assert [step["name"] for step in made.steps] == ["extract", "repair", "decimate", "fit", "unwrap", "bake"]
    first, last = made.steps[0], made.steps[-1]
    assert first["silhouette_iou"] < 0.92 < 0.97 < last["silhouette_iou"]
    assert last["psnr"] > 30 and last["psnr"] > first["psnr"] + 5
    assert float((mesh.vertices.norm(dim=-1) - 0.6).abs().mean()) < 0.006
    for value in (mesh.vertices, mesh.normals, mesh.tangents, mesh.colours, mesh.textures.base):
        assert torch.isfinite(value).all()
    truth = bright(mesh.vertices)
    assert float((mesh.colours - truth).abs().mean()) < 0.02


def test_a_surface_that_is_the_scene_s_own_is_not_fitted() -> None:
    made = finish(scene(), QUICK)
    assert ways(made)["fit"] == "none" and "own" in made.steps[3]["why"]


FAULTS = {
    "extract:crash": ("extract", "grid of 20"),
    "repair:hang": ("repair", "repaired, unseen"),
    "decimate:error": ("decimate", "quadric"),
    "fit:memory": ("fit", "none"),
    "unwrap:crash": ("unwrap", "own"),
    "bake:memory": ("bake", "128 texels"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_fails_is_done_another_way(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fault in each step, each time a file: a crash, a hang, a bomb."""
    monkeypatch.setattr(room, "methods", lambda: ["own", "own"])
    monkeypatch.setattr(room, "SMALLEST", 64)
    monkeypatch.setenv("DREAMLAB_FAULT", fault)
    made = finish(scene(wrong=0.03), replace(QUICK, resolution=40, faces=800, seconds=4.0))
    step, way = FAULTS[fault]
    entry = next(each for each in made.steps if each["name"] == step)
    assert entry["way"] == way and entry["why"]
    assert len(made.mesh.faces) > 100 and made.mesh.textures is not None
    assert torch.isfinite(made.mesh.vertices).all()


def test_without_texture_coordinates_colours_stay_at_the_vertices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "methods", lambda: ["own"])
    monkeypatch.setenv("DREAMLAB_FAULT", "unwrap:crash")
    made = finish(scene(), replace(QUICK, faces=800))
    assert made.mesh.textures is None and made.mesh.uv is None
    assert ways(made)["bake"] == "none" and "SIGSEGV" in made.steps[4]["why"]
    assert float((made.mesh.colours - bright(made.mesh.vertices)).abs().mean()) < 0.03


class Nothing(Shown):
    def offer(self, resolution: int) -> LevelSet:
        found = super().offer(resolution)
        return replace(found, values=found.values - 10)


class Hungry(Shown):
    """Has the memory for grids of 24 cells."""

    def offer(self, resolution: int) -> LevelSet:
        if resolution > 24:
            torch.ones(1 << 46)
        return super().offer(resolution)


def test_an_empty_scene_says_what_to_do() -> None:
    with pytest.raises(Diverged, match=r"empty geometry: the density peaks at .* train longer"):
        finish(Nothing(ball(), round_), QUICK)


def test_a_grid_that_needs_too_much_memory_is_halved_and_said() -> None:
    made = finish(Hungry(ball(), round_), replace(QUICK, faces=500))
    assert made.steps[0]["way"] == "grid of 20" and "grid of 40: more memory than agreed" in made.steps[0]["why"]


def test_when_no_grid_can_be_had_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "offer", lambda self, resolution: torch.ones(1 << 46))
    with pytest.raises(OutOfMemory, match=r"lower export\.resolution"):
        finish(Hungry(ball(), round_), QUICK)


def test_a_mesh_with_a_material_keeps_everything_and_gains_occlusion() -> None:
    made = TexturedMesh(TexturedMesh.Settings(texture=64), torch.Generator().manual_seed(0))
    offered = made.offer(1)
    assert isinstance(offered, Triangles)
    found = finish(made, QUICK).mesh
    assert torch.equal(found.vertices, offered.mesh.vertices) and torch.equal(found.faces, offered.mesh.faces)
    assert found.uv is not None and offered.mesh.uv is not None and torch.equal(found.uv, offered.mesh.uv)
    assert found.textures is not None and offered.mesh.textures is not None
    assert torch.equal(found.textures.base, offered.mesh.textures.base) and found.textures.occlusion is not None


def test_the_fit_moves_outlines_and_keeps_triangles_the_right_way_round() -> None:
    """A ball of 0.57 m and the pictures of one of 0.6."""
    truth = taken_of(scene(), 24, 2 * SIZE).pooled(2)
    small = replace(ball(0.57, 3), colours=torch.full((642, 3), 0.5))
    made = fitted(small, truth)
    assert float(made.vertices.norm(dim=-1).mean()) == pytest.approx(0.6, abs=0.006)
    a, b, c = made.vertices[made.faces].unbind(1)
    assert ((torch.linalg.cross(b - a, c - a) * a).sum(-1) > 0).all()
    assert (
        likeness(truth, drawn(made, truth.cameras, SIZE)).psnr
        > likeness(truth, drawn(small, truth.cameras, SIZE)).psnr + 8
    )


class Rimmed(Shown):
    """Half of the light beside the object comes through a haze, as Gaussians and fields have it."""

    def render(self, cameras: object, size: int, background: Tensor, training: object = None) -> Frames:
        frames = super().render(cameras, size, background)  # type: ignore[arg-type]
        haze = torch.nn.functional.avg_pool2d(frames.alpha.permute(0, 3, 1, 2), 9, 1, 4).permute(0, 2, 3, 1)
        solid = (frames.rgb - (1 - frames.alpha) * frames.background[:, None, None]) / frames.alpha.clamp(min=1e-3)
        rgb = haze * solid + (1 - haze) * frames.background[:, None, None]
        return replace(frames, rgb=rgb, alpha=haze)


def test_pictures_of_a_soft_scene_show_what_it_is_inside() -> None:
    """The haze goes into neither the silhouette nor the colours: the surface that the pictures were made of is like
    them, though the soft pictures themselves are far from it."""
    soft = Rimmed(ball(0.6, 4), round_)
    truth = taken_of(soft, 12, 2 * SIZE).pooled(2)
    mesh = replace(ball(0.6, 5), colours=bright(ball(0.6, 5).vertices))
    kept = likeness(truth, drawn(mesh, truth.cameras, SIZE))
    assert kept.iou > 0.97 and kept.psnr > 27


@pytest.mark.parametrize("prompt", ["a red mushroom with a white stem", "a yellow duck with a red beak"])
def test_the_procedural_world_comes_back(prompt: str) -> None:
    """From a density that is 2 cm too fat and its pictures: the shape and the base colour of the truth."""
    program = programs_for(parse(prompt))
    true = toy.mesh(program, 96)
    blank = torch.zeros_like(true.vertices)
    world = Shown(
        Mesh(true.vertices, true.faces, true.colours, blank),
        lambda p: program.sdf(p[None])[0][0],
        lambda p: toy.paint(program, p)[0],
        wrong=0.02,
    )
    found = finish(world, FinishSettings(resolution=64, faces=6000, texture=256, seconds=60.0)).mesh
    body, truth = shape_of_mesh(found), shape_of_program(program)
    assert iou(body.filled, truth.filled) > 0.93
    rms, _ = apart((found.vertices, found.faces), (true.vertices, true.faces))
    assert rms < 0.012
    assert found.textures is not None and found.uv is not None
    at = texels(Atlas(found.uv, found.faces, torch.arange(len(found.vertices))), 256)
    wanted = toy.paint(program, at.read(found.vertices, found.faces))[0]
    error = (found.textures.base.reshape(-1, 3)[at.hit] - wanted).abs().mean(1)
    assert float(error.median()) < 0.01 and float(error.mean()) < 0.05  # borders of colours lie a texel off
    assert float(found.textures.roughness.mean()) == pytest.approx(0.8)
    assert float(found.textures.metallic.max()) == 0


def textured() -> Mesh:
    return finish(scene(), QUICK).mesh


def test_levels_of_detail_keep_the_picture_and_say_how_far_they_are() -> None:
    mesh = textured()
    found = levels(mesh, (0.5, 0.1))
    assert [len(each.mesh.faces) <= share * len(mesh.faces) for each, share in zip(found, (0.5, 0.1), strict=True)]
    for each in found:
        assert each.mesh.textures is not None and each.mesh.textures.normal is not None
        assert each.facts["psnr"] > 27 and each.facts["silhouette_iou"] > 0.95
        distance = (each.mesh.vertices[each.mesh.faces].mean(1).norm(dim=-1) - 0.6).abs()
        assert float(distance.max()) < each.facts["max"] + 0.006  # the mesh itself is that far from the ball
        assert float((each.mesh.colours - bright(each.mesh.vertices)).abs().mean()) < 0.03
    assert found[0].facts["rms"] < found[1].facts["rms"]


def test_a_level_of_vertex_colours_needs_no_atlas() -> None:
    plain = replace(ball(0.6, 4), colours=bright(ball(0.6, 4).vertices))
    made = coarser(plain, 0.25)
    assert made.mesh.uv is None and len(made.mesh.faces) <= len(plain.faces) // 4


def test_feet_are_the_nearest_points() -> None:
    ball_ = ball(0.6, 3)
    g = torch.Generator().manual_seed(0)
    points = 0.7 * torch.nn.functional.normalize(torch.randn(500, 3, generator=g), dim=-1)
    found = feet(ball_.vertices, ball_.faces, points)
    place = found.read(ball_.vertices)
    assert torch.allclose(place, points * (0.6 / 0.7), atol=0.02)
    assert torch.allclose(found.distance, torch.full((500,), 0.1), atol=0.008)
    a, b, c = torch.eye(3)
    for point, wanted in ((a, [1, 0, 0]), (a + b, [0.5, 0.5, 0]), (a + b + c, [1 / 3] * 3), (2 * a - b - c, [1, 0, 0])):
        assert torch.allclose(foot(point[None], a[None], b[None], c[None])[0], torch.tensor(wanted).float(), atol=1e-6)
    rms, most = apart((ball_.vertices, ball_.faces), (1.1 * ball_.vertices, ball_.faces))
    assert rms == pytest.approx(0.06, abs=0.002) and most < 0.07


def test_a_way_that_hangs_is_given_up_and_the_next_one_is_taken() -> None:
    import time

    journal = Journal(seconds=0.5, memory=1 << 30)
    slow = Way("slow", lambda: (time.sleep(60), ({}, {}))[1])
    began = time.monotonic()
    done = journal.first("wait", [slow, Way("quick", lambda: ({}, {"fine": True}))])
    assert done is not None and time.monotonic() - began < 10
    assert journal.steps == [
        {"name": "wait", "way": "quick", "why": "slow: not done after 0.5 s", "seconds": done.seconds, "fine": True}
    ]

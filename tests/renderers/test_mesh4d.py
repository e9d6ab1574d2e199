# SPDX-License-Identifier: Apache-2.0
"""A textured mesh that moves: the object stays, all of it moves as one, its points by themselves; turns are found."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor

from dreamlab.core.cameras import orbit, turntable
from dreamlab.core.knots import between
from dreamlab.core.rotation import from_vector, matrix
from dreamlab.core.schedules import Progress, constant, ramp
from dreamlab.core.types import Training, Triangles
from dreamlab.export.motion import motion_of
from dreamlab.run.optim import Adam
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import Sketch
from renderers.become import become
from renderers.gaussian.deform import DeformSettings
from renderers.mesh import TexturedMesh
from renderers.mesh4d import MovingMesh
from renderers.surface.extraction import extract
from tests.export.test_motion import glb_of
from tests.renderers.test_extraction import painted
from tests.renderers.test_gaussians4d import stream

KNOTS = 9


def scene(**settings: object) -> MovingMesh:
    deform = DeformSettings(whole=True, smooth=True, points=8, moments=KNOTS, lr_whole=ramp(0.05, 0.003))
    chosen = {"texture": 64, "deform": deform, **settings}
    return MovingMesh(MovingMesh.Settings(**chosen), stream())  # type: ignore[arg-type]


def pose(made: MovingMesh, **values: Tensor) -> None:
    made.motion.load({**made.motion.params, **values})


def yaws(degrees: Tensor) -> Tensor:
    """[T, 7] turns about +Y and no shift."""
    half = torch.deg2rad(degrees) / 2
    none = torch.zeros_like(half)
    return torch.stack([half.cos(), none, half.sin(), none, none, none, none], -1)


def training(step: int, total: int = 100) -> Training:
    return Training(Progress(step, total), stream(step))


def seen(made: MovingMesh, time: float) -> Tensor:
    return made.posed(torch.tensor(time))[0].detach()


def test_smooth_ways_are_the_splines_of_catmull_and_rom() -> None:
    """Against SciPy's Hermite splines whose slopes are those between a knot's neighbours."""
    table = torch.randn(7, 3, generator=stream(), dtype=torch.float64)
    times = torch.linspace(0, 1, 41, dtype=torch.float64)
    around = torch.cat([table[-1:], table, table[:2]])  # of the loop: knots at i / 7
    slopes = (around[2:] - around[:-2]) / 2
    wanted = CubicHermiteSpline(np.arange(8), torch.cat([table, table[:1]]), torch.cat([slopes[:7], slopes[:1]]))
    found = torch.stack([between(table, time, loop=True, smooth=True) for time in times])
    np.testing.assert_allclose(found, wanted(7 * times.numpy() % 7), atol=1e-12)
    ended = torch.cat([2 * table[:1] - table[1:2], table, 2 * table[-1:] - table[-2:-1]])  # straight on at the ends
    wanted = CubicHermiteSpline(np.arange(7), table, (ended[2:] - ended[:-2]) / 2)
    found = torch.stack([between(table, time, loop=False, smooth=True) for time in times])
    np.testing.assert_allclose(found, wanted(6 * times.numpy()), atol=1e-12)


def test_a_mesh_begins_to_move_as_it_stood_and_only_its_motion_learns() -> None:
    still, _ = become(
        painted(), TexturedMesh(TexturedMesh.Settings(texture=128, faces=900, resolution=24), stream()), stream()
    )
    made, kept = become(still, scene(texture=128), stream())
    assert isinstance(made, MovingMesh) and kept is not None and kept.psnr > 40 and kept.iou > 0.999
    cameras = replace(turntable(3), time=torch.tensor([0.0, 0.4, 0.9]))
    frames = made.render(cameras, 32, torch.ones(3, 3), training(90))
    torch.testing.assert_close(frames.rgb, made.render(turntable(3), 32, torch.ones(3, 3)).rgb)
    frames.rgb.square().sum().backward()
    assert set(made.groups()) == {"deform.poses", "deform.whole", "deform.place"}
    assert all(group.tensor.grad is not None and group.tensor.grad.any() for group in made.groups().values())
    assert made.params["texture"].grad is not None and "texture" in scene(frozen=False).groups()


def test_all_of_it_turns_about_its_middle_shifts_and_is_as_large_as_it_is() -> None:
    made = scene()
    whole = torch.zeros(KNOTS, 7)
    half = torch.tensor([0.1, -0.3, 0.2])
    whole[:, :4], whole[:, 4:] = from_vector(half), torch.tensor([0.1, 0.2, -0.1])
    pose(made, whole=whole, place=torch.tensor([0.05, 0.0, 0.3, math.log(0.7)]))
    centre = made.motion.params["anchors"].detach().mean(0)
    wanted = 0.7 * (made.rest - centre) @ matrix(from_vector(half)).T + centre + torch.tensor([0.15, 0.2, 0.2])
    torch.testing.assert_close(seen(made, 0.37), wanted, atol=1e-5, rtol=0)
    _, turn, size = made.posed(torch.tensor(0.37))
    torch.testing.assert_close(matrix(turn[5]), matrix(from_vector(half)), atol=1e-5, rtol=0)
    torch.testing.assert_close(size, torch.full_like(size, 0.7))


def test_a_full_turn_is_a_way_of_small_ones_whatever_the_signs() -> None:
    made = scene()
    whole = yaws(torch.linspace(0, 360, KNOTS))
    whole[::3, :4] *= -1  # the same turns
    pose(made, whole=whole)
    times = torch.linspace(0, 1, 41)
    for before, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        a, b = (made.posed(torch.tensor(time))[1][0].detach() for time in (before, after))
        cosine = float((matrix(a).T @ matrix(b)).diagonal().sum() - 1) / 2
        assert math.degrees(math.acos(min(cosine, 1.0))) == pytest.approx(9.0, abs=1.5)


def test_moments_open_from_time_zero_both_ways() -> None:
    made = scene()
    cameras = replace(turntable(8), time=torch.arange(8) / 8)
    made.render(cameras, 24, torch.zeros(8, 3), training(0)).alpha.sum().backward()
    grad = made.motion.params["whole"].grad
    assert grad is not None
    moved = grad.abs().amax(1) > 0
    assert moved.tolist() == [True, True, *[False] * (KNOTS - 4), True, False]  # as the frames at 0, 1/8 and 7/8 show
    assert made.free(Progress(0, 100)) == 1 / 8 and made.free(Progress(40, 100)) == 0.5
    assert made.free(Progress(20, 100)) == pytest.approx(5 / 16)


def test_what_turns_turns_on_and_what_swings_does_not() -> None:
    made = scene()
    turns = torch.zeros(KNOTS)
    turns[1], turns[-2] = 45.0, -45.0
    whole = yaws(turns)
    whole[1, 4:] = torch.tensor([0.0, 0.3, 0.0])
    pose(made, whole=whole)
    made.motion.go_on(1 / 8)
    found = made.motion.params["whole"].detach()
    for k, angle in ((2, 90.0), (3, 135.0), (4, 180.0), (6, 270.0), (5, 225.0)):
        torch.testing.assert_close(matrix(found[k, :4]), matrix(yaws(torch.tensor([angle]))[0, :4]), atol=1e-5, rtol=0)
    assert found[2:5, 5].tolist() == pytest.approx([0.3] * 3) and not found[5:, 4:].any()
    pose(made, whole=yaws(turns / 3))  # 15 degrees an eighth: less than half a full turn's
    made.motion.go_on(1 / 8)
    for k in (2, 3, 4):
        torch.testing.assert_close(made.motion.params["whole"].detach()[k], yaws(turns[1:2] / 3)[0])
    leaning = torch.zeros(KNOTS, 7)
    leaning[:, :4] = from_vector(torch.tensor([0.0, 0.0, 0.2]))  # about +Z
    pose(made, whole=leaning)
    made.motion.go_on(1 / 8)
    upright = made.motion.params["whole"].detach()[2, :4]
    torch.testing.assert_close(upright, torch.tensor([1.0, 0.0, 0.0, 0.0]))


def test_silhouettes_teach_a_way() -> None:
    """A true ball of the world's own tracer goes to the right and back; the mesh, a ball of another size, follows. Two
    sides in turn: from one alone it could as well be larger and farther away."""
    times = torch.arange(8) / 8
    clips = []
    for side in (0.0, 70.0):
        cameras, wanted = replace(orbit([side] * 8, 10.0), time=times), []
        for i, time in enumerate(times.tolist()):
            sketch = Sketch()
            sketch.sphere("all", (0.3 * math.sin(2 * math.pi * time), 0.0, 0.0), 0.45)
            wanted.append(draw(sketch.pack({"all": Finish("red")}, fit=None), cameras[i : i + 1], 32).alpha[0])
        clips.append((cameras, torch.cat(wanted)))
    made, count = scene(opening=0.2), 60
    optimiser = Adam(made)
    for step in range(count):
        cameras, true = clips[step % 2]
        frames = made.render(cameras, 32, torch.zeros(8, 3), training(step, count))
        (200 * (frames.alpha - true).square().mean()).backward()
        made.adapt(Progress(step, count), frames, optimiser.step(Progress(step, count), torch.tensor(True), None))
    for time in (0.25, 0.5, 0.75):
        centre = seen(made, time).mean(0)
        assert float(centre[0]) == pytest.approx(0.3 * math.sin(2 * math.pi * time), abs=0.03)
    away = seen(made, 0.25)
    assert float((away - away.mean(0)).norm(dim=-1).mean()) == pytest.approx(0.45, abs=0.03)


def swinging() -> MovingMesh:
    """Turns by 120 degrees and rises, and its points go their own ways."""
    made = scene()
    whole = yaws(torch.linspace(0, 120, KNOTS))
    whole[:, 5] = torch.linspace(0.1, 0.4, KNOTS)
    poses = 0.1 * torch.randn(made.motion.params["poses"].shape, generator=stream(3))
    pose(made, whole=whole, poses=poses, place=torch.tensor([0.0, 0.0, 0.1, -0.2]))
    return made


def test_points_go_with_the_surface() -> None:
    made, times = swinging(), torch.tensor([0.3, 0.8])
    ways = made.follow(seen(made, 0.0), times)
    for way, time in zip(ways, times.tolist(), strict=True):
        torch.testing.assert_close(way, seen(made, time), atol=1e-4, rtol=0)
    rigid = scene()
    pose(rigid, whole=yaws(torch.linspace(40, 160, KNOTS)))  # turned at time 0 already
    beside = 1.2 * seen(rigid, 0.0)[::7]
    centre = rigid.motion.params["anchors"].detach().mean(0)
    before, after = (matrix(rigid.posed(time)[1][0].detach()) for time in (torch.zeros(()), times[0]))
    turned = (beside - centre) @ (after @ before.T).T + centre
    torch.testing.assert_close(rigid.follow(beside, times)[0], turned, atol=1e-4, rtol=0)


def test_the_file_moves_as_the_scene_and_keeps_its_textures() -> None:
    made = swinging()
    offered = made.offer(32)
    assert isinstance(offered, Triangles) and offered.mesh.textures is not None
    mesh = extract(made, 32)
    torch.testing.assert_close(mesh.vertices, seen(made, 0.0)[made.atlas.source])
    motion, facts = motion_of(made, mesh)
    assert motion is not None and facts["torn"] == 0 and facts["fraction"] < 0.02
    glb = glb_of(mesh, motion)
    size = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    for time in (0.0, 0.4, 1.0):
        off = np.linalg.norm(glb.points(2.0 * time) - seen(made, time)[made.atlas.source].numpy(), axis=1)
        assert off.max() < 0.03 * size


def test_a_state_brings_the_motion_back() -> None:
    made, other = swinging(), scene()
    other.load_state_dict({name: value.clone() for name, value in made.state_dict().items()})
    cameras = replace(turntable(2), time=torch.tensor([0.1, 0.7]))
    one, two = (each.render(cameras, 32, torch.zeros(2, 3)).rgb for each in (made, other))
    assert torch.equal(one, two)


def test_rigid_points_are_free_and_bent_ones_are_not() -> None:
    made = scene()
    frames = made.render(replace(turntable(2), time=torch.tensor([0.0, 0.5])), 16, torch.zeros(2, 3), training(90))
    assert not made.penalty("rigidity", frames).any() and not made.penalty("bending", frames).any()
    pose(made, poses=torch.tensor([0.3, 0, 0, 0, 0, 0]).expand(KNOTS, 8, 6))
    frames = made.render(replace(turntable(2), time=torch.tensor([0.0, 0.5])), 16, torch.zeros(2, 3), training(90))
    assert made.penalty("rigidity", frames).item() == pytest.approx(0, abs=1e-12)
    assert made.penalty("bending", frames).item() == pytest.approx(0.09, rel=1e-5)
    pose(made, poses=torch.randn(KNOTS, 8, 6, generator=stream()))
    frames = made.render(replace(turntable(2), time=torch.tensor([0.0, 0.5])), 16, torch.zeros(2, 3), training(90))
    assert made.penalty("rigidity", frames).item() > 0.1


@pytest.mark.parametrize(
    "more",
    [{"lr_vertices": constant(0.01)}, {"bump": 0.5}, {"shading": "montecarlo"}, {"deform": DeformSettings("mlp")}],
)
def test_what_cannot_move_says_so(more: dict[str, object]) -> None:
    assert MovingMesh.card(MovingMesh.Settings(**more)).complaint  # type: ignore[arg-type]
    assert not MovingMesh.card(MovingMesh.Settings()).complaint and MovingMesh.card(MovingMesh.Settings()).moves

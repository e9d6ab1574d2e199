# SPDX-License-Identifier: Apache-2.0
"""Moving Gaussians: no motion at the start, exact skinning, closed forms of the penalties, segments, exact resume."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.cameras import turntable
from dreamlab.core.errors import RecipeError
from dreamlab.core.rotation import from_vector, matrix, product
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Training
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from renderers.gaussian.carried import carriers
from renderers.gaussian.deform import KINDS, DeformSettings, blend, spread_change, stretch
from renderers.gaussians import Gaussians, GaussianSettings
from renderers.gaussians4d import Gaussians4D, MovingSettings


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moving(count: int = 120, **deform: object) -> Gaussians4D:
    settings = MovingSettings(count=count, deform=DeformSettings(**deform))  # type: ignore[arg-type]
    return Gaussians4D(settings, stream())


def shake(scene: Gaussians4D, size: float = 0.3) -> None:
    """Any motion at all."""
    g = stream(7)
    with torch.no_grad():
        for motion in scene.motions:
            for name in ("last", "poses", "plane3", "plane4"):
                if name in motion.params:
                    motion.params[name].add_(size * torch.randn(motion.params[name].shape, generator=g))


def gradients(scene: Gaussians4D) -> Mapping[str, Tensor | None]:
    return {name: group.tensor.grad for name, group in scene.groups().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_static_object_and_every_motion_learns(kind: str) -> None:
    scene = moving(kind=kind, scales=True)
    still = Gaussians(GaussianSettings(count=120), stream())
    cameras = replace(turntable(3), time=torch.tensor([0.0, 0.4, 1.0]))
    white = torch.ones(3, 3)
    frames = scene.render(cameras, 24, white, Training(Progress(0, 10), stream()))
    torch.testing.assert_close(frames.rgb, still.render(cameras, 24, white).rgb, atol=2e-6, rtol=0)
    frames.rgb.square().sum().backward()
    learnt = {name for name, grad in gradients(scene).items() if grad is not None and grad.abs().max() > 0}
    assert ("deform0.poses" if kind == "control" else "deform0.last") in learnt and "means" in learnt


@pytest.mark.parametrize("kind", KINDS)
def test_time_scaling_keeps_time_zero_static_and_loops_close(kind: str) -> None:
    scaled, looped = moving(kind=kind, power=0.35), moving(kind=kind, loop=True)
    for scene in (scaled, looped):
        shake(scene)
    means = scaled.params["means"]
    with torch.no_grad():
        size = (scaled.posed(torch.tensor(0.7))[0] - means).abs().max()
        assert size > 0.01
        assert (scaled.posed(torch.tensor(0.0))[0] - means).abs().max() < 0.005 * size  # (1e-9)^0.35 of the motion
        begin, end, near, half = (looped.posed(torch.tensor(t))[0] for t in (0.0, 1.0, 0.9999, 0.5))
        torch.testing.assert_close(begin, end)
        size = (half - begin).abs().max()
        assert size > 0.01 and (near - begin).abs().max() < 0.02 * size  # no jump on the way there
        both = moving(kind=kind, loop=True, power=0.35)
        shake(both)
        begin, near = (both.posed(torch.tensor(t))[0] for t in (0.0, 1 - 1e-5))
        assert (begin - means).abs().max() < 0.005 * size and (near - begin).abs().max() < 0.05 * size


def test_equal_poses_of_all_control_points_move_everything_rigidly() -> None:
    """If every control point turns about the origin in the same way, blending changes nothing: x -> R x + t."""
    scene = moving(kind="control", points=20)
    motion = scene.motions[0]
    half, shift = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.05, 0.1, -0.02])
    turn = matrix(from_vector(half))
    with torch.no_grad():
        anchors = motion.params["anchors"]
        motion.params["poses"][:, :, :3] = anchors @ turn.T - anchors + shift
        motion.params["poses"][:, :, 3:] = half
        means, quats, *_ = scene.posed(torch.tensor(0.37))
        p = scene.params
        torch.testing.assert_close(means, p["means"] @ turn.T + shift, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(matrix(quats), turn @ matrix(p["quats"]), atol=1e-5, rtol=1e-5)


def test_control_points_move_by_linear_blend_skinning() -> None:
    scene = moving(kind="control", points=12, nearest=3)
    shake(scene)
    motion, points = scene.motions[0], scene.params["means"].detach()
    index, weight = motion.skin(points)
    torch.testing.assert_close(weight.sum(1), torch.ones(120))
    for time in torch.tensor([0.0, 0.3, 0.8]):
        shift, turn = motion.poses(time)
        bones = torch.zeros_like(points)
        for k in range(3):  # linear blend skinning, written out
            who = index[:, k]
            rest = motion.params["anchors"][who]
            turned = (matrix(turn)[who] @ (points - rest)[..., None])[..., 0]
            bones += weight[:, k : k + 1] * (turned + rest + shift[who])
        torch.testing.assert_close(scene.posed(time)[0].detach(), bones.detach(), atol=1e-5, rtol=1e-5)


def test_points_go_with_the_gaussians_around_them() -> None:
    """All of them moved rigidly: so is every point, near or far. A single one: by its own frame, sizes and all."""
    scene = moving(kind="control", points=12)
    half, shift = torch.tensor([0.2, -0.4, 0.1]), torch.tensor([0.3, 0.0, -0.2])
    turn = matrix(from_vector(half))
    motion = scene.motions[0]
    with torch.no_grad():
        motion.params["poses"][:, :, 3:] = half * torch.linspace(0, 1, 12)[:, None, None]
        motion.params["poses"][:, :, :3] = motion.params["anchors"] @ turn.T - motion.params["anchors"] + shift
        motion.params["poses"][:11, :, :3] = 0
    points = torch.randn(50, 3, generator=stream(3))
    first, last = scene.follow(points, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(first, points, atol=1e-5, rtol=0)
    torch.testing.assert_close(last, points @ turn.T + shift, atol=1e-4, rtol=0)
    means, quats, scales = torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.1, 0.2, 0.3]])
    one = carriers(points, means, quats, scales, torch.ones(1))
    found = one.at(means + shift, from_vector(half)[None], 2 * scales)
    torch.testing.assert_close(found, 2 * points @ turn.T + shift, atol=1e-5, rtol=0)


def test_a_share_fades_before_its_gaussian_leaves() -> None:
    """Along a line through a cloud whose Gaussians move at random, points that were near stay near."""
    g = stream(1)
    means = torch.rand(400, 3, generator=g) - 0.5
    quats, scales = torch.randn(400, 4, generator=g), torch.full((400, 3), 0.15)
    line = torch.linspace(-0.5, 0.5, 4001)[:, None] * torch.tensor([1.0, 0.7, 0.3])
    moved = carriers(line, means, quats, scales, torch.full((400,), 0.8)).at(
        means + 0.2 * torch.randn(400, 3, generator=g), quats, scales
    )
    step = line.diff(dim=0).norm(dim=1).mean()
    assert moved.diff(dim=0).norm(dim=1).max() < 8 * step


def test_drift_is_the_divergence_of_normals() -> None:
    """Closed form against the integral of the two KL divergences per axis, float64."""
    still = torch.randn(5000, 3, generator=stream(1), dtype=torch.float64)
    moved = 1.7 * still + torch.tensor([0.4, 0.0, -1.0], dtype=torch.float64)
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    total = 0.0
    for axis in range(3):
        parts = [(c[:, axis].mean(), c[:, axis].var(unbiased=False)) for c in (still, moved)]
        middle = torch.distributions.Normal((parts[0][0] + parts[1][0]) / 2, ((parts[0][1] + parts[1][1]) / 2).sqrt())
        for mean, variance in parts:
            one = torch.distributions.Normal(mean, variance.sqrt())
            density = one.log_prob(x).exp()
            total += 0.5 * float((density * (one.log_prob(x) - middle.log_prob(x))).sum() * (x[1] - x[0]))
    assert math.isclose(float(spread_change(still, moved)), total, rel_tol=1e-5)
    assert abs(float(spread_change(still, still))) < 1e-12


def test_rigidity_is_zero_for_rigid_motions_and_counts_stretching() -> None:
    points = torch.randn(60, 3, generator=stream(2), dtype=torch.float64)
    neighbours = torch.cdist(points, points).topk(4, largest=False).indices[:, 1:]
    turn = from_vector(torch.tensor([0.3, 0.1, -0.2], dtype=torch.float64)).expand(60, 4)
    rigid = points @ matrix(turn[0]).T + 0.3
    assert float(stretch(points, rigid, turn, neighbours)) < 1e-25
    still = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(60, 4)
    edges = (points[neighbours] - points[:, None]).square().sum(-1).mean()
    torch.testing.assert_close(stretch(points, 1.5 * points, still, neighbours), 0.25 * edges)


def test_smoothness_of_planes_and_poses() -> None:
    """Linear in time is smooth; a kink of size a in one channel of one knot is a^2 over the number of differences."""
    plane, control, network = (
        moving(kind=kind, moments=6, resolution=8, points=5).motions[0] for kind in ("hexplane", "control", "mlp")
    )
    assert float(plane.roughness("time_smooth").detach()) == 0 and float(plane.roughness("time_l1").detach()) == 0
    with torch.no_grad():
        ramp = torch.arange(6.0)
        plane.params["plane3"] += 0.5 * ramp[None, :, None]
        control.params["poses"] += ramp[:, None, None]
        assert float(plane.roughness("time_smooth")) < 1e-12 and float(control.roughness("time_smooth")) < 1e-12
        torch.testing.assert_close(plane.roughness("time_l1"), torch.tensor(0.5 * 2.5 / 3))
        control.params["poses"][5, 2, 4] += 3.0
        torch.testing.assert_close(control.roughness("time_smooth"), torch.tensor(9.0 / (4 * 5 * 6)))
        for i in range(3):
            plane.params[f"plane{i}"].copy_(2.0 * torch.arange(8.0).expand(16, 8, 8))
        torch.testing.assert_close(
            plane.roughness("plane_tv"), torch.tensor(2.0)
        )  # 4 along one axis, 0 along the other
    with pytest.raises(ValueError, match="plane_tv"):
        network.roughness("plane_tv")


def test_quaternion_products_are_matrix_products() -> None:
    a, b = torch.randn(2, 30, 4, generator=stream(3), dtype=torch.float64)
    torch.testing.assert_close(matrix(product(a, b)), matrix(a) @ matrix(b))


REFUSED = """
prompt: a red mushroom with a white stem
stages:
  - {name: moving, scene: {kind: gaussians4d, %s}, terms: [{guidance: truth, system: photometric}], steps: 1}
"""


def test_segments_follow_one_another_without_a_jump() -> None:
    settings = MovingSettings(count=50, segments=3, overlap=0.3, deform=DeformSettings(kind="mlp"))
    scene = Gaussians4D(settings, stream())
    shake(scene, 0.5)
    spans = scene.spans()
    assert spans[0][0] == 0 and math.isclose(spans[-1][1], 1.0)
    for (begin, end), (after, _) in itertools.pairwise(spans):
        assert math.isclose((end - after) / (end - begin), 0.3)
    with torch.no_grad():
        for j, (begin, end) in enumerate(spans):
            alone = scene.motions[j].at(scene.params["means"], torch.tensor(0.5))
            torch.testing.assert_close(scene.motion(torch.tensor(0.5 * (begin + end)))[0].shift, alone.shift)
        for edge in (spans[1][0], spans[0][1]):
            a, b, far = (scene.posed(torch.tensor(edge + side))[0] for side in (-1e-4, 1e-4, 0.1))
            assert (a - b).abs().max() < 0.02 * (a - far).abs().max()
        inside, outside = (scene.motion(torch.tensor(t))[1] for t in ((spans[1][0] + spans[0][1]) / 2, 0.01))
        assert inside > 0 and outside == 0
    scene.settings = replace(settings, segment=1)
    assert {name.split(".")[0] for name in scene.groups()} >= {"deform1", "means"}
    assert not any(name.startswith(("deform0", "deform2")) for name in scene.groups())
    late, last = (torch.tensor(t) for t in (0.999, spans[1][1]))  # the third is not there while the second is trained
    assert torch.equal(scene.posed(late)[0], scene.posed(last)[0])
    with pytest.raises(RecipeError, match="segment: 3: counted from 0, of 3"):
        Assembler(recipe.load(REFUSED % "segments: 3, segment: 3", TABLES), "cpu")
    assert torch.equal(blend(torch.zeros(2), torch.ones(2), torch.tensor(0.75), 0.5, 1.0), torch.full((2,), 0.5))


def test_later_segments_do_not_begin_still() -> None:
    """Time scaling keeps time 0 static; the motion goes on where the next segment begins."""
    deform = DeformSettings(kind="mlp", power=0.35)
    scene = Gaussians4D(MovingSettings(count=50, segments=2, overlap=0.25, deform=deform), stream())
    shake(scene, 0.5)
    means = scene.params["means"]
    with torch.no_grad():
        later = scene.motions[1].at(means, torch.tensor(0.0)).shift
        assert scene.motions[0].at(means, torch.tensor(0.0)).shift.abs().max() < 0.01 * later.abs().max()


def test_a_ring_of_segments_closes() -> None:
    deform = DeformSettings(kind="mlp", loop=True)
    scene = Gaussians4D(MovingSettings(count=50, segments=3, overlap=0.3, deform=deform), stream())
    shake(scene, 0.5)
    with torch.no_grad():
        begin, near, end, half = (scene.posed(torch.tensor(t))[0] for t in (0.0, 1 - 1e-5, 1.0, 0.5))
        assert torch.equal(begin, end) and (near - begin).abs().max() < 1e-3 * (half - begin).abs().max()
        for (begin_at, _), (_, before) in itertools.pairwise(reversed(scene.spans())):
            del before
            a, b = (scene.posed(torch.tensor(begin_at + side))[0] for side in (-1e-5, 1e-5))
            assert (a - b).abs().max() < 1e-3 * (half - begin).abs().max()
        assert scene.motion(torch.tensor(0.95))[1] > 0 and scene.motion(torch.tensor(0.01))[1] == 0
    with pytest.raises(RecipeError, match="power: 0 where several segments loop"):
        Assembler(recipe.load(REFUSED % "segments: 2, deform: {kind: mlp, loop: true, power: 0.35}", TABLES), "cpu")


def rocked(points: Tensor, time: Tensor) -> Tensor:
    """Points [N, 3] turned by 30 degrees times sin(2 pi time) about Z, the motion below."""
    angle = math.radians(30) * torch.sin(2 * math.pi * time)
    c, s, x, y, z = angle.cos(), angle.sin(), *points.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y, z], -1)


@pytest.mark.parametrize("loop", [False, True])
def test_segments_learn_one_after_another_and_the_first_stays(loop: bool) -> None:
    """Autoregressive extension of a motion known in closed form: each segment is shown its own part of time alone, with
    `continuity`; the whole then follows the truth, without touching what was learnt before, and a ring closes."""
    deform = DeformSettings(kind="control", points=12, moments=12, loop=loop)
    settings = MovingSettings(count=60, radius=0.5, segments=3, overlap=0.3, frozen=True, deform=deform)
    scene, draw = Gaussians4D(replace(settings, segment=0), stream()), stream(7)
    truth = scene.params["means"].detach()
    earlier: dict[str, Tensor] = {}
    for segment, (begin, end) in enumerate(scene.spans()):
        scene.settings = replace(settings, segment=segment)
        before = {name: value.clone() for name, value in scene.state_dict().items()}
        optimiser = torch.optim.Adam([group.tensor for group in scene.groups().values()], lr=0.03)
        rate = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.965)
        for _ in range(100):
            times = begin + (end - begin) * (torch.rand(4, generator=draw) + torch.arange(4)) / 4
            posed = [scene.posed(time) for time in times]
            gaps = [(p[0] - rocked(truth, time)).square().sum(-1).mean() for p, time in zip(posed, times, strict=True)]
            loss = torch.stack(gaps).mean() + torch.stack([p[-1] for p in posed]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
        after = scene.state_dict()
        moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert moved == {f"deform{segment}"}
        assert all(torch.equal(after[name], earlier[name]) for name in earlier)
        earlier |= {name: value.clone() for name, value in after.items() if name.startswith(f"deform{segment}")}
    scene.settings = settings  # all of them
    with torch.no_grad():
        errors = [(scene.posed(t)[0] - rocked(truth, t)).norm(dim=-1).mean() for t in torch.linspace(0, 0.999, 41)]
        swing = torch.stack([(rocked(truth, t) - truth).norm(dim=-1).mean() for t in torch.linspace(0, 1, 41)]).max()
    assert torch.stack(errors).max() < 0.1 * swing
    if loop:
        first, last = (scene.posed(torch.tensor(t))[0] for t in (0.0, 1 - 1e-5))
        assert (first - last).abs().max() < 1e-3


def test_a_still_scene_becomes_a_moving_one() -> None:
    still = Gaussians(GaussianSettings(count=90, radius=0.3), stream(4))
    scene = Gaussians4D(MovingSettings(count=10, frozen=True, deform=DeformSettings(points=16)), stream())
    scene.load_state_dict(still.state_dict())
    assert torch.equal(scene.params["means"], still.params["means"])
    assert set(scene.groups()) == {"deform0.poses"} and scene.motions[0].params["anchors"].norm(dim=-1).max() <= 0.3
    assert scene.motions[0].params["poses"].shape[1] == 16


def test_a_recipe_goes_from_still_to_moving_and_on_in_segments() -> None:
    """Three short stages by `from:`; each trains what it says, in its own part of time."""
    common = "terms: [{guidance: truth, system: photometric}], steps: 2, views: 2, size: 12"
    second = "deform: {kind: mlp, hidden: 8}, frozen: true"
    text = f"""
prompt: a rocking red mushroom with a white stem
stages:
  - {{name: still, scene: {{kind: gaussians, count: 40}}, cameras: {{fixed: 4}}, {common}}}
  - {{name: first, scene: {{kind: gaussians4d, from: still, {second}}}, cameras: {{fixed: 4, moving: true}}, {common}}}
  - name: on
    scene: {{kind: gaussians4d, from: first, {second}, segments: 2, segment: 1}}
    cameras: {{moving: true, time: [0.5, 1.0]}}
    regularisers: {{continuity: 1.0}}
    terms: [{{guidance: truth, system: photometric}}]
    steps: 2
    views: 2
    size: 12
"""
    assembler, ring, done = Assembler(recipe.load(text, TABLES), "cpu"), Ring(METRICS, 100, "cpu"), {}
    states = []
    for index, name in enumerate(("still", "first", "on")):
        stage = assembler.stage(index, done)
        before = {key: value.clone() for key, value in stage.scene.state_dict().items()}
        for i in range(2):
            step(stage, i, ring)
        after = stage.scene.state_dict()
        states.append({key.split(".")[0] for key in before if not torch.equal(before[key], after[key])})
        done[name] = stage.scene
    assert "means" in states[0] and states[1] == {"deform0"} and states[2] == {"deform1"}
    assert all(row["healthy"] for row in ring.drain())


RECIPE = """
prompt: a rocking red mushroom with a white stem
stages:
  - name: fit
    scene:
      kind: gaussians4d
      count: 60
      deform: {{kind: {kind}, points: 8, hidden: 16, resolution: 8, channels: 4}}
      densify: {{kind: adaptive, begin: 0, end: 1, every: 5, gradient: 0.0005, cap: 90}}
    terms: [{{guidance: truth, system: photometric}}]
    regularisers: {{rigidity: 0.1, drift: 0.01}}
    steps: 14
    views: 2
    size: 16
    cameras: {{fixed: 6, moving: true}}
"""


@pytest.mark.parametrize("kind", KINDS)
def test_exact_resume(kind: str) -> None:
    def built() -> object:
        return Assembler(recipe.load(RECIPE.format(kind=kind), TABLES), "cpu").stage(0)

    ring, whole, again = Ring(METRICS, 100, "cpu"), built(), built()
    for i in range(14):
        if i == 8:
            for part in ("scene", "optimiser", "streams"):
                state = getattr(whole, part).state_dict()
                getattr(again, part).load_state_dict({name: value.clone() for name, value in state.items()})
        step(whole, i, ring)  # type: ignore[arg-type]
    for i in range(8, 14):
        step(again, i, ring)  # type: ignore[arg-type]
    ours, theirs = whole.scene.state_dict(), again.scene.state_dict()  # type: ignore[attr-defined]
    assert ours.keys() == theirs.keys() and len(ours["means"]) != 60
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

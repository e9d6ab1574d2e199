# SPDX-License-Identifier: Apache-2.0
"""Wires inside scenes: lights, the stage's colour behind a scene, occupancy as a field grows, what a material is called
in the file, and the cameras of pictures that a rule keeps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit, turntable
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Training
from dreamlab.export.glb import glb_bytes
from renderers.field4d import Field4D
from renderers.gaussians import Gaussians
from renderers.gaussians4d import Gaussians4D
from renderers.hash_field import FieldSettings, HashField
from renderers.light.background import BackgroundSettings
from renderers.light.harmonics import harmonics
from renderers.light.shading import ShadingSettings
from renderers.mesh import TexturedMesh
from renderers.surface.extraction import extract
from tests.export.viewer import Glb

SMALL: dict[str, Any] = {"levels": 4, "log2_entries": 10, "finest": 16, "hidden": 8, "occupancy": 16, "step": 0.05}


def training(step: int = 0, total: int = 10, seed: int = 0) -> Training:
    return Training(Progress(step, total), torch.Generator().manual_seed(seed))


# ---- lights ---------------------------------------------------------------------------------------------------------
def lit(*lights: str, **settings: Any) -> TexturedMesh:
    made = TexturedMesh.Settings(
        lights=lights, shading="splitsum", texture=32, material="texture", unwrap="own", faces=300, **settings
    )
    return TexturedMesh(made, torch.Generator().manual_seed(0))


def test_each_view_of_a_training_step_stands_under_one_of_the_lights_and_pictures_under_the_first() -> None:
    """Three lights of different colours: every view equals the picture under one of them alone, and all three come."""
    names = ("night", "white", "sunset")
    alone = {}
    cameras, behind = orbit([20.0], 15.0), torch.zeros(1, 3)
    for name in names:
        with torch.no_grad():
            alone[name] = lit(name).render(cameras, 24, behind).rgb[0]
    scene, seen = lit(*names), []
    many = orbit([20.0] * 24, 15.0)
    with torch.no_grad():
        frames = scene.render(many, 24, torch.zeros(24, 3), training())
        for picture in frames.rgb:
            errors = {name: float((picture - alone[name]).abs().max()) for name in names}
            best = min(errors, key=lambda name: errors[name])
            assert errors[best] < 1e-4 and sorted(errors.values())[1] > 0.02
            seen.append(best)
        still = scene.render(cameras, 24, behind).rgb[0]
    assert set(seen) == set(names)
    torch.testing.assert_close(still, alone["night"], atol=1e-5, rtol=0)


def test_shine_is_seen_by_each_view_from_its_own_eye() -> None:
    """A polished ball under lamps: a batch of views is the views one by one, highlights and all."""
    scene = lit("studio", roughness=(0.06, 0.07), metallic=(0.9, 0.91))
    cameras, behind = orbit([0.0, 70.0, 200.0], 15.0), torch.zeros(3, 3)
    with torch.no_grad():
        together = scene.render(cameras, 32, behind).rgb
        for i in range(3):
            alone = scene.render(cameras[i : i + 1], 32, behind[:1]).rgb[0]
            torch.testing.assert_close(together[i], alone, atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("material", ["texture", "hash"])
def test_roughness_and_metallic_of_a_scene_are_those_of_its_file(material: str) -> None:
    """Raw numbers of a material set by hand: base (.9, .5, .2), roughness .3, metallic .7; bump nothing."""
    ranges = {"roughness": (0.1, 0.9), "metallic": (0.0, 1.0)}
    scene = TexturedMesh(
        TexturedMesh.Settings(texture=32, material=material, unwrap="own", faces=300, bump=0.5, **ranges),
        torch.Generator().manual_seed(0),
    )
    raw = [math.log(v / (1 - v)) for v in (0.9, 0.5, 0.2, (0.3 - 0.1) / 0.8, 0.7)] + [0.0] * 3
    with torch.no_grad():
        if material == "texture":
            scene.params["texture"].copy_(torch.tensor(raw).expand_as(scene.params["texture"]))
        else:
            scene.params["layer2"].zero_()
            scene.params["bias"].copy_(torch.tensor(raw))
    glb = Glb(glb_bytes(extract(scene, 0), "ball", {}))
    metal = glb.material["pbrMetallicRoughness"]
    packed, base = glb.picture(metal["metallicRoughnessTexture"]), glb.picture(metal["baseColorTexture"])
    inside = base.reshape(-1, 3).max(1) > 0
    np.testing.assert_allclose(base.reshape(-1, 3)[inside].mean(0), [229.5, 127.5, 51], atol=1.5)
    np.testing.assert_allclose(packed.reshape(-1, 3)[inside, 1:].mean(0), [0.3 * 255, 0.7 * 255], atol=1.5)
    normal = glb.picture(glb.material["normalTexture"]).reshape(-1, 3)[inside]
    np.testing.assert_allclose(normal.mean(0), [127.5, 127.5, 255], atol=1.5)


def test_a_normal_texture_bends_along_its_tangents_in_the_file_as_on_the_scene() -> None:
    """glTF: the bent normal is x T + y B + z N, B = N x T times T.w; the scene's picture of normals shows the same."""
    scene = TexturedMesh(
        TexturedMesh.Settings(texture=64, material="texture", unwrap="own", faces=600, bump=0.8),
        torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        scene.params["texture"][..., 5], scene.params["texture"][..., 6] = 0.6, -0.3
        frames = scene.render(orbit([0.0], 0.0), 64, torch.zeros(1, 3))
    glb = Glb(glb_bytes(extract(scene, 0), "ball", {}))
    packed = glb.picture(glb.material["normalTexture"]).astype(float) / 255 * 2 - 1
    local = packed.reshape(-1, 3)[np.abs(packed.reshape(-1, 3)[:, 0]) > 0.1].mean(0)
    n, t = glb.attribute("NORMAL").astype(float), glb.attribute("TANGENT").astype(float)
    bent = local[0] * t[:, :3] + local[1] * np.cross(n, t[:, :3]) * t[:, 3:] + local[2] * n
    bent /= np.linalg.norm(bent, axis=1, keepdims=True)
    from tests.export.viewer import pinhole

    points = glb.points()
    column, row, eye = pinhole(points, 0.0, 0.0, 3.0, 40.0, 64)
    facing = (n * (eye - points)).sum(1) / np.linalg.norm(eye - points, axis=1) > 0.7
    shown = frames.normal[0].numpy()[row[facing].astype(int), column[facing].astype(int)]  # type: ignore[index]
    agree = (shown * bent[facing]).sum(1)
    assert np.median(agree) > 0.99 and np.percentile(agree, 10) > 0.95
    assert np.median((shown * n[facing]).sum(1)) < 0.95, "it is bent at all"


# ---- harmonics and shading ------------------------------------------------------------------------------------------
def test_background_harmonics_stand_in_the_order_of_their_degrees() -> None:
    """Constant; y, z, x; xy, yz, 3z^2 - 1, xz, x^2 - y^2: each against its closed form at random directions."""
    drawn = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    d = torch.nn.functional.normalize(drawn, dim=-1)
    x, y, z = d.unbind(-1)
    pi = math.pi
    one = math.sqrt(1 / (4 * pi)) * torch.ones_like(x)
    first = [math.sqrt(3 / (4 * pi)) * a for a in (y, z, x)]
    second = [math.sqrt(15 / (4 * pi)) * a for a in (x * y, y * z)]
    second += [math.sqrt(5 / (16 * pi)) * (3 * z * z - 1), math.sqrt(15 / (4 * pi)) * x * z]
    second += [math.sqrt(15 / (16 * pi)) * (x * x - y * y)]
    torch.testing.assert_close(harmonics(d), torch.stack([one, *first, *second], -1))


@pytest.mark.parametrize(
    ("degree", "step", "terms"),
    [(3, 0, 1), (3, 3, 4), (3, 6, 9), (3, 9, 16), (2, 3, 4), (2, 9, 9), (4, 3, 4), (4, 7, 16), (4, 9, 25)],
)
def test_harmonics_of_gaussians_come_in_degree_by_degree(degree: int, step: int, terms: int) -> None:
    """With coefficients everywhere, the gradient reaches those of the degrees in use, and no other."""
    scene = Gaussians(Gaussians.Settings(count=40, sh_degree=degree, opacity=0.5), torch.Generator().manual_seed(0))
    with torch.no_grad():
        scene.params["sh_rest"].normal_(0, 0.05)
    frames = scene.render(turntable(4), 24, torch.zeros(4, 3), training(step))
    frames.rgb.square().sum().backward()
    grad = scene.params["sh_rest"].grad
    rest = (degree + 1) ** 2 - 1
    reached = torch.zeros(rest, dtype=torch.bool) if grad is None else grad.abs().amax((0, 2)) > 0
    assert reached.tolist() == [i + 1 < terms for i in range(rest)]


def test_harmonics_that_say_nothing_change_nothing() -> None:
    """Degree 2 with coefficients of 0 is the plain colour."""
    pictures = []
    for degree in (0, 2):
        scene = Gaussians(Gaussians.Settings(count=40, sh_degree=degree, opacity=0.5), torch.Generator().manual_seed(0))
        with torch.no_grad():
            scene.params["logit_color"].copy_(torch.linspace(-2, 2, 120).reshape(40, 3))
            pictures.append(scene.render(turntable(2), 24, torch.zeros(2, 3), training(9)).rgb)
    torch.testing.assert_close(pictures[0], pictures[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("loop", [False, True])
def test_a_loop_closes_whatever_holds_it_still_at_its_ends(loop: bool) -> None:
    """Poses of 1 everywhere times xi: time^0.35, or of a loop the distance from its nearer end."""
    from renderers.gaussian.deform import Deformation, DeformSettings

    settings = DeformSettings(points=3, moments=4, loop=loop, power=0.35)
    motion = Deformation(settings, torch.rand(9, 3, generator=torch.Generator().manual_seed(0)), torch.Generator())
    with torch.no_grad():
        motion.params["poses"].fill_(1.0)
    for time, away in (
        (0.0, 0.0),
        (0.1, 0.2 if loop else 0.1),
        (0.5, 1.0 if loop else 0.5),
        (0.9, 0.2 if loop else 0.9),
    ):
        shift, _ = motion.poses(torch.tensor(time))
        torch.testing.assert_close(shift.detach(), torch.full((3, 3), away**0.35), atol=1e-3, rtol=0)


def test_a_lit_step_is_white_only_where_it_was_drawn_so() -> None:
    """lit 1, textureless 0 shows the colours, textureless 1 gray ones; lit 0 the colour itself."""
    found = {}
    for name, shading in {
        "plain": ShadingSettings(),
        "lit": ShadingSettings(lit=constant(1.0), textureless=constant(0.0), ambient=1.0, diffuse=0.0),
        "blank": ShadingSettings(lit=constant(1.0), textureless=constant(1.0), ambient=1.0, diffuse=0.0),
    }.items():
        scene = HashField(FieldSettings(**SMALL, normals="analytic", shading=shading), torch.Generator().manual_seed(0))
        with torch.no_grad():
            scene.params["table"].normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
        frames = scene.render(turntable(2), 16, torch.zeros(2, 3), training())
        found[name] = frames.rgb.detach(), frames.alpha.detach()
    torch.testing.assert_close(found["lit"][0], found["plain"][0])
    rgb, alpha = found["blank"]
    torch.testing.assert_close(rgb, alpha.expand_as(rgb))
    assert (found["plain"][0].amax(-1) - found["plain"][0].amin(-1)).max() > 0.01


# ---- what is behind -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["field", "field4d", "gaussians", "mesh"])
def test_what_is_not_covered_shows_the_colour_that_the_stage_drew_for_that_view(kind: str) -> None:
    """rgb over one background less rgb over another is (1 - alpha) times their difference, view by view."""
    made: dict[str, Any] = {
        "field": lambda: HashField(FieldSettings(**SMALL), torch.Generator().manual_seed(0)),
        "field4d": lambda: Field4D(Field4D.Settings(**SMALL, moments=2), torch.Generator().manual_seed(0)),
        "gaussians": lambda: Gaussians(Gaussians.Settings(count=60), torch.Generator().manual_seed(0)),
        "mesh": lambda: TexturedMesh(
            TexturedMesh.Settings(texture=32, unwrap="own", faces=300), torch.Generator().manual_seed(0)
        ),
    }
    cameras = turntable(3)
    a, b = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1)).unbind(0)
    with torch.no_grad():
        scene = made[kind]()
        one, two = scene.render(cameras, 16, a), scene.render(cameras, 16, b)
    torch.testing.assert_close(one.rgb - two.rgb, (1 - one.alpha) * (a - b)[:, None, None], atol=2e-6, rtol=0)
    assert torch.equal(one.background, a) and 0.05 < one.alpha.mean() < 0.95


def test_a_learned_background_is_behind_training_views_and_gives_way_where_asked() -> None:
    background = BackgroundSettings(kind="solid", augment=constant(0.0))
    scene = HashField(FieldSettings(**SMALL, background=background), torch.Generator().manual_seed(0))
    with torch.no_grad():
        scene.background.params["color"].copy_(torch.tensor([2.0, 0.0, -2.0]))
    cameras, drawn = orbit([0.0], 0.0, 3.0, 90.0), torch.tensor([[0.1, 0.9, 0.4]])
    corner = scene.render(cameras, 16, drawn, training()).rgb[0, 0, 0]
    torch.testing.assert_close(corner.detach(), torch.tensor([2.0, 0.0, -2.0]).sigmoid())
    torch.testing.assert_close(scene.render(cameras, 16, drawn).rgb[0, 0, 0].detach(), drawn[0])


@pytest.mark.parametrize("kind", ["field4d", "gaussians4d"])
def test_each_view_of_a_moving_scene_is_of_its_own_time(kind: str) -> None:
    """A batch at four times shows what four pictures show; and they differ."""
    stream = torch.Generator().manual_seed(0)
    if kind == "field4d":
        scene: Any = Field4D(Field4D.Settings(**SMALL, moments=3), stream)
        with torch.no_grad():
            scene.params["temporal"].normal_(0, 1, generator=stream)
        scene._refresh(0)
    else:
        scene = Gaussians4D(Gaussians4D.Settings(count=60, opacity=0.8), stream)
        poses = scene.motions[0].params["poses"]
        with torch.no_grad():
            poses[:, :, 0] = torch.linspace(-0.4, 0.4, len(poses))[:, None]
    times = torch.tensor([0.0, 0.3, 0.6, 1.0])
    cameras = replace(orbit([0.0, 40.0, 80.0, 120.0], 10.0), time=times)
    frames = scene.render(cameras, 20, torch.zeros(4, 3), training())
    still = replace(cameras, time=torch.zeros(4))
    for i in range(1, 4):
        with torch.no_grad():
            one, first = (scene.render(each[i : i + 1], 20, torch.zeros(1, 3)).rgb[0] for each in (cameras, still))
        assert (first - one).abs().mean() > 2e-3
        jitter = 0.25 if kind == "field4d" else 1e-5  # a training ray starts anywhere in its first step
        assert (frames.rgb[i].detach() - one).abs().mean() < jitter * (first - one).abs().mean() + 1e-6


# ---- occupancy ------------------------------------------------------------------------------------------------------
def denser(scene: HashField, points: Tensor, place: tuple[float, float, float]) -> Tensor:
    """A ball of 10 per metre of radius 0.25 at `place`."""
    return torch.where((points - torch.tensor(place)).norm(dim=-1) < 0.25, 10.0, 1e-6)


@pytest.mark.parametrize("refresh", [1, 4])
def test_what_grows_in_empty_space_is_found_by_the_next_refresh(monkeypatch: pytest.MonkeyPatch, refresh: int) -> None:
    """A field of nothing becomes a ball on the left: seen after the refresh that `adapt` makes, on the left alone."""
    scene = HashField(FieldSettings(**SMALL, refresh=refresh, bias="none"), torch.Generator().manual_seed(0))
    scene._look_up(torch.zeros_like(scene.occupancy))
    cameras, black = orbit([0.0], 0.0), torch.zeros(1, 3)
    monkeypatch.setattr(scene, "sigma", lambda raw, *more: raw)
    monkeypatch.setattr(scene, "raw", lambda points, *more: denser(scene, points, (-0.5, 0.0, 0.0)))
    frames = scene.render(cameras, 32, black)
    assert frames.alpha.max() == 0, "nothing is looked for in cells that are empty"
    visible = []
    for step in range(2 * refresh + 1):
        scene.adapt(Progress(step + 1, 100), frames, torch.tensor(True))
        visible.append(bool((scene.occupied).any()))
    assert visible.index(True) == refresh - 1, "in the first refresh, not before"
    inside = scene.occupied.nonzero().float().add(0.5) / 16 * 2 - 1  # x, y, z of the cells' centres
    assert len(inside) > 10 and ((inside - torch.tensor([-0.5, 0.0, 0.0])).norm(dim=1) < 0.25 + 0.22).all()


def test_the_occupancy_comes_back_with_the_state() -> None:
    scene = HashField(FieldSettings(**SMALL), torch.Generator().manual_seed(0))
    scene.occupancy = scene.occupancy * 0
    scene.occupancy[3, 4, 5] = 50.0
    other = HashField(FieldSettings(**SMALL), torch.Generator().manual_seed(1))
    other.load_state_dict(scene.state_dict())
    assert other.occupied.nonzero().tolist() == [[3, 4, 5]]


@pytest.mark.parametrize(("step", "levels"), [(0, 2), (5, 3), (9, 3)])
def test_levels_come_in_with_the_stage_s_clock(step: int, levels: int) -> None:
    """Two levels at first, four at the end: the rows of the finest level get their gradient only when it is in use."""
    from dreamlab.core.schedules import ramp

    scene = HashField(FieldSettings(**SMALL, active=ramp(2, 4)), torch.Generator().manual_seed(0))
    frames = scene.render(turntable(2), 12, torch.zeros(2, 3), training(step))
    frames.rgb.sum().backward()
    assert scene.active == levels
    kept = scene.state_dict()["active"]
    scene.active = 1
    scene.load_state_dict({**scene.state_dict(), "active": kept})
    assert scene.active == levels


# ---- pictures that a rule keeps -------------------------------------------------------------------------------------
def test_a_kept_picture_is_learnt_with_the_camera_it_was_taken_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bootstrapped prior learns polished renders of earlier steps: each with its own camera, not today's."""
    from systems.bootstrapped import Bootstrapped
    from systems.engine.residual import Look
    from tests.systems.test_residual import Linear

    model, rule = Linear(), Bootstrapped(Bootstrapped.Settings(cycle=100, dream=0.9, renew=1, polish=1, width=8))
    taken: list[tuple[Tensor, Tensor]] = []
    learnt: list[tuple[Tensor, Tensor]] = []
    polish = rule._polish

    def polished(look: Look) -> Tensor:
        made = polish(look)
        taken.append((made, look.poses()))
        return made

    def learn(look: Look, name: str, pictures: Tensor, camera: Tensor, rate: float) -> None:
        learnt.append((pictures, camera))

    monkeypatch.setattr(rule, "_polish", polished)
    monkeypatch.setattr(rule, "_learn", learn)
    noise, time = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    for step in range(12):
        cameras: Cameras = orbit([30.0 * step, 30.0 * step + 90], 10.0).to(dtype=torch.float64)
        z = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=noise)
        said = model.condition(None, cameras, None)  # type: ignore[arg-type]
        rule.gradient(Look(model, z, said, Progress(step, 100), noise, time, None, cameras))
    older = 0
    for step, (pictures, camera) in enumerate(learnt):
        (source,) = [i for i, (made, _) in enumerate(taken) if torch.equal(made, pictures)]
        assert torch.equal(camera, taken[source][1])
        older += source < step
    assert older >= 5


def test_a_rule_s_network_hears_the_camera_row_by_row() -> None:
    """[B, 16]: the rows of camera_to_world one after another, so that the eye stands at places 3, 7 and 11."""
    from systems.engine.residual import Look
    from tests.systems.test_residual import Linear

    cameras, model = orbit([25.0, 140.0], 10.0).to(dtype=torch.float64), Linear()
    z, streams = torch.zeros(2, 3, 4, 4, dtype=torch.float64), (torch.Generator(), torch.Generator())
    poses = Look(model, z, {}, Progress(0, 1), *streams, None, cameras).poses()
    torch.testing.assert_close(poses[:, [3, 7, 11]], cameras.camera_to_world[:, :3, 3])
    torch.testing.assert_close(poses[:, :3], cameras.camera_to_world[:, 0, :3])


def test_a_model_that_knows_its_pictures_shows_each_prompt_and_camera_its_own() -> None:
    """Truth and picture remember what they looked up: of another prompt, size or camera they must look again."""
    from dreamlab.core.types import Frames, Prompt, Reference
    from dreamlab.run.worlds import true_pictures
    from guidance.picture import Picture
    from guidance.truth import Truth

    def frames(size: int) -> Frames:
        zeros = torch.zeros(1, size, size, 1)
        return Frames(zeros.expand(-1, -1, -1, 3), zeros, zeros, torch.zeros(1, 3))

    red, blue = (Prompt(f"a {colour} mug") for colour in ("red", "blue"))
    truth = Truth(Truth.Settings(), lambda prompt: true_pictures(prompt, 0))
    for prompt, azimuth, size in ((red, 0.0, 24), (blue, 0.0, 24), (red, 0.0, 24), (red, 90.0, 24), (red, 90.0, 16)):
        camera = orbit([azimuth], 20.0)
        got = truth.condition(prompt, camera, frames(size))["truth"].rows
        torch.testing.assert_close(got["rgb"], true_pictures(prompt, 0)(camera, size).rgb[0])
    one, two = (torch.full((8, 8, 3), value) for value in (0.2, 0.9))
    picture = Picture(Picture.Settings())
    for rgb, size in ((one, 8), (two, 8), (one, 8), (one, 16)):
        prompt = Prompt("a mug", image=Reference(rgb, torch.ones(8, 8, 1), orbit([0.0])))
        got = picture.condition(prompt, orbit([0.0]), frames(size))["truth"].rows
        torch.testing.assert_close(got["rgb"], rgb[:1, :1].expand(1, size, size, 3))

# SPDX-License-Identifier: Apache-2.0
"""Several objects: placement against moved points, masks that add up, spheres of every kind that hide each other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.errors import RecipeError
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.settings import Spec
from dreamlab.core.types import Training
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from renderers.compose import MEMBERS, Placed, Several
from renderers.surface.extraction import extract
from tests.conftest import Commands

CLOUD = Spec("gaussians", MEMBERS["gaussians"].Settings(count=64, radius=0.3, opacity=0.9))
LEFT = Placed(CLOUD, position=(-0.5, 0.0, 0.0), code=(1.0, 0.0, 0.0))
RIGHT = Placed(CLOUD, position=(0.5, 0.1, 0.0), turn_deg=90, scale=0.5, code=(0.0, 1.0, 0.0))
# Balls of radius 0.5 that are known exactly: a distance field and a tetrahedral grid start as them.
FIELD = Spec(
    "field",
    MEMBERS["field"].Settings(
        levels=2, log2_entries=8, base=4, finest=8, hidden=8, density="volsdf", beta=0.01, sphere=0.5, occupancy=24
    ),
)
# VolSDF's haze: a ray that passes a ball of radius R at distance d meets an optical depth of exp(-d / beta)
# sqrt(2 pi R beta) / (2 beta); at ln 2 half the light is stopped, so the outline is that of a ball larger by d.
HAZE = 0.01 * math.log(math.sqrt(2 * math.pi * 0.5 * 0.01) / (2 * 0.01 * math.log(2)))
OUTLINE = {"field": 0.5 + HAZE, "dmtet": 0.5}
TETS = Spec("dmtet", MEMBERS["dmtet"].Settings(resolution=24, radii=(0.5, 0.5, 0.5), levels=2, finest=8))


def scene(objects: dict[str, Placed] | None = None, **settings: Any) -> Several:
    made = Several(
        Several.Settings(objects=objects or {"duck": LEFT, "house": RIGHT}, **settings),
        torch.Generator().manual_seed(0),
    )
    for member in made.members.values():
        if member.kind == "field":  # nothing but the sphere it starts from
            with torch.no_grad():
                member.params["density.out"].zero_()
                member._refresh(0)
    return made


def sphere_depth(cameras: Cameras, size: int, centre: tuple[float, float, float], radius: float) -> Tensor:
    """[B, H, W] camera z of the nearer hit of a sphere, inf where it is missed."""
    eye, rays = cameras.rays(size, size)
    away = eye[:, None, None] - torch.tensor(centre)
    b, c = (rays * away).sum(-1), (away.square().sum(-1) - radius**2)
    root = (b * b - c).clamp(min=0).sqrt()
    cosine = -(rays * cameras.camera_to_world[:, None, None, :3, 2]).sum(-1)
    return torch.where(b * b > c, (-b - root) * cosine, torch.inf)


def test_a_point_stands_where_its_placement_says() -> None:
    made = scene()
    with torch.no_grad():
        made.members["house"].params["means"][0] = torch.tensor([0.2, 0.1, 0.0])
        made.members["house"].params["quats"][0] = torch.tensor([1.0, 0, 0, 0])
    placed = made.cloud("house")
    # A quarter turn counter-clockwise seen from above takes +X to -Z.
    torch.testing.assert_close(placed["means"][0], torch.tensor([0.5, 0.15, -0.1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(placed["quats"][0], torch.tensor([math.cos(math.pi / 4), 0, math.sin(math.pi / 4), 0]))
    own = made.members["house"].params["log_scales"].exp()
    torch.testing.assert_close(placed["log_scales"].exp(), own * 0.5)


def test_a_camera_in_an_object_s_frame_sees_its_points_where_the_world_s_does() -> None:
    """The placed point and its picture: pixels agree, and depths by the scale."""
    placed = replace(RIGHT, turn_deg=35.0, scale=0.7)
    cameras = orbit([20.0, 130.0], [10.0, -30.0])
    point = torch.tensor([0.3, -0.2, 0.4])
    world = 0.7 * placed.turn(point) @ point + torch.tensor(placed.position)
    there = [c.world_to_camera() @ torch.cat([p, torch.ones(1)]) for c, p in
             ((placed.seen_by(cameras), point), (cameras, world))]  # fmt: skip
    torch.testing.assert_close(0.7 * there[0][:, :3], there[1][:, :3])


def test_masks_add_up_to_alpha_and_codes_follow_them() -> None:
    frames = scene().render(orbit([0.0, 70.0]), 24, torch.ones(2, 3))
    masks, codes = frames.extra["masks"], frames.extra["codes"]
    torch.testing.assert_close(masks.sum(-1, keepdim=True), frames.alpha, atol=1e-4, rtol=0)
    torch.testing.assert_close(codes[..., :2], masks, atol=1e-4, rtol=0)
    left, right = frames.extra["masks"][0, :, :12], frames.extra["masks"][0, :, 12:]
    assert left[..., 0].sum() > 10 * left[..., 1].sum() and right[..., 1].sum() > 10 * right[..., 0].sum()


@pytest.mark.parametrize("kind", ["field", "dmtet"])
def test_a_placed_ball_is_a_ball_in_its_place(kind: str) -> None:
    """Silhouette and depth of the sphere where its placement puts it, with the normals of the world."""
    at = Placed(FIELD if kind == "field" else TETS, position=(0.3, -0.2, 0.1), turn_deg=40.0, scale=0.8)
    cameras, size = orbit([30.0, 200.0], 20.0), 48
    with torch.no_grad():
        shown = scene({"ball": at}).render(cameras, size, torch.zeros(2, 3))
    truth = sphere_depth(cameras, size, at.position, 0.4)
    hit = truth.isfinite()
    outline = sphere_depth(cameras, size, at.position, 0.8 * OUTLINE[kind]).isfinite()
    assert ((shown.alpha[..., 0] > 0.5) != outline).sum() < 0.03 * hit.sum()
    inside = hit & (shown.alpha[..., 0] > 0.999)
    assert (shown.depth[..., 0] - truth)[inside].abs().median() < 0.012
    eye, rays = cameras.rays(size, size)
    cosine = -(rays * cameras.camera_to_world[:, None, None, :3, 2]).sum(-1)
    points = eye[:, None, None] + rays * (truth.where(hit, torch.zeros(())) / cosine)[..., None]
    normal = (points - torch.tensor(at.position)) / 0.4
    assert shown.normal is not None
    assert (shown.normal * normal).sum(-1)[inside].median() > 0.99


@pytest.mark.parametrize("kinds", [("dmtet", "dmtet"), ("field", "dmtet"), ("field", "field")])
def test_balls_that_cut_each_other_show_the_nearer_one(kinds: tuple[str, str]) -> None:
    """Per pixel, against the hits of a ray with both spheres; only pixels at the seam and the rims may differ."""
    centres = ((-0.2, 0.0, 0.1), (0.25, 0.1, -0.1))
    spec = {"field": FIELD, "dmtet": TETS}
    objects = {f"ball{i}": Placed(spec[kinds[i]], position=at) for i, at in enumerate(centres)}
    cameras, size = orbit([0.0, 90.0, 180.0], 10.0), 48
    with torch.no_grad():
        shown = scene(objects).render(cameras, size, torch.zeros(3, 3))
    depths = torch.stack([sphere_depth(cameras, size, at, 0.5) for at in centres])
    hit = depths.amin(0).isfinite()
    pairs = zip(kinds, centres, strict=True)
    outline = torch.stack([sphere_depth(cameras, size, at, OUTLINE[kind]).isfinite() for kind, at in pairs]).any(0)
    wrong = (shown.extra["masks"].argmax(-1) != depths.argmin(0)) & hit & (shown.alpha[..., 0] > 0.5)
    assert wrong.sum() < 0.03 * hit.sum()
    assert ((shown.alpha[..., 0] > 0.5) != outline).sum() < 0.03 * hit.sum()
    torch.testing.assert_close(shown.extra["masks"].sum(-1, keepdim=True), shown.alpha, atol=1e-4, rtol=0)


def test_a_cloud_behind_a_ball_is_hidden_and_seen_from_the_other_side() -> None:
    objects = {"cloud": replace(LEFT, position=(0.0, 0.0, -0.9)), "ball": Placed(TETS, position=(0.0, 0.0, 0.3))}
    with torch.no_grad():
        front, back = (
            scene(objects).render(orbit([0.0, 180.0], 0.0), 32, torch.zeros(2, 3)).extra["masks"][:, 14:18, 14:18]
        )
    assert front[..., 1].min() > 0.999 and front[..., 0].max() < 1e-4
    assert back[..., 0].min() > 0.5


def test_one_alone_is_drawn_in_its_own_frame() -> None:
    made = scene({"duck": LEFT, "house": RIGHT, "ball": Placed(FIELD, position=(0.5, 0.0, 0.0))}, alone=constant(1.0))
    cameras, black = orbit([0.0]), torch.zeros(1, 3)
    seen = set()
    for seed in range(12):
        frames = made.render(cameras, 16, black, Training(Progress(0, 1), torch.Generator().manual_seed(seed)))
        assert int(frames.extra["present"].sum()) == 1
        one = int(frames.extra["present"].nonzero()[0, 0])
        seen.add(one)
        x = (frames.extra["masks"][0, ..., one].sum(0) * (torch.arange(16) - 7.5)).sum()
        assert abs(float(x.detach() / frames.alpha.sum().detach())) < 1  # in the middle, not to a side
    assert seen == {0, 1, 2}


def test_the_box_holds_and_gradients_reach_every_object() -> None:
    objects = {"duck": LEFT, "fog": Placed(FIELD, box=(0.4, 0.8, 0.8)), "shell": Placed(TETS, position=(0.9, 0.0, 0.0))}
    made = scene(objects)
    frames = made.render(orbit([0.0]), 16, torch.zeros(1, 3), Training(Progress(0, 1), torch.Generator()))
    beyond = float(made.penalty("box", frames).detach())
    assert 0 < beyond < 0.01  # the ball of radius 0.5 reaches 0.1 out of its box
    with torch.no_grad():
        made.members["duck"].params["means"][:, 1] = 0.9
    loss = made.penalty("box", frames)
    assert float(loss.detach()) == pytest.approx(beyond + (0.1**2) / 3, rel=1e-4)
    for name in ("eikonal", "laplacian", "opacity_mean"):
        loss = loss + made.penalty(name, frames)
    (loss + frames.rgb.sum()).backward()
    reached = {name.split(".")[0] for name, group in made.groups().items() if group.tensor.grad is not None}
    assert reached == set(objects)
    assert all(torch.isfinite(g.tensor.grad).all() for g in made.groups().values() if g.tensor.grad is not None)
    lacking = Several.card(made.settings).lacking
    assert "smooth_material" in lacking and not {"box", "eikonal", "laplacian", "opacity_mean"} & set(lacking)


def test_the_surfaces_of_all_objects_stand_in_the_world() -> None:
    made = scene({"a": Placed(FIELD, position=(-0.4, 0, 0), scale=0.5), "b": Placed(TETS, position=(0.5, 0.2, 0))})
    found = extract(made, 48)
    solid = trimesh.Trimesh(found.vertices.numpy(), found.faces.numpy(), process=False)
    small, large = sorted(solid.split(only_watertight=True), key=lambda part: part.volume)
    assert small.volume == pytest.approx(4 / 3 * math.pi * 0.25**3, rel=0.05)
    assert large.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.05)
    assert small.center_mass == pytest.approx((-0.4, 0, 0), abs=0.01)
    assert large.center_mass == pytest.approx((0.5, 0.2, 0), abs=0.01)


def test_a_small_object_beside_a_large_one_is_no_floater() -> None:
    """A tenth of its size is a hundredth of its area: less than what is dropped from one scene."""
    small = Placed(TETS, position=(0.7, 0.7, 0.0), scale=0.1)
    found = extract(scene({"large": Placed(TETS), "small": small}), 0)
    near = (found.vertices - torch.tensor([0.7, 0.7, 0.0])).norm(dim=-1) < 0.1
    assert near.any() and float((found.vertices[near] - torch.tensor([0.7, 0.7, 0.0])).norm(dim=-1).mean()) == (
        pytest.approx(0.05, rel=0.05)
    )


MIXED = """
prompt: a red mushroom with a white stem
stages:
  - name: all
    scene:
      kind: several
      alone: 0.3
      objects:
        cloud: {scene: {kind: gaussians, count: 40}, position: [-0.5, 0, 0], scale: 0.5}
        fog:
          scene: {kind: field, levels: 2, log2_entries: 6, base: 4, finest: 8, hidden: 8, occupancy: 8, step: 0.1,
                  density: neus}
          position: [0.5, 0, 0]
          scale: 0.5
        shell: {scene: {kind: dmtet, resolution: 8, levels: 2}, scale: 0.4, position: [0, 0.4, 0]}
        table: {scene: {kind: mesh, texture: 32, unwrap: own}, scale: 0.3, position: [0, -0.5, 0]}
    terms: [{guidance: truth, system: photometric}]
    regularisers: {box: 1.0, eikonal: 0.1, laplacian: 0.1, smooth_material: 0.1}
    steps: 9
    views: 2
    size: 16
"""


def test_a_recipe_mixes_kinds_and_resumes_exactly() -> None:
    def built() -> Any:
        return Assembler(recipe.load(recipe.dump(recipe.load(MIXED, TABLES)), TABLES), "cpu").stage(0)

    ring, whole, again = Ring(METRICS, 100, "cpu"), built(), built()
    start = {name: value.clone() for name, value in whole.scene.state_dict().items()}
    for i in range(9):
        if i == 5:
            for part in ("scene", "optimiser", "streams"):
                state = getattr(whole, part).state_dict()
                getattr(again, part).load_state_dict({name: value.clone() for name, value in state.items()})
        step(whole, i, ring)
    for i in range(5, 9):
        step(again, i, ring)
    assert all(row["healthy"] for row in ring.drain())
    ours, theirs = whole.scene.state_dict(), again.scene.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {name.split(".")[0] for name in ours if not torch.equal(start[name], ours[name])} == set(whole.scene.names)


OBJECTS = """
prompt: a red mushroom with a white stem
stages:
  - name: one
    scene: {kind: gaussians, count: 50}
    terms: [{guidance: truth, system: photometric}]
    steps: 2
    size: 16
  - name: two
    scene: {kind: dmtet, resolution: 10, levels: 2}
    terms: [{guidance: truth, system: photometric}]
    steps: 2
    size: 16
  - name: both
    scene:
      kind: several
      objects:
        cloud: {scene: {kind: gaussians, from: one, count: 50}, position: [-0.5, 0, 0], scale: 0.5}
        skin: {scene: {kind: mesh, from: two, texture: 64, faces: 200, unwrap: own}, scale: 0.5}
    terms: [{guidance: truth, system: photometric}]
    steps: 2
    size: 16
export: {resolution: 16, turntable: 2, size: 32}
keeping: {checkpoint: 1}
"""


def test_objects_start_from_stages_of_their_own(dreamlab: Commands, tmp_path: Path) -> None:
    """Two stages make an object each, the third puts them together; resumed from any checkpoint it ends the same."""
    (tmp_path / "objects.yaml").write_text(OBJECTS)
    ended = dreamlab("dream", "--recipe", "objects.yaml")
    assert ended.code == 0, ended.err
    run = tmp_path / ended.out.splitlines()[-1]
    (event,) = [e for e in map(json.loads, (run / "events.jsonl").open()) if e["kind"] == "became"]
    assert (event["stage"], event["object"], event["was"], event["now"]) == ("both", "skin", "dmtet", "mesh")
    assert event["silhouette_iou"] > 0.9 and ended.err.count("both, skin: two became mesh, keeping") == 1
    changes = json.loads((run / "export" / "report.json").read_text())["changes"]
    assert changes[0]["object"] == "skin" and changes[1]["now"] == "export"
    with pytest.raises(RecipeError, match="not an earlier stage"):
        recipe.load(OBJECTS.replace("from: two", "from: three"), TABLES)
    with pytest.raises(RecipeError, match="cannot become field"):
        wrong = OBJECTS.replace("mesh, from: two, texture: 64, faces: 200, unwrap: own", "field, from: two")
        Assembler(recipe.load(wrong, TABLES), "cpu")
    assembler = Assembler(recipe.load(OBJECTS, TABLES), "cpu")
    done: dict[str, Any] = {}
    for index, name in enumerate(("one", "two")):
        done[name] = assembler.stage(index, done).scene
    both: Any = assembler.stage(2, done).scene
    assert torch.equal(both.members["cloud"].params["means"], done["one"].params["means"])
    again: Any = assembler.stage(2).scene  # as when a run resumes: everything is in the state
    again.load_state_dict(both.state_dict())
    with torch.no_grad():
        shown = [each.render(orbit([20.0]), 24, torch.ones(1, 3)).rgb for each in (both, again)]
    assert torch.equal(*shown)


@pytest.mark.parametrize(
    ("objects", "word"),
    [
        ({}, "objects"),
        ({"a.b": LEFT}, "dot"),
        ({"a": Placed(Spec("several", Several.Settings()))}, "several cannot"),
        ({"a": Placed(Spec("field", MEMBERS["field"].Settings(latent=True)))}, "latent"),
        ({"a": Placed(Spec("gaussians", MEMBERS["gaussians"].Settings(sh_degree=1)))}, "sh_degree"),
        ({"a": LEFT, "b": Placed(Spec("gaussians", MEMBERS["gaussians"].Settings(dilation=0.1)))}, "dilation"),
    ],
)
def test_what_cannot_be_an_object_is_said(objects: dict[str, Placed], word: str) -> None:
    assert word in Several.card(Several.Settings(objects=objects)).complaint


def test_what_is_like_another_is_that_one_in_another_place() -> None:
    """The pictures are those of two that are equal; there is one to learn, to store and to be taken over."""
    twin = replace(RIGHT, like="duck")
    one, two = scene({"duck": LEFT, "goose": twin}), scene({"duck": LEFT, "goose": RIGHT})
    two.members["goose"].load_state_dict(two.members["duck"].state_dict())
    cameras, white = orbit([20.0, 200.0], [15.0, 30.0], 3.0, 45.0), torch.ones(2, 3)
    with torch.no_grad():
        shown, wanted = (each.render(cameras, 32, white) for each in (one, two))
    torch.testing.assert_close(shown.rgb, wanted.rgb)
    torch.testing.assert_close(shown.extra["masks"], wanted.extra["masks"])
    assert {name.split(".")[0] for name in (*one.groups(), *one.state_dict())} == {"duck"}
    with torch.no_grad():
        one.members["duck"].params["means"].add_(0.1)
    torch.testing.assert_close(one.members["goose"].params["means"], one.members["duck"].params["means"])
    one.take("duck", two, torch.Generator().manual_seed(0))
    assert one.members["goose"] is one.members["duck"] and one.own == ("duck",)
    own = dict(two.members["duck"].state_dict())
    one.load_state_dict({f"duck.{key}": value for key, value in own.items()})
    torch.testing.assert_close(one.splats().means[:64], two.splats().means[:64])  # type: ignore


@pytest.mark.parametrize(
    "twin",
    [
        replace(RIGHT, like="goose"),
        replace(RIGHT, like="nobody"),
        replace(RIGHT, like="duck", prompt="a goose"),
        replace(RIGHT, like="duck", scene=TETS),
    ],
)
def test_like_names_another_object_of_the_same_scene(twin: Placed) -> None:
    card = Several.card(Several.Settings(objects={"duck": LEFT, "goose": twin}))
    assert card.complaint.startswith("objects.goose: like names another object with the same scene")

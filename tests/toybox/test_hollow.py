# SPDX-License-Identifier: Apache-2.0
"""What is empty inside: rays against a closed form, the shipped network against held-out programs, what is taken out of
a surface and what is not, and its training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.schedules import constant
from dreamlab.core.types import LevelSet, Prompt
from dreamlab.metrics.asset import instances
from dreamlab.recipe import find
from dreamlab.recipe import load as recipe_of
from dreamlab.recipe.apart import apart
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.toybox.shapes import program
from dreamlab.toybox.training import hollow as training
from dreamlab.toybox.training.command import HOLLOW, begin
from dreamlab.toybox.training.trainer import STATE
from guidance.toybox import hollow
from guidance.toybox.prior import SHIPPED
from renderers.compose import Several
from renderers.gaussians import Gaussians
from renderers.mesh import TexturedMesh
from renderers.surface.clean import open_edges, signed_volumes
from renderers.surface.emptied import Emptied, led, without
from renderers.surface.extraction import Bare
from renderers.surface.isosurface import isosurface

PATH = SHIPPED / "toybox-hollow" / hollow.FILE
SHELLS = {"umbrella": 0.75, "crown": 0.78, "lamp": 0.85, "mug": 0.88, "bell": 0.88}  # least IoU of emptied exact hulls
SMALL = ("stages.1.scene.resolution=40", "stages.1.scene.texture=64", "stages.1.scene.faces=1000")
TINY = {"total": 2048, "batch": 256, "warmup": 512, "instances": 1, "copies": 1, "points": 300}


def ball(radius: float, corners: int = 41) -> tuple[Tensor, Tensor, Tensor, float]:
    """Distance to a ball's surface, positive inside, at the corners of a grid, those, the first, and the cell."""
    cell = 2.0 / (corners - 1)
    line = torch.arange(corners) * cell - 1
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    return radius - points.norm(dim=-1), points, torch.full((3,), -1.0), cell


def test_rays_are_as_long_as_the_way_out_of_a_ball() -> None:
    field, points, _, cell = ball(0.61)
    found = hollow.lengths(field, cell)
    there = field > 0
    at = points[there]
    for ray, length in zip(hollow.RAYS, found, strict=True):
        way = torch.nn.functional.normalize(torch.tensor(ray, dtype=torch.float32), dim=0)
        along = at @ way
        true = -along + (along.square() - at.square().sum(-1) + 0.61**2).sqrt()
        # The field is taken for straight between two corners of the ray.
        assert (length[there] - true).abs().max() < 0.3 * cell
        assert not length[~there].any()


def test_nothing_is_inside_beyond_the_grid_and_pockets_are() -> None:
    found = hollow.lengths(torch.ones(4, 5, 6), 0.5)
    along_x, back = hollow.RAYS.index((1, 0, 0)), hollow.RAYS.index((-1, 0, 0))
    torch.testing.assert_close(found[along_x, :, 2, 2], torch.tensor([1.75, 1.25, 0.75, 0.25]))
    torch.testing.assert_close(found[back, :, 2, 2], torch.tensor([0.25, 0.75, 1.25, 1.75]))
    field, points, _, _ = ball(0.7)
    pocket = points.norm(dim=-1) < 0.3
    assert bool((hollow.whole(torch.where(pocket, -1.0, field)) > 0).eq(field > 0).all())
    reached = pocket | ((points[..., 1] > 0) & (points[..., [0, 2]].norm(dim=-1) < 0.1))
    assert not bool((hollow.whole(torch.where(reached, -1.0, field))[reached] > 0).any())


@pytest.mark.parametrize(("kind", "least"), SHELLS.items())
def test_held_out_hulls_are_emptied_to_what_they_are(kind: str, least: float) -> None:
    """By the shipped weights; the hull of exact silhouettes itself is far from the program's solid."""
    solid = program(kind, {}, instances(kind, 1)[0])
    field = training.hull(solid, torch.Generator().manual_seed(0)) - 0.5
    true = solid.sdf(training.corners()[None])[0].reshape(field.shape) < 0
    carve = hollow.carver(PATH, f"a red {kind}")
    assert carve is not None
    away = carve(field, training.LOW, training.CELL)
    assert away is not None
    left = (field > 0) & ~(away > 0)
    before, after = (float((x & true).sum() / (x | true).sum()) for x in (field > 0, left))
    assert after > least
    assert after > before + 0.15


def test_what_is_not_hollow_is_not_asked_about() -> None:
    assert all(
        hollow.carver(PATH, text) is None
        for text in ("a red ball", "a green cube", "a blue duck", "", "xyzzy", "a mug on a table")
    )
    assert hollow.carver(PATH, "a crimson cup with a white handle") is not None


def test_a_solid_thing_under_a_hollow_one_s_name_stays_solid() -> None:
    """A kind's gate: what little would go of a book-like block told to be a sofa is left where it is."""
    field, _, low, cell = ball(0.5, 25)
    net = hollow.Hollow(("mug",)).requires_grad_(False)
    for bias, empty in ((-1.0, False), (1.0, True)):
        net.last.weight.zero_()
        net.last.bias.fill_(bias)
        away = hollow.opened(net, "mug", field, low, cell)
        assert (away is not None) == empty
    assert away is not None
    assert float(away[field > 0].max()) == pytest.approx(hollow.REACH * math.tanh(1.0))


def test_the_skin_stays_where_something_solid_is_near() -> None:
    field, _, low, cell = ball(0.5, 81)
    net = hollow.Hollow(("mug",)).requires_grad_(False)
    net.last.weight.zero_()
    net.last.bias.fill_(math.atanh(0.01 / hollow.REACH))  # a centimetre from the solid everywhere
    away = hollow.opened(net, "mug", field, low, cell)
    assert away is not None
    depth = field[field > 0]
    gone = away[field > 0] > 0
    assert not bool(gone[depth < hollow.SKIN - 0.013].any())
    assert bool(gone[depth > hollow.SKIN - 0.007].all())


CENTRE = torch.tensor([0.0, 0.7, 0.0])  # of a ball that is scooped out of a larger one, at its top


def level_set() -> tuple[LevelSet, Bare]:
    """A ball of radius 0.7 as a level of 2, red where x > 0 and blue elsewhere; and its surface."""
    field, _, _, cell = ball(0.7, 65)

    def colour(points: Tensor) -> Tensor:
        return torch.where(points[:, :1] > 0, torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 0, 1.0]]))

    offer = LevelSet(2 * (8 * field).exp(), (-1.0, -1.0, -1.0), cell, colour, 2.0)
    vertices, faces = isosurface(offer, 2.0)
    return offer, Bare(vertices, faces, lambda: colour(vertices))


def scoop(field: Tensor, low: Tensor, cell: float) -> Tensor:
    _, points, _, _ = ball(0.7, field.shape[0])
    return 0.5 - (points - CENTRE).norm(dim=-1)


def test_a_bowl_is_scooped_out_of_a_ball() -> None:
    """Closed, as large as a ball without the lens that both share, its outside on the ball, and the colours of it."""
    offer, found = level_set()
    made, outside = without(offer, 2.0, found, scoop)
    assert outside is not None
    assert not bool(open_edges(made.faces).any())
    solid = 4 / 3 * math.pi * 0.7**3
    lens = math.pi * 0.5**2 * (0.7**2 + 2 * 0.7 * 1.2 - 3 * 0.2**2) / (12 * 0.7)
    assert float(signed_volumes(made.vertices, made.faces).sum()) == pytest.approx(solid - lens, rel=0.01)
    assert float(made.vertices.norm(dim=-1).max()) < 0.7 + 1e-3
    away = (made.vertices - CENTRE).norm(dim=-1)
    on_ball, on_scoop = (made.vertices.norm(dim=-1) - 0.7).abs() < 4e-3, (away - 0.5).abs() < 4e-3
    edge = (away - 0.5).abs() < offer.cell
    assert bool((on_ball | on_scoop | edge).all())
    assert float((outside - CENTRE).norm(dim=-1).min()) > 0.5 - offer.cell
    new = Emptied(made.mesh(), outside, offer.cell).new(made.vertices)
    assert bool(new[(made.vertices.norm(dim=-1) < 0.7 - 2 * offer.cell)].all())
    assert not bool(new[away > 0.5 + offer.cell].any())
    clear = made.vertices[:, 0].abs() > 0.15
    torch.testing.assert_close(made.colours()[clear], offer.colour(made.vertices[clear]))


def test_where_nothing_goes_the_surface_is_the_same_object() -> None:
    offer, found = level_set()
    made, outside = without(offer, 2.0, found, lambda field, low, cell: None)
    assert made is found
    assert outside is None
    assert not bool(Emptied(found.mesh(), None, 0.1).new(found.vertices).any())


def test_a_wall_takes_no_colour_from_below() -> None:
    """Half a blue ball with a red lid at its bottom, which no camera from above sees, emptied from there: its walls are
    blue, though the lid was nearer to many of them than the dome is."""
    field, points, _, cell = ball(0.7, 65)
    half = torch.minimum(field, points[..., 1])
    offer = LevelSet(2 * (8 * half).exp(), (-1.0, -1.0, -1.0), cell, lambda points: points, 2.0)
    vertices, faces = isosurface(offer, 2.0)
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    lid = (vertices[:, 1:2] < 0.02) & (vertices.norm(dim=-1, keepdim=True) < 0.5)
    found = Bare(vertices, faces, lambda: torch.where(lid, red, blue))
    made, _ = without(offer, 2.0, found, lambda field, low, cell: 0.5 - points.norm(dim=-1))
    wall = (made.vertices.norm(dim=-1) < 0.55).nonzero()[:, 0]
    assert len(wall) > 1000
    assert float((made.colours()[wall] == blue).all(-1).float().mean()) > 0.97


def test_a_wall_goes_where_its_outside_goes(tmp_path: Path) -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.1, 0.2, 0], [0.9, 0.2, 0]])
    new = torch.tensor([False, False, True, True])
    assert led(vertices, new).tolist() == [0, 1, 0, 1]
    assert led(vertices, ~(new | True)).tolist() == [0, 1, 2, 3]
    settings = TexturedMesh.Settings(texture=64, lr_vertices=constant(0.01))
    scene = TexturedMesh(settings, torch.Generator().manual_seed(0))
    count = len(scene.rest)
    far = scene.rest[:, 1] > 0
    scene.led = led(scene.rest, far)
    with torch.no_grad():
        scene.params["shift"].copy_(torch.randn(count, 3, generator=torch.Generator().manual_seed(1)))
    moved = scene.corners() - scene.rest
    torch.testing.assert_close(moved[far], moved[scene.led[far]])
    assert not torch.equal(moved[~far][0], moved[~far][1])
    back = TexturedMesh(settings, torch.Generator().manual_seed(0))
    back.load_state_dict(scene.state_dict())
    torch.testing.assert_close(back.corners(), scene.corners())
    moved[far].sum().backward()
    assert scene.params["shift"].grad is not None


def cloud() -> Gaussians:
    return Gaussians(Gaussians.Settings(count=600), torch.Generator().manual_seed(0))


def halved(field: Tensor, low: Tensor, cell: float) -> Tensor:
    """Everything beyond x = 5 cm goes."""
    return (torch.arange(field.shape[0]) * cell + low[0] - 0.05)[:, None, None].expand(field.shape)


def volume(scene: TexturedMesh) -> float:
    return float(signed_volumes(scene.surface.vertices, scene.surface.faces).sum())


def test_a_stage_takes_what_its_guidance_knows_to_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt's words reach the guidance; what it says is taken out, once, when the surface is taken over."""
    said: list[str] = []

    def known(path: Path, text: str) -> object:
        said.append(text)
        return halved

    monkeypatch.setattr(hollow, "carver", known)
    source, found = cloud(), {}
    for by in ("none", "prior"):
        recipe = recipe_of(find("toybox"), TABLES, prompt="a red mug", overrides=[f"stages.1.hollow.by={by}", *SMALL])
        scene = Assembler(recipe, "cpu").stage(1, {"shape": source}).scene
        assert isinstance(scene, TexturedMesh)
        found[by] = scene
    assert said == ["a red mug"]
    assert found["none"].led is None
    assert found["prior"].led is not None
    assert 0.3 < volume(found["prior"]) / volume(found["none"]) < 0.8
    assert float(found["prior"].surface.vertices[:, 0].max()) < 0.12 < float(found["none"].surface.vertices[:, 0].max())


def test_what_is_not_hollow_is_the_same_to_the_bit() -> None:
    source, states = cloud(), []
    for by in ("none", "prior"):
        recipe = recipe_of(find("toybox"), TABLES, prompt="a red duck", overrides=[f"stages.1.hollow.by={by}", *SMALL])
        states.append(Assembler(recipe, "cpu").stage(1, {"shape": source}).scene.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_of_several_objects_each_is_emptied_by_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def known(path: Path, text: str) -> object:
        said.append(text)
        return halved if "mug" in text else None

    monkeypatch.setattr(hollow, "carver", known)
    prompt, small = "a red mug beside a blue duck", ["stages.0.scene.count=300", *SMALL]
    recipe = apart(recipe_of(find("toybox"), TABLES, prompt=prompt, overrides=small))
    assert recipe is not None
    assembler = Assembler(recipe, "cpu")
    scene = assembler.stage(1, {"shape": assembler.stage(0).scene}).scene
    assert isinstance(scene, Several)
    assert ["mug" in text for text in said] == [True, False]
    assert scene.members["mug"].led is not None
    assert scene.members["duck"].led is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["stages.0.hollow.by=prior"], "mesh with `from:`"),
        (["stages.1.terms.0.guidance={kind: oracle}", "stages.1.materials.by=none"], "oracle knows of no inside"),
    ],
)
def test_a_recipe_that_nobody_can_empty_is_one_line(changes: list[str], line: str) -> None:
    recipe = recipe_of(find("toybox"), TABLES, prompt="a red mug", overrides=changes)
    with pytest.raises(RecipeError, match=line):
        check(recipe)


def test_the_default_recipe_asks_the_shipped_weights() -> None:
    recipe = recipe_of(find("toybox"), TABLES, prompt="a red mug")
    assembler = Assembler(recipe, "cpu")
    assert assembler.carver(recipe.stages[0], Prompt("a red mug")) is None
    assert assembler.carver(recipe.stages[1], Prompt("a red mug")) is not None
    assert assembler.carver(recipe.stages[1], Prompt("a red duck")) is None


def test_weights_come_back_and_damage_is_one_line(tmp_path: Path) -> None:
    net = hollow.Hollow(("bell", "mug"))
    path = tmp_path / hollow.FILE
    path.write_bytes(hollow.packed(net, {}))
    back = hollow.load(path)
    assert back.kinds == ("bell", "mug")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value.half().float(), rtol=0, atol=0)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="not a readable hollow"):
        hollow.load(cut)


def written(folder: Path) -> Path:
    """A run whose hulls are of two kinds."""
    (folder / training.POOL).mkdir(parents=True)
    (folder / training.POOL / "emptiness.json").write_text(json.dumps({"bell": 0.9, "duck": 0.0, "mug": 1.0}))
    return folder


def test_a_training_learns_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    straight, halved = written(tmp_path / "straight"), written(tmp_path / "halved")
    assert begin(straight, role=HOLLOW, changes=TINY) == 0
    plan = training.HollowPlan(**TINY)  # type: ignore[arg-type]
    halved_run = training.Lessons(halved, training.opened(training.HollowPlan, "hollow", halved, False, TINY))
    points = halved_run.points(lambda: False)
    assert points is not None
    every = torch.arange(len(points.away))
    before = training.loss_of(halved_run.net, points, every).item()
    for _ in range(4):
        halved_run.train_step(points)
    halved_run.save()
    assert begin(halved, role=HOLLOW, resume=True) == 0
    assert (halved / hollow.FILE).read_bytes() == (straight / hollow.FILE).read_bytes()
    learnt = hollow.load(straight / hollow.FILE)
    assert learnt.kinds == ("bell", "mug")
    assert training.loss_of(learnt, points, every).item() < 0.8 * before
    assert (straight / STATE).is_file()
    with pytest.raises(InputError, match="holds a run already"):
        begin(straight, role=HOLLOW, changes=TINY)
    with pytest.raises(RecipeError, match="on the CPU"):
        begin(tmp_path / "other", role=HOLLOW, device="cuda")
    assert plan.rate_at(0) == pytest.approx(0.5 * plan.rate)
    assert plan.rate_at(plan.total) == 0


def test_hulls_hold_what_they_are_of_and_are_empty_where_it_is() -> None:
    """An exact hull leaves nothing of the solid out; a mug's is emptier than it is solid, a ball's is the ball."""
    plan = training.HollowPlan(tried=1)
    solid = program("mug", {}, training.learnt_instances("mug", 1)[0])
    made = training.hull(solid, torch.Generator().manual_seed(1))
    away = solid.sdf(training.corners()[None])[0].reshape(made.shape)
    assert float((made[away < -0.01] > 0.5).float().mean()) > 0.999
    assert training.emptiness("mug", plan) > 0.8
    assert training.emptiness("ball", plan) < 0.01
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        field = training.rough(made, away, generator)
        assert float((field > 0).float().sum() / (made > 0.5).float().sum()) < 1.5
        assert float(((field > 0) & (away < 0)).sum() / (away < 0).sum()) > 0.5

# SPDX-License-Identifier: Apache-2.0
"""Every object of the world: sizes, parts, steepness, meshes, motion, relations; all repeatable by seed."""

import math

import numpy as np
import pytest
import torch
import trimesh

from cuda_ext.reference import sdf as layout
from dreamlab.core.cameras import orbit
from dreamlab.toybox import motion, scene, stand
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.category import draft
from dreamlab.toybox.colours import COLOURS, Finish, linear
from dreamlab.toybox.draw import Light, draw
from dreamlab.toybox.mesh import inside, mesh, paint
from dreamlab.toybox.program import OBJECT_RADIUS, Program, along, apply, rotation, stack
from dreamlab.toybox.shapes import CATEGORIES, finishes, program
from dreamlab.toybox.sheet import contact_sheet

NAMES = sorted(CATEGORIES)
THIN = {"umbrella", "sword", "helicopter", "palm tree", "airplane", "boat"}  # thinner than a cell of the test's grid


@pytest.fixture(scope="module")
def world() -> Program:
    return stack([program(name, seed=3) for name in NAMES])


def test_there_are_more_than_forty_categories_and_their_words_are_their_own():
    assert len(NAMES) >= 40
    words = [w for c in CATEGORIES.values() for w in (c.name, *c.words)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("name", NAMES)
def test_a_category_uses_every_part_and_shows_it(name):
    category = CATEGORIES[name]
    sketch = draft(category, 0)
    assert {row.part for row in sketch.rows} <= set(category.parts)
    assert all(colour in COLOURS or colour in category.parts for colour in category.parts.values())
    assert {joint.limb for joint in category.joints.values()} - {""} <= {row.limb for row in sketch.rows} | {"wheels"}
    seen = set()
    for azimuth, elevation in ((20, 20), (200, 20), (110, -35), (30, 70)):
        pictures = draw(program(name), orbit([azimuth], elevation), 96)
        seen |= set(pictures.part.unique().tolist())
    missing = {part for i, part in enumerate(category.parts) if i not in seen}
    assert not missing, f"{name}: never seen: {missing}"


@pytest.mark.parametrize(
    ("name", "part"), [(n, "eyes") for n in NAMES if "eyes" in CATEGORIES[n].parts] + [("car", "lights")]
)
def test_the_front_is_plus_z(name, part):
    index = list(CATEGORIES[name].parts).index(part)
    pictures = draw(program(name), orbit([0.0, 180.0], 5.0), 64)
    front, back = (pictures.part[0] == index).sum((1, 2)).tolist()
    assert front >= 4 and front > 2 * back


def test_objects_fit_their_ball_and_fill_it(world):
    g = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(1, 4000, 3, generator=g), dim=-1).expand(len(world), -1, -1)
    outside, _ = world.sdf(direction * OBJECT_RADIUS * 1.001)
    assert (outside > 0).all(), [NAMES[i] for i in (outside <= 0).any(1).nonzero()[:, 0]]
    shells = torch.stack([world.sdf(direction * r)[0].amin(1) for r in (0.85, 0.75, 0.65, 0.55)])
    assert (shells.amin(0) < 0.05).all(), "an object much smaller than its ball"


def test_no_object_is_steeper_than_one(world):
    g = torch.Generator().manual_seed(1)
    p = 2.4 * torch.rand(len(world), 3000, 3, generator=g) - 1.2
    q = p + 0.3 * torch.rand(len(world), 3000, 1, generator=g) * torch.randn(p.shape, generator=g)
    rise = (world.sdf(p)[0] - world.sdf(q)[0]).abs()
    assert (rise <= (p - q).norm(dim=-1) + 1e-3).all()


def test_the_distance_never_overshoots_the_surface(world):
    """From random points outside, a full step in any direction lands outside."""
    g = torch.Generator().manual_seed(2)
    p = 2.2 * torch.rand(len(world), 3000, 3, generator=g) - 1.1
    way = world.sdf(p)[0].clamp(min=0)
    step = torch.nn.functional.normalize(torch.randn(p.shape, generator=g), dim=-1)
    assert (world.sdf(p + 0.999 * way[..., None] * step)[0] >= -1e-3)[way > 0].all()


@pytest.mark.parametrize("name", NAMES)
def test_meshes_are_watertight_outward_and_of_the_right_volume(name):
    one = program(name, seed=2)
    made = mesh(one, 56)
    solid = trimesh.Trimesh(made.vertices.numpy(), made.faces.numpy(), process=False)
    assert solid.is_watertight and solid.is_winding_consistent
    points = 2 * torch.rand(1, 100_000, 3, generator=torch.Generator().manual_seed(0)) - 1
    hits = inside(one, points).double().mean().item()
    noise = 8 * math.sqrt(hits * (1 - hits) / 100_000)
    assert made.volume() == pytest.approx(solid.volume, rel=1e-4)
    assert abs(made.volume() - 8 * hits) < 5 * noise + (0.2 if name in THIN else 0.07) * 8 * hits
    assert (one.sdf(made.vertices[None])[0].abs() < 0.04).all()
    assert made.colours.min() >= 0 and made.colours.max() <= 1


def test_mesh_colours_are_the_parts_colours():
    one = program("mushroom", {"cap": "red", "stem": "blue"})
    made = mesh(one, 64)
    order = list(CATEGORIES["mushroom"].parts)
    for part, colour in (("cap", "red"), ("stem", "blue")):
        mine = made.colours[made.part == order.index(part)]
        torch.testing.assert_close(mine, (torch.tensor(COLOURS[colour]) / 255).expand_as(mine), atol=2e-3, rtol=0)
    low = made.vertices[made.part == order.index("stem"), 1].mean()
    assert low < made.vertices[made.part == order.index("cap"), 1].mean()


def test_the_same_seed_is_the_same_object_and_another_is_not():
    for name in NAMES:
        one, again, other = program(name, seed=7), program(name, seed=7), program(name, seed=8)
        assert torch.equal(one.rows, again.rows) and torch.equal(one.parts, again.parts)
        assert name == "dice" or not torch.equal(one.rows, other.rows)


def test_finishes_follow_their_part_and_wrong_parts_are_refused():
    house = CATEGORIES["house"]
    looks = finishes(house, {"roof": "blue"})
    assert looks["chimney"].colour == "blue" and looks["walls"].colour == house.parts["walls"]
    with pytest.raises(ValueError, match="a house has no part 'wheels'; its parts are walls"):
        finishes(house, {"wheels": "red"})


def test_linear_colours_are_the_standards():
    grey = linear("gray")
    value = COLOURS["gray"][0] / 255
    assert grey[0] == pytest.approx(((value + 0.055) / 1.055) ** 2.4)
    back = layout.to_srgb(torch.tensor(grey, dtype=torch.float64)) * 255
    torch.testing.assert_close(back, torch.tensor(COLOURS["gray"], dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_colour_stays_itself_under_the_default_light():
    """The mean colour of a ball, seen from any side, is nearest to its own name."""
    names, table = list(COLOURS), torch.tensor(list(COLOURS.values())) / 255
    for i, name in enumerate(names):
        pictures = draw(program("cube", {"cube": name}), orbit([20, 140, 260], 20), 32)
        for k in range(3):
            mean = pictures.rgb[0, k].sum((0, 1)) / pictures.alpha[0, k].sum()
            hue = mean / mean.norm() if name not in ("white", "gray", "black") else mean
            known = table / table.norm(dim=1, keepdim=True) if name not in ("white", "gray", "black") else table
            nearest = (known - hue).norm(dim=1).argsort()[:2].tolist()
            assert i in nearest, (name, [names[j] for j in nearest])


def test_the_light_decides_the_picture():
    one, view = program("cube", {"cube": "gray"}), orbit([30], 10)
    base = draw(one, view, 24).rgb.sum()
    dark = Light(key=(0, 0, 0), sky=(0, 0, 0), ground=(0, 0, 0), head=0)
    assert draw(one, view, 24, light=dark).rgb.sum() == 0
    left = draw(one, view, 24, light=Light(towards_key=(-1, 0, 0.2))).rgb
    right = draw(one, view, 24, light=Light(towards_key=(1, 0, 0.2))).rgb
    assert not torch.allclose(left, right) and base > 0


def test_pictures_composite_and_tell_materials():
    one = program("ball", {"ball": Finish("red", material="metal"), "band": "white"})
    pictures = draw(one, orbit([0.0]), 24)
    over = pictures.over(0.5)
    empty = pictures.alpha[..., 0] == 0
    assert torch.equal(over[empty], torch.full_like(over[empty], 0.5))
    material = pictures.material(one)
    assert set(material[..., 1].unique().tolist()) == {0.0, 1.0}
    assert (material[pictures.part < 0] == 0).all()


def test_cameras_of_their_own_for_every_program(world):
    four, views = world[:4], orbit([0.0, 40.0, 80.0, 120.0, 160.0, 200.0, 240.0, 280.0])
    own = draw(four, views, 16, per_program=True)
    shared = draw(four, views, 16)
    for k in range(4):
        assert torch.equal(own.rgb[k], shared.rgb[k, 2 * k : 2 * k + 2])
    with pytest.raises(ValueError, match="8 cameras cannot be shared out to 3 programs"):
        draw(world[:3], views, 16, per_program=True)


def test_moving_a_program_moves_its_distance():
    one = program("teapot", seed=1).to(dtype=torch.float64)
    turn, shift = torch.tensor(rotation((20, 50, -70)), dtype=torch.float64), torch.tensor([0.2, -0.1, 0.3])
    moved = scene.transformed(one, turn, shift, 0.7)
    points = 2 * torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(0)).double() - 1
    expected = 0.7 * layout.sdf(one.rows, (points - shift) @ turn / 0.7)[0]
    torch.testing.assert_close(layout.sdf(moved.rows, points)[0], expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("relation", ["on", "next to", "left of", "right of", "in front of", "behind"])
def test_two_objects_touch_nowhere_and_stand_as_told(relation):
    first, second = program("ball", {"ball": "red"}), program("cube")
    both = stand.arrange(first, relation, second)
    count = first.parts.shape[1]
    made = mesh(both, 72)
    centres = [made.vertices[mask].mean(0) for mask in (made.part < count, made.part >= count)]
    offset = centres[0] - centres[1]
    sides = {"on": (1, 1), "left of": (0, -1), "right of": (0, 1), "in front of": (2, 1), "behind": (2, -1)}
    axis, sign = sides.get(relation, (0, 1))
    assert offset.abs().argmax() == axis or relation != "on"
    assert sign * offset[axis] > 0.3
    bodies = trimesh.Trimesh(made.vertices.numpy(), made.faces.numpy(), process=False).split(only_watertight=False)
    assert len(bodies) <= 2 and made.vertices.norm(dim=1).max() < OBJECT_RADIUS + 0.02
    assert both.bound[0, 3] == pytest.approx(OBJECT_RADIUS, abs=1e-3)


@pytest.mark.parametrize(("scale", "shift"), [(0.3, 0.2), (0.3, 0.0), (0.3, 1.5), (3.0, 0.2)])
def test_the_ball_of_two_holds_both(scale, shift):
    second = program("mug")
    first = scene.transformed(program("duck"), shift=torch.tensor([shift, 0.0, 0.0]), scale=scale)
    both = scene.join(first, second)
    for one in (first, second):
        far = (one.bound[0, :3] - both.bound[0, :3]).norm() + one.bound[0, 3]
        assert far <= both.bound[0, 3] + 1e-4
    least = max(float(first.bound[0, 3]), float(second.bound[0, 3]), (0.9 * (1 + scale) + shift) / 2)
    assert both.bound[0, 3] == pytest.approx(least, abs=1e-3), "no larger than it must be"


def test_what_stands_on_a_table_touches_its_top():
    table, cube = program("table"), program("cube")
    both = stand.arrange(cube, "on", table)
    points = torch.zeros(1, 2001, 3)
    points[0, :, 1] = torch.linspace(-0.9, 0.9, 2001)
    distance, part = both.sdf(points)
    solid = (distance[0] < 0).int()
    assert (solid.diff() == 1).sum() <= 2
    seam = ((part[0, 1:] < 1) & (part[0, :-1] >= 1)).nonzero()
    assert len(seam) and distance[0, seam[-1]].abs() < 5e-3, "a gap between the table and what stands on it"


def test_trajectories_are_exact():
    mill = CATEGORIES["windmill"]
    times = [0.0, 0.3]
    still, turned = (
        motion.animate(mill, "spinning", times, seed=1)[:1],
        motion.animate(mill, "spinning", times, seed=1)[1:],
    )
    sketch = draft(mill, 1)
    centre = [sum(motion.pose(sketch, mill, "spinning", i / 8).measure()[0][j] for i in range(8)) / 8 for j in range(3)]
    scale = float(still.rows[0, 0, layout.SCALE])
    hub = torch.tensor([(a - b) * scale for a, b in zip(mill.joints["spinning"].pivot, centre, strict=True)])
    blades = [i for i, row in enumerate(sketch.rows) if row.limb == "blades"]
    back = torch.tensor(rotation((0, 0, -0.3 * 90)))
    points = 1.6 * torch.rand(1, 800, 3, generator=torch.Generator().manual_seed(0)) - 0.8
    at_rest = (points - hub) @ back.T + hub
    torch.testing.assert_close(
        layout.sdf(turned.rows[:, blades], points)[0], layout.sdf(still.rows[:, blades], at_rest)[0], atol=1e-5, rtol=0
    )
    others = [i for i in range(len(sketch.rows)) if i not in blades]
    assert torch.equal(turned.rows[:, others], still.rows[:, others])


def test_a_bounce_is_free_fall_and_a_loop_closes():
    ball = CATEGORIES["ball"]
    frames = motion.animate(ball, "bouncing", [i / 32 for i in range(33)])
    height = torch.empty(33)
    for i in range(33):  # the top of the ball, found from above
        origin, down = torch.tensor([[[0.0, 2.0, 0.0]]]), torch.tensor([[[0.0, -1.0, 0.0]]])
        height[i] = 2.0 - layout.trace(frames.rows[i : i + 1], torch.tensor([[0.0, 0, 0, 2.0]]), origin, down)[0][0, 0]
    fall = height[2:17] - 2 * height[1:16] + height[:15]
    torch.testing.assert_close(fall, fall.mean().expand(15), atol=1e-3, rtol=0)
    assert fall.mean() < 0 and height[8] - height[0] == pytest.approx(float(-32 * fall.mean()), rel=0.02)
    for name, action in (("ball", "bouncing"), ("duck", "nodding"), ("boat", "rocking"), ("bee", "waving")):
        loop = motion.animate(CATEGORIES[name], action, [0.0, 1.0])
        torch.testing.assert_close(loop.rows[0], loop.rows[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_moving_objects_stay_in_their_ball(name):
    category = CATEGORIES[name]
    times = [0.05, 0.18, 0.31, 0.44, 0.62, 0.87]
    for action in motion.ACTIONS:
        if not motion.can(category, action):
            with pytest.raises(ValueError, match=f"a {name} cannot be {action}; it can be spinning"):
                motion.animate(category, action, times)
            continue
        frames = motion.animate(category, action, times)
        ball = torch.nn.functional.normalize(torch.randn(1, 500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
        assert (frames.sdf((ball * frames.bound[0, 3]).expand(len(times), -1, -1))[0] > 0).all(), action


def test_prompts_become_programs():
    assert len(programs_for(parse("a red mushroom with a white stem"), 1)) == 1
    assert len(programs_for(parse("a spinning windmill"), 1, [0.0, 0.5, 1.0])) == 3
    both = programs_for(parse("a blue cube on a green table"), 1)
    blue = torch.tensor(linear("blue"))
    torch.testing.assert_close(both.parts[0, 0, :3], blue)


def test_rotations_are_rotations():
    for direction in ((0.3, -0.9, 0.2), (0, 1, 0), (0, -1, 0), (1, 0, 0)):
        turn = np.array(along(direction))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        np.testing.assert_allclose(turn @ [0, 1, 0], np.array(direction) / np.linalg.norm(direction), atol=1e-6)
    np.testing.assert_allclose(apply(rotation((90, 0, 0)), (0, 1, 0)), (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(apply(rotation((0, 90, 0)), (0, 0, 1)), (1, 0, 0), atol=1e-12)


def test_contact_sheet_is_a_picture_with_all_categories(tmp_path):
    from PIL import Image

    path = contact_sheet(tmp_path / "sheet.png", NAMES[:5], size=24, columns=2)
    with Image.open(path) as picture:
        assert picture.size[1] == 3 * (24 + 14) and np.asarray(picture).std() > 10


def test_paint_reads_patterns():
    one = program("ball", {"ball": Finish("red", "striped", "white", 0.3), "band": "red"})
    up = torch.linspace(-0.89, 0.89, 400)
    around = torch.stack([torch.zeros_like(up), up, (OBJECT_RADIUS**2 - up**2).sqrt()], 1) * 0.98
    green, _ = paint(one, around)
    changes = (green[:, 1] > 0.5).int().diff().abs().sum()
    assert 6 <= changes <= 14  # 1.8 m of stripes 0.15 wide, less the band

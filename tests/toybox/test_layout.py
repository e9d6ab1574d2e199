# SPDX-License-Identifier: Apache-2.0
"""Several objects in a prompt: which they are, where they stand, and that each is made by its own words in turn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from configs import find
from dreamlab import pipeline, recipe
from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.recipe.apart import apart
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.studio.words import heard
from dreamlab.toybox.caption import Caption, parse
from dreamlab.toybox.grammar import PHRASINGS, say
from dreamlab.toybox.layout import Thing, things, uncounted
from dreamlab.toybox.mesh import mesh
from dreamlab.toybox.places import OPEN, placed, places, rows
from dreamlab.toybox.program import OBJECT_RADIUS, Program
from dreamlab.toybox.shapes import CATEGORIES, finishes, program
from dreamlab.toybox.stand import Toy
from tests.conftest import Commands, threads

PAIR = "a red duck and a blue house"
SMALL = ["steps=2", "size=16", "stages.0.scene.count=200"]


def listed() -> list[tuple[str, list[Thing]]]:
    found = []
    for line in Path(__file__).with_name("several.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            prompt, *objects = (each.strip() for each in line.split(" | "))
            found.append((prompt, [thing(each) for each in objects]))
    return found


def thing(text: str) -> Thing:
    """ "a yellow duck, on 2"."""
    related = re.fullmatch(r"(.*), (\D+) (\d)", text)
    own, relation, to = (text, "next to", None) if related is None else (*related.groups()[:2], int(related[3]) - 1)
    if relation == "like":
        return Thing(parse(own).category, own, like=to)
    return Thing(parse(own).category, own, relation, to)


@pytest.mark.parametrize(("prompt", "objects"), listed(), ids=[prompt for prompt, _ in listed()])
def test_every_object_has_its_own_words_and_its_relation(prompt: str, objects: list[Thing]) -> None:
    assert list(things(prompt)) == objects


def test_captions_of_one_object_are_of_one() -> None:
    """However they are phrased, with all their parts."""
    for name, category in CATEGORIES.items():
        for phrasing in PHRASINGS:
            text = say(Caption(name, finishes(category, {})), phrasing)
            assert len(things(text)) == 1, text


WORDS = "duck ducks tables mug house hat bells inside between them it in on under behind left_of two dozen 3 red the a"


@given(st.lists(st.sampled_from([*WORDS.replace("_", " ").split(), "and", ",", "with", "corgi"]), max_size=14))
def test_any_order_of_words_is_of_objects_that_all_stand_in_one_row(words: list[str]) -> None:
    objects, counted = things(" ".join(words)), uncounted(" ".join(words))
    assert sorted(i for row in rows(objects) for i in row.members) == list(range(len(objects)))
    assert set(counted) <= {"two", "dozen", "3"} and not any("#" in one.text for one in objects)
    for i, one in enumerate(objects):
        assert one.like is None or (one.like < i and objects[one.like].text == one.text)


def corners(objects: tuple[Thing, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Lowest and highest corner of each object where it stands, by its own surface."""
    found = []
    for one, at in zip(objects, places(objects), strict=True):
        vertices = mesh(placed(program(one.category), at), 48).vertices
        assert float(vertices.norm(dim=1).max()) < OBJECT_RADIUS + 0.02
        found.append((vertices.amin(0), vertices.amax(0)))
    return found


@pytest.mark.parametrize(
    ("prompt", "axis", "sign"),
    [
        ("a duck left of a house", 0, -1),
        ("a duck right of a house", 0, 1),
        ("a duck next to a house", 0, 1),
        ("a duck in front of a house", 2, 1),
        ("a duck behind a house", 2, -1),
        ("a duck on a table", 1, 1),
    ],
)
def test_objects_stand_as_they_are_told_and_not_in_each_other(prompt: str, axis: int, sign: int) -> None:
    (low, high), (ground_low, ground_high) = corners(things(prompt))
    gap = (low - ground_high if sign > 0 else ground_low - high)[axis]
    assert -0.04 < float(gap) < 0.12
    if axis == 1:
        assert bool((low[[0, 2]] > ground_low[[0, 2]]).all()) and bool((high[[0, 2]] < ground_high[[0, 2]]).all())
    else:
        assert float((low - ground_low)[1].abs()) < 0.03, "on one floor"


def test_three_objects_stand_together() -> None:
    (mushroom, _), (table, table_high), (duck, duck_high) = corners(
        things("a red mushroom beside a blue table and a yellow duck on it")
    )
    assert float(mushroom[0]) > float(table_high[0]) and abs(float(mushroom[1] - table[1])) < 0.03
    assert -0.04 < float(duck[1] - table_high[1]) < 0.06 and float(duck_high[0]) < float(table_high[0])


def solids(prompt: str) -> list[tuple[Program, torch.Tensor]]:
    """Each object where it stands: the world's exact distance, and points of its surface by marching cubes."""
    objects = things(prompt)
    found = [placed(program(one.category), at) for one, at in zip(objects, places(objects), strict=True)]
    return [(one, mesh(one, 56).vertices) for one in found]


def way(one: tuple[Program, torch.Tensor], other: tuple[Program, torch.Tensor]) -> float:
    """From either's surface to the other; less than 0 where one is in the other."""
    pairs = ((one[1], other[0]), (other[1], one[0]))
    return min(float(solid.sdf(points[None])[0].min()) for points, solid in pairs)


# Prompt, and for each object (its relation, to which); "floor" stands on the ground.
SCENES = {
    "two ducks": ["floor", "floor"],
    "five cats": ["floor"] * 5,
    "three mushrooms and a house": ["floor"] * 4,
    "two ducks on a table": [("on", 2), ("on", 2), "floor"],
    "a duck on a table and a cat beside the duck": [("on", 1), "floor", ("on", 1)],
    "six ducks on a table": [("on", 6)] * 6 + ["floor"],
    "a cat on a sofa": [("on", 1), "floor"],
    "a rabbit on a chair": [("on", 1), "floor"],
    "a duck on a mug": [("on", 1), "floor"],
    "a chair on a ball": [("on", 1), "floor"],
    "a cat on a crown": [("on", 1), "floor"],
    "a duck under a table": [("under", 1), "floor"],
    "two ducks under a table": [("under", 2), ("under", 2), "floor"],
    "a duck under a tree": [("under", 1), "floor"],
    "a duck under a ball": ["floor", ("on", 0)],
    "two ducks under a house": ["floor", "floor", ("carried", 0)],
    "a bee above a flower": [("above", 1), "floor"],
    "a duck in a mug": [("in", 1), "floor"],
    "two flowers in a mug": [("in", 2), ("in", 2), "floor"],
    "a pencil in a boot": [("in", 1), "floor"],
    "a duck between two houses": ["floor", ("left", 0), ("right", 0)],
    "two ducks between a house and a tree": ["floor", "floor", ("left", 0), ("right", 1)],
    "a duck left of a house and a cat left of the house": [("left", 1), "floor", ("left", 1)],
    "a duck in a hat": [("right", 1), "floor"],
}


@pytest.mark.parametrize("prompt", SCENES)
def test_nothing_is_in_anything_and_what_stands_on_something_touches_it(prompt: str) -> None:
    objects, told = solids(prompt), SCENES[prompt]
    gaps = {(i, j): way(objects[i], objects[j]) for j in range(len(objects)) for i in range(j)}
    assert min(gaps.values()) > -0.006
    floor = min(float(points[:, 1].min()) for _, points in objects)
    for i, each in enumerate(told):
        relation, to = (each, 0) if isinstance(each, str) else (str(each[0]), int(each[1]))
        (low, high), (ground_low, ground_high) = (
            (points.amin(0), points.amax(0)) for points in (objects[i][1], objects[to][1])
        )
        gap = gaps.get((min(i, to), max(i, to)), 0.0)
        middle = (low + high) / 2
        within = bool((middle > ground_low)[[0, 2]].all() and (middle < ground_high)[[0, 2]].all())
        if relation in ("floor", "left", "right", "under"):
            assert float(low[1]) == pytest.approx(floor, abs=0.006)
        if relation in ("on", "in"):
            assert within and gap < 0.012, "it touches what carries it"
        if relation in ("on", "above"):
            assert float(high[1]) > float(ground_high[1])
        if relation == "carried":
            assert gap < 0.012 and gaps[1, 2] < 0.1 and float(low[1]) > floor + 0.3
        if relation == "above":
            assert within and float(low[1] - ground_high[1]) > 0.05
        if relation == "under":
            assert within and float(high[1]) < float(ground_high[1])
        if relation == "in":
            assert float(ground_high[1] - low[1]) > 0.08 < float(high[1] - low[1])
        if relation == "left":
            assert float(high[0]) < float(ground_low[0])
        if relation == "right":
            assert float(low[0]) > float(ground_high[0])


def test_as_many_as_one_number_asks_for_are_of_one_size_and_even() -> None:
    for prompt in ("three ducks", "three ducks on a table", "three ducks and a house"):
        ducks = places(things(prompt))[:3]
        assert len({at.scale for at in ducks}) == 1
        x = [at.position[0] for at in ducks]
        assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=2e-3) and x[0] < x[1]


def test_many_are_smaller_than_one_beside_them() -> None:
    *mushrooms, house = places(things("three mushrooms and a house"))
    assert mushrooms[0].scale / house.scale == pytest.approx(3**-0.5, abs=1e-3)
    duck, left, right = places(things("a duck between two houses"))
    assert duck.scale == left.scale == right.scale


def test_open_is_what_holds_rain() -> None:
    shut = ("lamp", "bell", "crown", "umbrella", "hat", "boat", "drum", "donut", "teapot", "candle", "apple", "bottle")
    assert tuple(name for name in (*OPEN, *shut) if Toy(program(name)).open) == OPEN


def test_what_has_no_room_is_said() -> None:
    page = heard("a duck under a red ball", "toybox")
    assert page["read"][-1] == "'a red ball' stands on 'a duck': there is no room under it" and not page["unmade"]
    (line,) = heard("a duck in a house", "toybox")["unmade"]
    assert line == "'in': 'a duck' stands beside 'a house', in which it cannot be; open are: mug, boot"
    assert heard("a duck in a mug", "toybox")["unmade"] == heard("a duck under a table", "toybox")["unmade"] == []
    (line,) = heard("a duck in a house", "oracle")["unmade"]
    assert line.startswith("'in': a house is not open")


def test_a_number_is_made_as_far_as_there_is_room() -> None:
    page = heard("two crimson ducks and a house with two hats", "toybox")
    said = [line.partition(":")[0] for line in page["unmade"]]
    assert said == ["'crimson' is made red, the nearest of its colours", "'two'", "'hats'"]
    for prompt in ("a dozen ducks", "two dozen ducks", "1000000000000 ducks"):
        assert heard(prompt, "toybox")["unmade"] == ["'a duck': 6 objects are made, the first"]
    assert heard("two ducks", "oracle")["unmade"] == ["'two': one is made; --recipe toybox makes each"]
    with pytest.raises(InputError, match="holds two objects"):
        pipeline.plan("three ducks", find("oracle"), [], None, None)


def test_the_recipe_says_all_of_it_and_is_taken_apart_once() -> None:
    asked = recipe.load(find("toybox"), TABLES, prompt=PAIR)
    found = apart(asked)
    assert found is not None and apart(found) is None
    assert recipe.load(recipe.dump(found), TABLES) == found
    for before, after in zip(asked.stages, found.stages, strict=True):
        objects = after.scene.settings.objects
        assert after.steps == 2 * before.steps and {name: at.prompt for name, at in objects.items()} == {
            "duck": "a red duck",
            "house": "a blue house",
        }
        assert all(at.scene == before.scene for at in objects.values())


@pytest.mark.parametrize("name", ["toybox", "oracle", "video", "image"])
def test_one_object_and_makers_of_more_are_left_as_they_are(name: str) -> None:
    asked = recipe.load(find(name), TABLES, prompt="a red duck" if name == "toybox" else PAIR)
    assert apart(asked) is None and "prompt: " in recipe.dump(asked)
    assert "tacit" not in recipe.dump(asked) and recipe.dump(asked).count("prompt:") == 1


def test_each_step_shows_one_object_alone_and_tells_its_words() -> None:
    found = apart(recipe.load(find("toybox-gaussians"), TABLES, prompt=PAIR, overrides=SMALL))
    assert found is not None
    with threads(1):
        stage = Assembler(found, "cpu").stage(0)
        guidance, told = stage.terms[0].guidance, []
        condition = guidance.condition
        guidance.condition = lambda prompt, *rest: told.append(prompt.text) or condition(prompt, *rest)  # type: ignore
        before = {name: value.clone() for name, value in stage.scene.state_dict().items()}
        for i, (mine, other) in enumerate([("duck", "house"), ("house", "duck")]):
            step(stage, i, Ring(METRICS, 1, torch.device("cpu")))
            after = {name: value.clone() for name, value in stage.scene.state_dict().items()}
            moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
            assert moved == {mine} and other not in moved
            before = after
    assert told == ["a red duck", "a blue house"]


def test_objects_with_the_same_words_are_made_once_and_shown_everywhere() -> None:
    asked = recipe.load(find("toybox-gaussians"), TABLES, prompt="two red ducks and a red duck", overrides=SMALL)
    found = apart(asked)
    assert found is not None and found.stages[0].steps == asked.stages[0].steps
    assert recipe.load(recipe.dump(found), TABLES) == found
    with threads(1):
        scene = Assembler(found, "cpu").stage(0).scene
    assert [text for _, _, text in scene.told] == ["a red duck"] and len(scene.groups()) == len(
        scene.members["duck"].groups()
    )
    with torch.no_grad():
        shown = scene.render(orbit([0.0], [0.0], 3.2, 42.0), 64, torch.zeros(1, 3)).extra["masks"][0].amax((0, 1))
    assert shown.shape == (3,) and bool((shown > 0.2).all())
    text = recipe.dump(found).replace("like: duck", "like: goose")
    with pytest.raises(RecipeError, match="like names another object with the same scene"):
        pipeline.check(recipe.load(text, TABLES))


def test_a_command_makes_both_in_one_file_and_says_so(dreamlab: Commands) -> None:
    ended = dreamlab("dream", f"{PAIR} with a yellow roof", "--recipe", "toybox-gaussians", *SMALL, "formats=glb")
    assert ended.code == 0, ended.err
    notes = [line for line in ended.err.splitlines() if line.startswith("note: prompt:")]
    assert notes == [
        "note: prompt: 2 objects, each made by its own words and placed by the others: "
        "'a red duck', 'a blue house with a yellow roof'"
    ]
    made = trimesh.load(dreamlab.folder / Path(ended.out.splitlines()[-1]) / "export" / "model.glb", force="mesh")
    left, right = made.vertices[made.vertices[:, 0] < -0.1], made.vertices[made.vertices[:, 0] > 0.1]
    assert len(left) > 50 and len(right) > 50, "one stands on either side"


def test_the_page_hears_each_object_and_its_unknown_words() -> None:
    said = heard("a corgi beside a crimson house and a spinning windmill", "toybox")
    assert [word["text"] for word in said["words"] if not word["known"]] == ["corgi"]
    assert any("'a red house', 'a spinning windmill'" in line for line in said["read"])
    assert [line.partition(":")[0] for line in said["unmade"]] == [
        "'crimson' is made red, the nearest of its colours",
        "'spinning'",
    ]


def test_another_prompt_would_not_reach_objects_with_words_of_their_own(tmp_path: Path) -> None:
    found = apart(recipe.load(find("toybox-gaussians"), TABLES, prompt=PAIR))
    assert found is not None
    (file := tmp_path / "two.yaml").write_text(recipe.dump(found))
    with pytest.raises(RecipeError, match=r"\(duck, house\) have words of their own: change stages\.0\.scene\.objects"):
        pipeline.plan("a dog and a cat", file, [], None, None)
    again, _ = pipeline.plan(PAIR, file, [], None, None)
    assert again == found
    with pytest.warns(UserWarning, match="'crimson' is made red"):
        told = ["stages.0.scene.objects.duck.prompt=a crimson duck"]
        pipeline.plan(None, file, told, None, None)


def test_who_makes_fewer_says_who_makes_all() -> None:
    prompt = "a red mushroom beside a blue table and a yellow duck on it"
    with pytest.raises(InputError, match=r"holds two objects, and this names 'a red mushroom', .*--recipe toybox"):
        pipeline.plan(prompt, find("oracle"), [], None, None)
    with pytest.raises(InputError, match=r"'on' \(it makes one object here; --recipe toybox"):
        pipeline.plan("a duck on a table", find("video"), [], None, None)
    said = heard(", ".join(["a duck and a cat"] * 4), "toybox")
    assert [line.split(":")[1] for line in said["unmade"]] == [" 6 objects are made, the first"] * 2


def test_words_of_the_objects_are_checked_and_all_or_none_have_some() -> None:
    text = recipe.dump(apart(recipe.load(find("toybox-gaussians"), TABLES, prompt=PAIR)))  # type: ignore
    with pytest.raises(RecipeError, match="all of them have a prompt of their own, or none"):
        pipeline.check(recipe.load(text.replace("prompt: a blue house", "prompt: ''"), TABLES))

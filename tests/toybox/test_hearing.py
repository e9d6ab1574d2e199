# SPDX-License-Identifier: Apache-2.0
"""Everyday words reach the world's; something else is offered its nearest by sense; what will not come is said."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from configs import find
from dreamlab import dream, pipeline
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.studio.words import heard
from dreamlab.toybox.asked import unmade
from dreamlab.toybox.caption import EAR, VOCABULARY, Caption, parse
from dreamlab.toybox.colours import COLOURS
from dreamlab.toybox.grammar import PHRASINGS, say
from dreamlab.toybox.hearing import is_slip
from dreamlab.toybox.shapes import CATEGORIES, finishes
from guidance.toybox.prior import SHIPPED
from guidance.toybox.store import words_of
from tests.conftest import Commands

WORDS = words_of(SHIPPED / "toybox")


def everyday() -> list[tuple[str, str, bool]]:
    """(phrase, category, whether it is of the world)"""
    lines = Path(__file__).with_name("everyday.txt").read_text("utf-8").splitlines()
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            name, _, phrases = line.partition(": ")
            found += [(phrase.strip(), name.rstrip("?"), not name.endswith("?")) for phrase in phrases.split(";")]
    return found


def test_the_list_is_long_and_names_every_object() -> None:
    listed = everyday()
    assert len(listed) >= 400 and {name for _, name, ours in listed if ours} == set(CATEGORIES)


@pytest.mark.parametrize(("phrase", "name", "ours"), everyday(), ids=[phrase for phrase, _, _ in everyday()])
def test_everyday_words_reach_the_world_s(phrase: str, name: str, ours: bool) -> None:
    reading = WORDS.read(phrase)
    if ours:
        assert name in reading.tokens and not reading.unknown
        assert (parse(phrase).category, parse(phrase).unknown) == (name, {})
    else:
        assert name in [near for words in reading.unknown.values() for near in words]
        with pytest.raises(ValueError, match=f"did you mean.*{name}"):
            parse(phrase)


def test_the_world_s_own_captions_are_heard_as_they_are() -> None:
    """Networks were taught with them: no word of theirs may become another."""
    dice = random.Random(3)
    for name, category in CATEGORIES.items():
        for phrasing in PHRASINGS:
            chosen = {part: dice.choice(list(COLOURS)) for part in category.nameable[:2]}
            text = say(Caption(name, finishes(category, chosen)), phrasing)
            overheard = EAR.hear(text)
            assert overheard.read == overheard.lacking == ()
            assert parse(text).category == name and unmade(text) == ()
    for word in VOCABULARY:
        assert EAR.hear(word).text.replace("_", " ") == word


def halves() -> list[tuple[str, list[str]]]:
    """(prompt, a part of each line that must be said)"""
    lines = Path(__file__).with_name("halves.txt").read_text("utf-8").splitlines()
    rows = [[each.strip() for each in line.split("|")] for line in lines if line and not line.startswith("#")]
    return [(prompt, said) for prompt, *said in rows]


@pytest.mark.parametrize(("prompt", "said"), halves(), ids=[prompt for prompt, _ in halves()])
def test_no_half_of_a_prompt_is_left_out_in_silence(prompt: str, said: list[str]) -> None:
    lines = unmade(prompt)
    assert len(lines) == len(said) and not WORDS.read(prompt).unknown, lines
    for part in said:
        assert len([line for line in lines if part in line]) == 1 and "\n" not in "".join(lines), lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a duck with a red hat", "'hat': one object is made, the duck"),
        ("a mushroom with red wheels", "'wheels': a mushroom has none here; its parts are cap, stem"),
        ("a red duck and a blue house", "one object is made, the duck"),
        ("a red duck on a table", "--recipe toybox makes each by its own words"),
        ("a spinning windmill", "--recipe video makes it move"),
        ("red", "names no object"),
        ("two red ducks", "'two': one is made"),
        ("a maroon car", "'maroon' is made red"),
        ("a wooden chair", "'wooden' changes nothing"),
    ],
)
def test_what_is_asked_and_will_not_come_is_one_line(text: str, said: str) -> None:
    lines = unmade(text)
    assert len(lines) == 1 and said in lines[0] and "\n" not in lines[0]


def test_who_can_make_it_is_silent() -> None:
    assert unmade("a spinning windmill", moves=True) == ()
    assert unmade("a red duck on a blue table", several=True) == ()
    assert "a mushroom cannot" in unmade("a waving mushroom", moves=True)[0]
    assert unmade("a chair with four blue legs") == unmade("a red mushroom with a white stem") == ()


def test_a_consonant_for_another_is_another_word() -> None:
    assert is_slip("yelow", "yellow") and is_slip("rokcet", "rocket") and is_slip("tabel", "table")
    assert is_slip("castal", "castle") is False and is_slip("mouse", "house") is False
    assert is_slip("horse", "house") is False and is_slip("clown", "crown") is False


def test_a_run_says_it_before_it_begins_and_strictly_refuses() -> None:
    text, source = "two spinning crimson windmils", find("toybox")
    with pytest.warns(UserWarning) as told:
        pipeline.plan(text, source, [], None, None)
    lines = [str(each.message) for each in told]
    quoted = [line.partition("'")[2].partition("'")[0] for line in lines]
    assert quoted == ["windmils", "a spinning red windmill", "crimson", "spinning"]
    with (
        pytest.warns(UserWarning, match="is read as windmills"),
        pytest.raises(RecipeError, match=r"prompt: 'crimson' is made red, the nearest of its colours \(--strict\)"),
    ):
        pipeline.plan(text, source, [], None, None, strict=True)
    with pytest.warns(UserWarning, match="is read as mushroom"):  # a slip of the pen is no lack
        pipeline.plan("a red mushrom", find("oracle"), [], None, None, strict=True)
    with pytest.raises(InputError, match=r"corgi.*did you mean dog"):
        pipeline.plan("a corgi", source, [], None, None)


def test_a_prompt_for_each_region_is_heard_in_the_prompt_s_place() -> None:
    regions = "stages.0.terms.0.system.regions=[{prompt: a red duck, y: [0, 5]}, {prompt: two mugs, y: [-5, 0]}]"
    with pytest.warns(UserWarning, match="'two': one is made") as told:
        pipeline.plan("a red duck and a blue house", find("semantic"), [regions], None, None)
    assert len(told) == 1


def test_the_command_line_the_page_and_python_say_the_same(dreamlab: Commands, tmp_path: Path) -> None:
    prompt = "a spinning crimson duck without beaks"
    page = heard(prompt, "toybox")["unmade"]
    assert len(page) == 3 and "stands still" in page[-1]
    ended = dreamlab("check", prompt)
    assert ended.code == 0 and ended.err.splitlines() == [f"note: prompt: {line}" for line in page]
    ended = dreamlab("dream", prompt, "--strict")
    assert ended.code == 2 and ended.err.splitlines() == [f"error: prompt: {page[0]} (--strict)"]
    with pytest.raises(RecipeError, match=re.escape(f"prompt: {page[0]} (--strict)")):
        dream(prompt, out=tmp_path / "made", strict=True)
    assert not (tmp_path / "made").exists() and not (dreamlab.folder / "runs").exists()


def test_what_one_stage_makes_still_another_makes_move() -> None:
    """The recipe of clips begins with the object that stands still; nothing is said of that, but of what cannot be."""
    asked = "a rocking red mushroom with a white stem"
    assert [line.partition(":")[0] for line in heard(asked, "toybox")["unmade"]] == ["'rocking'"]
    assert heard(asked, "video")["unmade"] == []
    (line,) = heard("a waving red mushroom", "video")["unmade"]
    assert line.startswith("'waving': a mushroom cannot")


@pytest.mark.parametrize(
    ("text", "material", "said"),
    [
        ("a matte rubber duck", "matte", "'rubber' is read as matte"),
        ("a steel key", "metal", "'steel' is read as metal"),
    ],
)
def test_what_things_are_made_of_is_a_material_and_said(text: str, material: str, said: str) -> None:
    asked = parse(text)
    assert asked.finishes[CATEGORIES[asked.category].main].material == material and not asked.unknown
    assert EAR.hear(text).read == (said,)

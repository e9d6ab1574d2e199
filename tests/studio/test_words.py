# SPDX-License-Identifier: Apache-2.0
"""Words of a prompt, per recipe; tokens of a real model, against its own tokenizer; surprises are understood."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import find
from dreamlab import recipe
from dreamlab.core.errors import InputError
from dreamlab.jobs.allowed import open_settings
from dreamlab.jobs.asking import BadRequest
from dreamlab.pipeline import said_of
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from dreamlab.studio.answers import Refusal
from dreamlab.studio.recipes import form, listing, loaded
from dreamlab.studio.surprise import surprise
from dreamlab.studio.words import heard
from dreamlab.toybox.caption import parse
from guidance.latent.vocabulary import clip_count, clip_tokenizer


def marked(prompt: str, name: str) -> dict[str, list[str]]:
    """Unknown word -> suggestions."""
    return {word["text"]: word["suggest"] for word in heard(prompt, name)["words"] if not word["known"]}


@pytest.mark.parametrize("name", ["toybox", "oracle"])
def test_a_prompt_that_is_understood_has_nothing_marked(name: str) -> None:
    for prompt in ("a red mushroom with a white stem", "A RED white-stemmed Mushroom"):
        said = heard(prompt, name)
        assert marked(prompt, name) == {} and said["read"] == said["unmade"] == []
        assert [word["text"] for word in said["words"]] == prompt.split()


def test_words_that_nobody_knows_are_marked_as_they_are_typed() -> None:
    assert marked("a Corgi with white ears", "toybox") == {"Corgi": ["dog"]}
    assert "quixotic" in marked("a quixotic red mushroom", "toybox")


def test_what_one_maker_shows_and_the_other_does_not_is_said_of_that_one() -> None:
    prompt = "A RED Mushroom with a white-dotted stem"
    (line,) = heard(prompt, "toybox")["unmade"]
    assert "'spotted'" in line and "--recipe oracle" in line and marked(prompt, "toybox") == {}
    assert heard(prompt, "oracle")["unmade"] == []


def test_a_slip_of_the_pen_is_said_and_read() -> None:
    for name in ("toybox", "oracle"):
        said = heard("a red mushrom with a whyte stem", name)
        assert any("mushrom" in line and "mushroom" in line for line in said["read"]), said
    assert heard("a dragon", "oracle")["unmade"], "no object of the world is named"


def test_a_prompt_that_is_not_there_yet_has_no_words() -> None:
    assert heard("", "toybox")["words"] == [] and heard("  ", "oracle")["words"] == []


def test_the_embedded_prior_says_how_many_tokens_it_takes() -> None:
    said = heard("a red mushroom with a white stem", "toybox")
    assert (said["tokens"], said["limit"]) == (5, 31)


def test_a_real_model_knows_every_word_and_counts_as_its_own_tokenizer_does() -> None:
    prompt = "a photo of a naïve café-racer's 1967 motorbike, 8k!! " + "very " * 80
    said = heard(prompt, "paper/sds")
    assert all(word["known"] for word in said["words"]) and said["limit"] == 75
    assert said["tokens"] == len(clip_tokenizer()(prompt).input_ids) - 2 > 75


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz ABC',.!?-0123456789éüß", max_size=60))
def test_tokens_are_those_of_clip(text: str) -> None:
    assert clip_count(text) == len(clip_tokenizer()(text).input_ids) - 2


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    for name in ("toybox", "oracle"):
        assert set(heard(text, name)) == {"words", "tokens", "limit", "unheard", "read", "unmade"}


def test_surprises_are_understood_by_both() -> None:
    listen = TABLES.guidance["toybox"]
    seen = {surprise(random.Random(i)) for i in range(300)}
    assert len(seen) > 200
    for prompt in seen:
        assert parse(prompt).unknown == {} and listen.card(listen.Settings()).hear(prompt).unknown == {}, prompt


def test_every_packaged_recipe_is_listed_with_what_it_needs() -> None:
    found = {row["name"]: row for row in listing()}
    assert found["toybox"]["needs"] == "prompt" and found["image"]["needs"] == "picture"
    assert found["texture"]["needs"] == "mesh" and found["paper/sds"]["models"] == ["sd21-base"]
    assert found["toybox"]["systems"] == ["sds"] and found["toybox"]["steps"] == 300


def test_a_form_holds_no_place_of_a_disk_and_no_model() -> None:
    fields = {field["path"]: field for name in ("toybox", "paper/sds", "texture", "image") for field in form(name)}
    assert fields["stages.0.steps"] | {"default": 0} == {
        "path": "stages.0.steps", "type": "int", "default": 0, "low": 1, "high": 10_000_000, "help": "", "choices": []
    }  # fmt: skip
    assert fields["export.origin"]["choices"] == ["centre", "bottom"] and fields["export.origin"]["type"] == "str"
    last = {path.rpartition(".")[2] for path in fields}
    assert not last & {"weights", "model", "file", "asset", "lora", "legacy", "tokenizer", "backend", "reader"}
    assert {field["type"] for field in fields.values()} <= {"int", "float", "bool", "str", "list", "schedule"}


@pytest.mark.parametrize("prompt", ["very " * 80 + "tall", "a naïve café-racer " * 30, "x" * 900])
def test_what_a_real_model_does_not_hear_is_what_its_tokenizer_leaves_of_the_prompt(prompt: str) -> None:
    """A word of which any part is cut off is not heard; every one before it is."""
    said, counted = heard(prompt, "paper/sds"), clip_tokenizer()
    whole = prompt.strip().removesuffix(said["unheard"])
    assert prompt.strip() == whole + said["unheard"] != whole
    following = said["unheard"].split()[0]
    assert len(counted(whole).input_ids) - 2 <= said["limit"] < len(counted(whole + following).input_ids) - 2


def test_what_is_heard_whole_has_no_rest_and_the_embedded_prior_refuses_the_rest_before_a_run() -> None:
    assert heard("a red mushroom", "paper/sds")["unheard"] == heard("a red mushroom", "toybox")["unheard"] == ""
    prompt = "a mushroom with " + "a red cap and a white stem and " * 8 + "a blue cap"
    said = heard(prompt, "toybox")
    assert said["tokens"] > said["limit"] and prompt.endswith(said["unheard"]) and "blue" in said["unheard"]
    with pytest.raises(InputError, match=f"^prompt: {said['tokens']} words, the limit is {said['limit']}"):
        check(replace(loaded("toybox"), prompt=prompt))


def test_the_command_line_says_what_will_not_be_heard() -> None:
    (line,) = said_of(replace(loaded("paper/sds"), prompt="very " * 80 + "tall"))
    assert line.startswith("75 of 81 tokens are heard; not heard: 'very very very very very tall'"), line


def test_another_part_brings_its_own_settings_and_no_other_kind_s() -> None:
    """As the recipe itself has them once it is made so."""
    own = {field["path"]: field for field in form("sds")}
    changed = {field["path"]: field for field in form("sds", ("stages.0.scene=field", "stages.0.terms.0.system=csd"))}
    made = recipe.load(find("sds"), TABLES, overrides=["stages.0.scene=field", "stages.0.terms.0.system=csd"])
    assert set(changed) == set(open_settings(made)) - {"seed"}
    assert "stages.0.scene.count" in own and "stages.0.scene.count" not in changed
    for path in ("stages.0.scene", "stages.0.terms.0.system"):
        assert changed[path]["default"] == own[path]["default"], "what the recipe says, to be put back to"


@pytest.mark.parametrize("part", ["stages.0.scene=nothing", "stages.0.steps=3", "export.formats=glb", "x", "a=b=c"])
def test_what_is_no_part_makes_no_form(part: str) -> None:
    with pytest.raises((Refusal, BadRequest)):
        form("sds", (part,))

# SPDX-License-Identifier: Apache-2.0
"""What strangers may ask, and how they are told what they may not: every field, by its name (faults 25 to 28, 31)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields

import hypothesis.strategies as st
import pytest
from hypothesis import given

from configs import find, names
from dreamlab import recipe
from dreamlab.core.settings import bounds_of
from dreamlab.core.text import MAX_PROMPT, slug
from dreamlab.jobs.allowed import open_settings, overrides
from dreamlab.jobs.asking import BadRequest
from dreamlab.jobs.batches import MOST_BATCH, members
from dreamlab.jobs.requests import (
    REQUESTS,
    DreamRequest,
    ExportRequest,
    export_changes,
    plain_request,
    request_of,
)
from dreamlab.recipe.grammar import Export
from dreamlab.recipe.tables import TABLES
from guidance import GUIDANCE
from renderers import SCENES
from systems import SYSTEMS
from tests.recipe.test_recipe import PROMPTS

MUSHROOM = "a red mushroom"


def wrong(kind: object, body: object) -> dict[str, str]:
    """The fields that are refused, and why."""
    with pytest.raises(BadRequest) as refused:
        request_of(kind, body)
    assert all(error.loc in str(refused.value) for error in refused.value.fields)
    return {error.loc: error.msg for error in refused.value.fields}


def refused(source: str, settings: Mapping[str, object]) -> dict[str, str]:
    with pytest.raises(BadRequest) as error:
        overrides(find(source), MUSHROOM, settings)
    return {each.loc: each.msg for each in error.value.fields}


def test_all_fields_that_are_wrong_are_named_not_the_first() -> None:
    found = wrong("dream", {"seed": -1, "count": 0, "lane": "fast", "priority": 1.5, "settings": [], "colour": "red"})
    assert set(found) == {"prompt", "seed", "count", "lane", "priority", "settings", "colour"}
    assert found["prompt"] == "is missing" and found["seed"] == "must be at least 0"
    assert "normal" in found["lane"] and "is not asked for" in found["colour"]


def test_an_error_says_what_was_got_and_what_is_allowed() -> None:
    with pytest.raises(BadRequest) as error:
        request_of("export", {"faces": 3, "origin": "middle"})
    said = {each.loc: (each.got, each.allowed) for each in error.value.fields}
    assert said == {
        "faces": ("3", "a whole number, at least 64, at most 5e+06"),
        "origin": ("'middle'", "centre, bottom"),
    }
    assert all(set(each.plain()) == {"loc", "msg", "got", "allowed"} for each in error.value.fields)


BAD_PROMPTS = {
    "": "is empty",
    "   \n\t ": "is empty",
    "x": "single character",
    "a" * 100_000: f"100000 characters, the limit is {MAX_PROMPT}",
    "a \0 b": "U+0000, a control character",
    "a \x1b[31m b": "U+001B, a control character",
    "a \x7f b": "U+007F",
    "a \ud800 b": "is no UTF-8 text",
}


@pytest.mark.parametrize("prompt", BAD_PROMPTS, ids=lambda text: ascii(text)[:20])
def test_prompts_that_are_none(prompt: str) -> None:
    """Faults 25, 26 and 27: said before anything is queued."""
    assert BAD_PROMPTS[prompt] in wrong("dream", {"prompt": prompt})["prompt"]
    if prompt:
        assert BAD_PROMPTS[prompt] in wrong("dream", {"prompt": MUSHROOM, "negative": prompt})["negative"]


ODD = [
    "\U0001f344 \u05e4\u05d8\u05e8\u05d9\u05d4",
    "e\u0301 \u200d \u202e abc",
    "../../etc/passwd",
    "CON",
    "nul.",
    "x" * 300,
]
ODD += ["--steps 3", "prompt=x", "'; DROP TABLE jobs; --", "a\nb\tc", "<script>alert(1)</script>"]


@pytest.mark.parametrize(
    "prompt", [*(each for each in PROMPTS if "\x85" not in each), *ODD], ids=lambda text: ascii(text)[:20]
)
def test_prompts_are_kept_byte_for_byte(prompt: str) -> None:
    """Faults 27 and 28."""
    made = request_of("dream", json.loads(json.dumps({"prompt": prompt})))
    assert isinstance(made, DreamRequest) and made.prompt == prompt
    assert plain_request(made)["prompt"] == prompt
    assert slug(prompt).isascii() and len(slug(prompt)) <= 40


def test_what_is_no_request_at_all() -> None:
    for body in ([], "x", 3, None, True):
        assert "" in wrong("dream", body)
    for kind in ("drem", None, 3, [], {}):
        assert "kind" in wrong(kind, {})
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert "nested too deep" in wrong("dream", {"prompt": MUSHROOM, "settings": {"x": deep}})["settings"]
    assert "settings" in wrong("dream", {"prompt": MUSHROOM, "settings": {"x": "y" * 70_000}})
    assert "seed" in wrong("dream", {"prompt": MUSHROOM, "seed": 10**5000})
    assert "height" in wrong("export", {"height": math.nan}) and "height" in wrong("export", {"height": math.inf})
    assert "seed" in wrong("dream", {"prompt": MUSHROOM, "seed": True}), "a switch is no number"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = sorted({field.name for cls in REQUESTS.values() for field in fields(cls)})


@given(
    st.sampled_from(sorted(REQUESTS)), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), JSON, max_size=6)
)
def test_whatever_is_sent_is_bound_or_refused(kind: str, body: dict[str, object]) -> None:
    try:
        made = request_of(kind, body)
    except BadRequest as error:
        assert error.fields and json.dumps([each.plain() for each in error.fields])
    else:
        assert all(getattr(made, name) == value or isinstance(value, list) for name, value in body.items())
        assert request_of(kind, plain_request(made)) == made or made.lane != "normal" or made.priority


def test_an_export_has_the_bounds_of_the_recipe() -> None:
    own = {field.name: bounds_of(field) for field in fields(Export)}
    for field in fields(ExportRequest):
        if field.name in own:
            assert bounds_of(field) == own[field.name], field.name
    made = plain_request(request_of("export", {"formats": ["glb", "obj"], "faces": 900, "levels": False, "height": 2}))
    lines = export_changes(made)
    assert lines == ["export.formats=glb,obj", "export.faces=900", "export.height=2.0", "export.levels=false"]
    assert recipe.load(find("toybox"), TABLES, overrides=lines).export.faces == 900


# ---- the closed set of settings -------------------------------------------------------------------------------------

FORBIDDEN: dict[str, object] = {
    "stages.0.scene.file": "/etc/passwd",
    "stages.0.scene.backend": "torch",
    "stages.0.terms.0.guidance.weights": "./mine/",
    "stages.0.name": "x",
    "image.file": "/etc/passwd",
    "image.cutout": "some/model",
    "image.depth": "x.png",
    "prompt": "x",
    "prompts": ["x"],
    "stages": [],
    "stages.0": {},
    "export": {},
    "export.out": "/tmp",
    "out": "/tmp",
    "device": "cuda",
    "model": "/models/x",
    "_target_": "os.system",
    "stages.0._target_": "os.system",
    "stages.0.scene.__class__": 1,
    "stages.9.steps": 1,
    "stages.-1.steps": 1,
    "": 1,
    "steps\nseed": 1,
    "seed=3\nsteps": 1,
}


@pytest.mark.parametrize("path", FORBIDDEN, ids=ascii)
def test_settings_that_are_none_of_a_stranger_s(path: str) -> None:
    """Fault 31: no file, no device, no backend, no model's path, no place of the output, no class."""
    assert "cannot be set here" in refused("toybox", {path: FORBIDDEN[path]})[f"settings.{path}"]


STRUCTURES: list[object] = [
    {"kind": "mesh", "file": "/etc/passwd"},
    "{kind: mesh, file: /etc/passwd}",
    ["mesh"],
    "Mesh",
    None,
]


@pytest.mark.parametrize("value", STRUCTURES, ids=ascii)
def test_a_part_is_named_and_never_brings_settings_along(value: object) -> None:
    assert "is none of them" in refused("toybox", {"stages.0.scene": value})["settings.stages.0.scene"]


def test_values_are_text_to_the_recipe_and_nothing_in_them_is_resolved() -> None:
    for value in ("${oc.env:HOME}", "!!python/object:os.system", "*alias", "&a 3", "3\nsteps: 9", "[1, 2]"):
        assert "must be a whole number" in refused("toybox", {"seed": value})["settings.seed"]


def test_no_open_setting_is_free_text_or_names_a_file() -> None:
    """In every recipe of the package, and with every rule, scene and guidance in its place."""
    closed = {"file", "asset", "weights", "reader", "model", "legacy", "tokenizer", "lora", "tiny", "motion"}
    closed |= {"controls", "adapter", "image_encoder", "text_tower", "backend", "cutout", "lights"}
    bases = [name for name in names() if "/" not in name]
    assert len(bases) > 30
    seen = set()
    for name in bases:
        for path, place in open_settings(recipe.load(find(name), TABLES)).items():
            seen.add(path.rpartition(".")[2])
            assert not place.bounds.file and place.type in (
                "bool",
                "int",
                "float",
                "choice",
                "schedule",
                "list",
                "part",
            )
            if place.type in ("choice", "part"):
                assert place.bounds.choices
    assert len(seen) > 100 and not seen & closed


def test_another_rule_brings_its_own_settings() -> None:
    lines = overrides(find("toybox"), MUSHROOM, {"stages.shape.terms.0.system": "ism", "steps": 5, "seed": 3})
    made = recipe.load(find("toybox"), TABLES, prompt=MUSHROOM, overrides=lines)
    assert (made.stages[0].terms[0].system.kind, made.stages[0].steps, made.seed) == ("ism", 5, 3)
    known = {field.name for field in fields(TABLES.systems["ism"].Settings)}  # type: ignore[arg-type]
    own = next(name for name in sorted(known) if name.endswith("steps") or name in ("delta", "cfg"))
    lines = overrides(find("toybox"), MUSHROOM, {"stages.0.terms.0.system": "ism", f"stages.0.terms.0.system.{own}": 9})
    assert str(9) in lines[-1]
    assert "cannot be set here" in next(iter(refused("toybox", {"stages.0.terms.0.system.nothing": 1}).values()))


def test_every_setting_that_is_wrong_is_named() -> None:
    found = refused("toybox", {"steps": 0, "stages.0.size": "big", "seed": 1, "stages.0.scene.lr_means": {"from": 1}})
    assert set(found) == {"settings.steps", "settings.stages.0.size", "settings.stages.0.scene.lr_means"}
    assert found["settings.steps"] == "must be at least 1, not 0"


def test_parts_are_settled_before_their_settings() -> None:
    found = refused(
        "toybox", {"stages.0.cameras.elevation_deg": [0, 5], "stages.0.terms.0.system": "nothing", "size": 7}
    )
    assert set(found) == {"settings.stages.0.terms.0.system"}, "which others there are depends on them"


def test_a_trusted_caller_may_name_anything() -> None:
    lines = overrides(find("toybox"), MUSHROOM, {"stages.0.scene.file": "x.ply", "seed": 3}, trusted=True)
    assert lines == ["stages.0.scene.file=x.ply", "seed=3"]


def test_the_tables_are_where_parts_come_from() -> None:
    known = open_settings(recipe.load(find("toybox"), TABLES))
    tables = {"stages.0.scene": SCENES, "stages.0.terms.0.system": SYSTEMS, "stages.0.terms.0.guidance": GUIDANCE}
    for path, table in tables.items():
        assert set(known[path].bounds.choices or ()) == set(table)


# ---- batches ------------------------------------------------------------------------------------------------------

RULE, SIZE = "stages.0.terms.0.system", "stages.0.size"


def test_zipped_lists_go_side_by_side_and_crossed_ones_meet_each_other() -> None:
    body = {
        "job": {"recipe": "toybox", "settings": {"steps": 3}},
        "zip": {"prompt": ["a red cup", "a blue cup"], "seed": [1, 2]},
        "cross": {RULE: ["sds", "csd"], SIZE: [16, 32]},
    }
    made = members(body)
    assert [tuple(each.values.values()) for each in made] == [
        (prompt, seed, rule, size)
        for prompt, seed in (("a red cup", 1), ("a blue cup", 2))
        for rule in ("sds", "csd")
        for size in (16, 32)
    ]
    for each in made:
        assert isinstance(each.request, DreamRequest) and each.request.prompt == each.values["prompt"]
        assert each.request.settings == {"steps": 3, RULE: each.values[RULE], SIZE: each.values[SIZE]}


BAD_BATCHES: dict[str, tuple[object, str]] = {
    "unequal": ({"job": {"prompt": MUSHROOM}, "zip": {"seed": [1], "steps": [1, 2]}}, "zip"),
    "empty": ({"job": {"prompt": MUSHROOM}, "cross": {"seed": []}}, "cross.seed"),
    "no list": ({"job": {"prompt": MUSHROOM}, "cross": {"seed": 3}}, "cross.seed"),
    "twice": ({"job": {"prompt": MUSHROOM}, "zip": {"seed": [1]}, "cross": {"seed": [2]}}, "cross.seed"),
    "of a parent": ({"job": {"kind": "branch"}}, "job.kind"),
    "too many": ({"job": {"prompt": MUSHROOM}, "cross": {"seed": list(range(20)), "steps": list(range(1, 20))}}, ""),
    "a wrong value": ({"job": {"prompt": MUSHROOM}, "cross": {"seed": [1, -1]}}, "seed"),
    "nothing": ({}, "job"),
}


@pytest.mark.parametrize("what", BAD_BATCHES)
def test_batches_that_cannot_be(what: str) -> None:
    body, loc = BAD_BATCHES[what]
    with pytest.raises(BadRequest) as error:
        members(body)
    assert loc in {each.loc for each in error.value.fields}
    assert MOST_BATCH < 20 * 19

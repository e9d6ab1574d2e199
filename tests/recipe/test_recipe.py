# SPDX-License-Identifier: Apache-2.0
"""The recipe reader: what it accepts means what it says, and what it refuses is one line that helps."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlab import recipe
from dreamlab.core.errors import DreamError, InputError, RecipeError
from dreamlab.core.schedules import Progress, When
from dreamlab.core.text import MAX_PROMPT
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES

GOOD = """
prompt: a red mushroom
seed: 3
stages:
  - name: shape
    scene: {kind: gaussians, count: 100}
    terms:
      - guidance: oracle
        system: {kind: sds, cfg: 7.5, t_max: {from: 0.98, to: 0.5, begin: 20%, end: 300 steps, curve: cosine}}
    steps: 50
"""


def load(text: str, *overrides: str, prompt: str | None = None) -> recipe.Recipe:
    return recipe.load(text, TABLES, overrides=overrides, prompt=prompt, name="x.yaml")


def complaint(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        check(load(text, *overrides))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_a_recipe_means_what_it_says() -> None:
    made = load(GOOD)
    stage = made.stages[0]
    assert (made.seed, stage.name, stage.steps, stage.scene.settings.count) == (3, "shape", 50, 100)
    system = stage.terms[0].system
    assert system.kind == "sds" and system.settings.cfg.at(Progress(0, 1)) == 7.5
    (begin, _), (end, _) = system.settings.t_max.points
    assert (begin, end) == (When(0.2), When(300, "steps"))
    assert stage.views == 4  # a default


def test_everything_is_frozen() -> None:
    made = load(GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.stages[0].steps = 9  # type: ignore[misc]


def test_resolved_recipes_round_trip() -> None:
    made = load(GOOD, "export.formats=[glb, obj]", "stages.0.regularisers.opacity={from: 1, to: 0.1}")
    again = load(recipe.dump(made))
    assert again == made


@pytest.mark.parametrize("name", recipe.names())
def test_packaged_recipes_load_check_and_round_trip(name: str) -> None:
    path = recipe.find(name)
    assert len(path.read_text().splitlines()) <= 60
    made = recipe.load(path, TABLES)
    check(made)
    assert load(recipe.dump(made)) == made


def test_overrides_reach_lists_names_and_new_keys() -> None:
    made = load(GOOD, "stages.shape.steps=9", "stages.0.terms.0.system.cfg=20", "seed=11", "export.formats=[ply]")
    assert made.stages[0].steps == 9 and made.seed == 11 and made.export.formats == ("ply",)
    assert made.stages[0].terms[0].system.settings.cfg.values == (20.0,)
    assert made.stages[0].scene.settings.count == 100  # untouched


def test_an_override_with_a_kind_replaces_the_whole_thing() -> None:
    made = load(GOOD, "stages.0.terms.0.system={kind: ism, cfg: 2}", "stages.0.cameras={distance: [2, 3]}")
    system = made.stages[0].terms[0].system
    assert system.kind == "ism" and system.settings.cfg.values == (2.0,)
    assert system.settings.t_max.values == (0.98, 0.5)  # ISM's own default, not what the recipe had for SDS
    assert made.stages[0].cameras.distance == (2.0, 3.0) and made.stages[0].cameras.fovy_deg == (38.0, 46.0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed: 3|sead: 3", "x.yaml:3: sead is not a setting of a recipe (did you mean 'seed'?)"),
        ("count: 100|cuont: 100", "x.yaml:6: stages.0.scene.cuont is not a setting of scenes 'gaussians'"),
        ("count: 100|count: many", "must be a whole number, not 'many'"),
        ("count: 100|count: 1.5", "must be a whole number"),
        ("count: 100|count: -4", "must be at least 1"),
        ("count: 100|count: 1000000000000", "must be at most 5e+06"),
        ("count: 100|lr_means: -0.1", "stages.0.scene.lr_means must be at least 0"),
        ("count: 100|lr_means: .nan", "must be a number, not '.nan'"),
        ("count: 100|lr_means: nan", "must be finite"),
        ("count: 100|lr_means: inf", "must be finite"),
        ("count: 100|lr_means: {from: 1, to: .inf}", "must be a number"),
        ("steps: 50|steps: 0", "x.yaml:10: stages.0.steps must be at least 1"),
        ("steps: 50|size: 4", "must be at least 8"),
        ("steps: 50|background: whte", "did you mean 'white'?"),
        ("steps: 50|cameras: {distance: [4, 3]}", "is a range: 4 must not exceed 3"),
        ("steps: 50|cameras: {distance: 3}", "must be a list"),
        ("steps: 50|cameras: {elevation: sideways}", "elevation"),
        ("steps: 50|regularisers: {opacty: 1}", "did you mean 'opacity'?"),
        ("kind: gaussians|kind: gausians", "'gausians' is not one of the scenes (did you mean 'gaussians'?)"),
        ("kind: sds|kind: dss", "did you mean 'sds'?"),
        ("oracle|stable_diffusion", "is not one of the guidance"),
        ("system: {kind: sds,|system: {", "needs `kind`"),
        ("cfg: 7.5|cfg: {from: 1}", "needs both `from` and `to`"),
        ("begin: 20%|begin: 20", "needs a unit: '20%' or '500 steps'"),
        ("begin: 20%|begin: 120%", "is outside the stage"),
        ("curve: cosine|curve: wavy", "is 'wavy'"),
        ("begin: 20%, end: 300 steps|begin: 60%, end: 40%", "must move forward in time"),
        ("t_max: {from: 0.98|t_max: {from: 1.98", "must be at most 1"),
        ("to: 0.5|to: 0.01", "below t_min"),
        ("name: shape|name: a b", "a stage's name is letters"),
        ("kind: gaussians,|kind: gaussians, from: nowhere,", "is not an earlier stage"),
        ("terms:|terms: []\n    term:", "is not a setting of Stage (did you mean 'terms'?)"),
        ("prompt: a red mushroom|negative: x y", "prompt is missing"),
        ("stages:|stages: []\nexport:", "must be a mapping"),
        ("seed: 3|seed: 3\nseed: 4", "key 'seed' is written twice"),
        ("seed: 3|seed: &a 3", "anchors"),
        ("seed: 3|seed: *a", "aliases"),
        ("seed: 3|seed: !!python/object:os.system 3", "tags are not allowed"),
        ("seed: 3|seed: !!int 3", "tags are not allowed"),
        ("seed: 3|\tseed: 3", "x.yaml:"),
        ("seed: 3|seed: [1", "x.yaml:"),
        ("a red mushroom|a fox: running", "x.yaml:2:"),
    ],
)
def test_refusals_name_the_place_and_the_remedy(change: str, expected: str) -> None:
    before, after = change.split("|")
    assert before in GOOD
    assert expected in complaint(GOOD.replace(before, after, 1))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps", "write key=value"),
        ("=3", "write key=value"),
        ("sead=3", "did you mean 'seed'?"),
        ("stages.7.steps=3", "the recipe has 1 stages"),
        ("stages.\u00b2.steps=3", "no stage"),
        ("stages." + "9" * 5000 + ".steps=3", "no stage"),
        ("stages.0.steps=" + "9" * 400, "must be at most 1e+300 in size, not '9999"),
        ("stages.0.steps=-" + "9" * 400, "must be at most 1e+300 in size, not '-999"),
        ("stages.0.steps=" + "9" * 5000, "must be a whole number"),
        ("stages.shap.steps=3", "did you mean 'shape'?"),
        ("stages.0.steps=soon", "override stages.0.steps: stages.0.steps must be a whole number"),
        ("seed.deep=3", "seed"),
        ("prompt=a fox", "never as an override"),
        ("stages.0.scene._target_=os.system", "is not a setting"),
        ("seed=${oc.env:HOME}", "must be a whole number, not '${oc.env:HOME}'"),
        ("stages.0.name=${oc.env:HOME}", "a stage's name is letters"),
        ("stages.0.name=!!python/name:os.system", "tags are not allowed"),
    ],
)
def test_bad_overrides(override: str, expected: str) -> None:
    assert expected in complaint(GOOD, override)


def test_hostile_files_are_refused_quickly(tmp_path: Path) -> None:
    deep = "a: " + "[" * 5000 + "]" * 5000
    deep_map = "\n".join(" " * i + "a:" for i in range(3000))
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)
    )
    big = tmp_path / "big.yaml"
    with big.open("wb") as handle:
        handle.truncate(50_000_000)
    began = time.process_time()
    for text in (
        deep,
        deep_map,
        bomb,
        "a: \0",
        "- a\n- b",
        "just text",
        "",
        "a: 1\n---\nb: 2",
        "? [a]\n: b",
        "{[a]: b}",
    ):
        with pytest.raises(RecipeError):
            load(text)
    with pytest.raises(RecipeError, match="at most"):
        recipe.load(big, TABLES)
    assert time.process_time() - began < 20  # a hang guard, not a speed claim


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"prompt: caf\xe9")
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(RecipeError, match=r"no such recipe file|not UTF-8"):
            recipe.load(path, TABLES)
    with pytest.raises(RecipeError, match="did you mean 'toybox'"):
        recipe.find("tyobox")


def test_nothing_in_a_recipe_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    for text in ("${oc.env:SECRET_TOKEN}", "$SECRET_TOKEN", "${SECRET_TOKEN}", "${oc.decode:x}", "${seed}", "${"):
        made = load(GOOD, prompt=f"fox {text}")
        assert made.prompt == f"fox {text}" and "s3cret" not in recipe.dump(made)
        assert load(recipe.dump(made)).prompt == f"fox {text}"
        quoted = GOOD.replace("a red mushroom", f"'fox {text}'")
        assert load(quoted).prompt == f"fox {text}"


# faults.md 27 and 28: what users paste, and what shells and YAML would make of it.
PROMPTS = [
    "a fox: running",
    "fox # comment",
    "yes",
    "0777",
    "*star",
    "@at home",
    "%d",
    "&anchor",
    "[list]",
    "{a: b}",
    "- item",
    "${oc.env:HF_TOKEN}",
    'a "red" fox',
    "it's a fox",
    "null",
    "~/x",
    "1e3",
    "2026-11-21",
    "!!python/object:os.system x",
    "a\\nb",
    "a\\",
    "back`tick`",
    "$HOME $(ls) $5",
    "🦆🍄 duck",
    "e\u0301 combining",
    "\u202eright to left\u202c",
    "אדום ורוד",
    "../../etc/passwd",
    "CON",
    "trailing dot.",
    "x" * 300,
    "two\nlines",
    "tab\there",
    "\u2028 separator",
    "\ufeff bom",
    "a=b",
    "--help me",
    "  leading and trailing  ",
    "\u0085 next line",
    "<script>alert(1)</script>",
    "a'); DROP TABLE runs;--",
    "? what",
    "| bar",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_survive_byte_for_byte(prompt: str) -> None:
    try:
        made = load(GOOD, prompt=prompt)
    except InputError as error:
        assert "\u0085" in prompt and "U+0085" in str(error)  # C1 control: refused by name, never altered
        return
    assert made.prompt.encode() == prompt.encode()
    assert load(recipe.dump(made)).prompt.encode() == prompt.encode()


@given(st.text(min_size=2, max_size=120), st.integers(0, 2**31 - 1), st.floats(0, 1e6), st.floats(0.1, 1))
def test_any_recipe_round_trips(prompt: str, seed: int, cfg: float, high: float) -> None:
    overrides = (f"seed={seed}", f"stages.0.terms.0.system.cfg={cfg!r}", f"stages.0.terms.0.system.t_max={high!r}")
    try:
        made = load(GOOD, *overrides, prompt=prompt)
    except InputError:
        return  # a prompt that is no prompt; those rules have their own test
    again = load(recipe.dump(made))
    assert again == made
    assert again.stages[0].terms[0].system.settings.cfg.values == (cfg,)


@given(st.text(max_size=60))
def test_no_text_crashes_the_reader(text: str) -> None:
    try:
        load(text)
    except DreamError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("prompt", "word"), [("", "empty"), ("  ", "empty"), ("x" * (MAX_PROMPT + 1), "characters")])
def test_bad_prompts_are_input_errors(prompt: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        load(GOOD, prompt=prompt)


def test_a_rule_asking_for_what_the_guidance_lacks_is_refused_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from systems.sds import SDS

    monkeypatch.setattr(SDS, "needs", frozenset({"text", "image"}))
    message = complaint(GOOD)
    assert "sds needs the condition image, which oracle does not make (it makes negative, null, text)" in message


def test_loading_does_not_look_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toybox").write_text("prompt: wrong")
    assert recipe.find("toybox").parent != Path(os.curdir)


def test_a_file_is_parsed_once_and_what_one_asks_for_does_not_reach_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    first = recipe.load(path, TABLES, prompt="a blue chair", overrides=["seed=8", "stages.0.steps=5"])
    assert (first.prompt, first.seed, first.stages[0].steps) == ("a blue chair", 8, 5)

    def unread(*_: object, **__: object) -> None:
        raise AssertionError("parsed again")

    with monkeypatch.context() as patch:
        patch.setattr("yaml.parse", unread)
        assert recipe.load(path, TABLES, prompt="a green hat").prompt == "a green hat"
        assert recipe.load(path, TABLES).prompt == "a red mushroom"
    assert recipe.load(path, TABLES) == load(GOOD)
    path.write_text(GOOD.replace("seed: 3", "seed: 4"))
    os.utime(path, ns=(1, 1))
    assert recipe.load(path, TABLES).seed == 4, "what counts is what the file says, not when it was written"

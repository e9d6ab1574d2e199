# SPDX-License-Identifier: Apache-2.0
"""Which words of a command line are the prompt, which are settings, and what the short forms stand for."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from dreamlab import recipe
from dreamlab.cli.prompt import KEYS, MOST, read_prompt, sorted_words
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.recipe import Recipe
from dreamlab.recipe.reading import OF_EXPORT, OF_MODELS, OF_STAGES
from dreamlab.recipe.tables import TABLES
from tests.conftest import Commands
from tests.recipe.test_recipe import PROMPTS

ROOT = Path(__file__).parents[2]


def test_settings_are_known_by_what_the_recipe_has() -> None:
    assert {field.name for field in dataclasses.fields(Recipe)} | {*OF_STAGES, *OF_EXPORT, *OF_MODELS} == KEYS


@pytest.mark.parametrize(
    ("words", "prompt", "settings"),
    [
        (["a duck"], "a duck", []),
        (["a duck", "seed=3", "stages.0.steps=2"], "a duck", ["seed=3", "stages.0.steps=2"]),
        (["stages.0.steps=2", "a duck", "seed=3"], "a duck", ["stages.0.steps=2", "seed=3"]),
        (["image.fill=0"], None, ["image.fill=0"]),
        (["steps=5"], None, ["steps=5"]),
        (["stages.shape.scene.count=5"], None, ["stages.shape.scene.count=5"]),
        (["stages.0.name=two words"], None, ["stages.0.name=two words"]),
        (["a duck with size=large"], "a duck with size=large", []),
        (["E=mc^2"], "E=mc^2", []),
        (["x=y"], "x=y", []),
        (["a duck", "wide = tall"], None, None),
        (["a", "duck"], None, None),
        ([], None, []),
    ],
)
def test_words_are_sorted(words: list[str], prompt: str | None, settings: list[str] | None) -> None:
    if settings is None:
        with pytest.raises(RecipeError, match="quote a prompt of several words"):
            sorted_words(words)
    else:
        assert sorted_words(words) == (prompt, settings)


@pytest.mark.parametrize("words", [["sead=3"], ["a duck", "sead=3"], ["sead.deep=3", "a duck"], ["a duck", "s=3"]])
def test_a_setting_by_a_wrong_name_is_said(words: list[str]) -> None:
    with pytest.raises(RecipeError, match=r"is not a setting of a recipe \((did you mean 'seed'\?|known: export)"):
        sorted_words(words)


def test_no_prompt_that_users_paste_is_a_setting() -> None:
    for prompt in PROMPTS:
        assert sorted_words([prompt]) == (prompt, [])


TWO = """
prompt: a red mushroom
stages:
  - {name: one, scene: gaussians, terms: [{guidance: toybox, system: sds}], steps: 50, size: 32}
  - {name: two, scene: {kind: gaussians, from: one}, terms: [{guidance: oracle, system: {kind: sds, cfg: 3}}]}
"""


def load(*overrides: str) -> Recipe:
    return recipe.load(TWO, TABLES, overrides=overrides)


def test_short_forms_are_of_every_stage() -> None:
    assert load("steps=7", "views=2", "size=16") == load(
        *(f"stages.{i}.{name}" for i in (0, 1) for name in ("steps=7", "views=2", "size=16"))
    )
    assert [stage.steps for stage in load("steps=7", "stages.two.steps=9").stages] == [7, 9]


@pytest.mark.parametrize(
    ("word", "formats"),
    [("export.formats=glb", ("glb",)), ("formats=obj,ply", ("obj", "ply")), ("formats=[ply, glb]", ("ply", "glb"))],
)
def test_one_word_is_a_list_of_one(word: str, formats: tuple[str, ...]) -> None:
    assert load(word).export.formats == formats


def test_settings_of_a_part_that_is_named_by_its_kind_alone() -> None:
    made = load("stages.0.terms.0.guidance.unknown=skip", "stages.0.terms.0.system.cfg=9", "stages.one.scene.count=30")
    first = made.stages[0]
    assert (first.terms[0].guidance.kind, first.terms[0].guidance.settings.unknown) == ("toybox", "skip")
    assert (first.terms[0].system.kind, first.terms[0].system.settings.cfg.values) == ("sds", (9.0,))
    assert (first.scene.kind, first.scene.settings.count) == ("gaussians", 30)
    with pytest.raises(RecipeError, match="must be a single value"):
        load("seed.deep=3")


def test_the_prompts_place_is_one_regular_file_of_a_prompts_size(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as handle:
        handle.truncate(11 << 30)
    (tmp_path / "over").write_bytes(b"x" * (MOST + 1))
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    said = {"zero": "is a device", "large": f"at most {MOST}", "over": f"at most {MOST}"}
    for name, words in (said | {"latin": "not UTF-8", ".": "a folder"}).items():
        with pytest.raises(InputError, match=words):
            read_prompt(None, tmp_path / name, None)
    (tmp_path / "good").write_text("a duck: yes\n")
    assert read_prompt(None, tmp_path / "good", None) == "a duck: yes"
    with pytest.raises(RecipeError, match="once"):
        read_prompt("a fox", tmp_path / "good", None)


def test_standard_input_without_end_is_left() -> None:
    command = [sys.executable, "-m", "dreamlab", "dream", "-"]
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(command, cwd=ROOT, stdin=endless, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3 and done.stderr == f"error: stdin: more than {MOST} bytes are no prompt\n"


def test_check_says_what_would_be_done_and_makes_nothing(dreamlab: Commands) -> None:
    ended = dreamlab("check", "toybox", "a yellow duck", "steps=5", "stages.0.terms.0.guidance.unknown=skip")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [
        "prompt: a yellow duck",
        "shape: gaussians, toybox-views by sds; 5 steps of 4 views, 64 x 64",
        "surface: mesh, toybox-views by sds; 5 steps of 4 views, 128 x 128",
    ]
    assert dreamlab("check", "oracle").out.startswith("prompt: a red mushroom with a white stem\n")
    for words, code in ((["a yellow duck", "sead=1"], 2), (["a zyzzyva"], 3), (["absent.yaml"], 2)):
        ended = dreamlab("check", *words)
        assert ended.code == code and ended.err.startswith("error:") and not ended.out
    assert not (dreamlab.folder / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["list", "recipes"],
        ["list", "x"],
        ["show", "recipe", "image"],
        ["dream"],
        ["dream", "a", "fox"],
        ["dream", "a fox", "sead=1"],
        ["dream", "a fox", "--recipe", "nope"],
        ["dream", "a fox", "--device", "tpu"],
        ["dream", "--image", "absent.png"],
    ],
)
def test_what_needs_no_arithmetic_does_not_wait_for_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom dreamlab.cli import main\ntry:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2, 3) and "Assertion" not in done.stderr, done.stderr


def test_too_little_address_space_is_said_at_once() -> None:
    """1 GB of it once spun for ever, deaf to signals, wherever a library's thread could not be made."""
    limit = "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (1_000_000_000, 1_000_000_000))\n"
    code = f"{limit}from dreamlab.cli import main\nmain()"
    command = [sys.executable, "-c", code, "dream", "a red mushroom"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 5 and done.stderr.count("\n") == 1
    assert "1.0 GB of address space (ulimit -v); at least 1.9 GB are needed" in done.stderr

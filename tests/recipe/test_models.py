# SPDX-License-Identifier: Apache-2.0
"""Recipes that name pretrained models: what is not here is said before a folder is made, and nothing stands in for it
unless it was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamlab import pipeline
from dreamlab.core.errors import ModelError, RecipeError
from dreamlab.recipe import Recipe, load
from dreamlab.recipe.checks import check
from dreamlab.recipe.models import models_of, on_embedded
from dreamlab.recipe.tables import TABLES

TEXT = """
prompt: a red mushroom
stages:
  - name: one
    scene: {{kind: {scene}}}
    terms: [{terms}]
    views: 4
    {more}
"""
SD = "{guidance: sd, system: ism, prompting: {views: hard, perp_neg: 1}}"
CONTROL = "{guidance: {kind: controlnet, lora: [lcm-lora-sd15]}, system: sds}"


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DREAMLAB_MODELS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))


def recipe(terms: str, scene: str = "gaussians", more: str = "", *overrides: str) -> Recipe:
    return load(TEXT.format(terms=terms, scene=scene, more=more), TABLES, overrides=overrides)


def test_a_model_that_is_not_here_ends_it_before_a_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT.format(terms=SD, scene="gaussians", more=""))
    with pytest.raises(ModelError, match=r"stages.0.terms.0.guidance: model sd15: .*prefetch sd15.*--on-missing") as e:
        pipeline.create(None, file, tmp_path / "runs", [], None, ["dreamlab"])
    assert not (tmp_path / "runs").exists() and "\n" not in str(e.value)
    with pytest.warns(UserWarning, match=r"stages.0.terms.0: sd15 is not here; it runs on toybox"):
        run = pipeline.create(None, file, tmp_path / "runs", [], None, ["dreamlab"], on_missing="embedded")
    kept = pipeline.load_recipe(run)
    assert [term.guidance.kind for term in kept.stages[0].terms] == ["toybox"]


def test_what_stands_in_is_told_what_it_can_hear() -> None:
    changed, notes = on_embedded(recipe(f"{SD}, {{guidance: oracle, system: sds}}"))
    first, second = changed.stages[0].terms
    assert (first.guidance.kind, second.guidance.kind) == ("toybox", "oracle")
    assert first.prompting.views == "none" and first.prompting.perp_neg == 0
    assert len(notes) == 1 and "told the camera instead of words of direction" in notes[0]
    check(changed)


@pytest.mark.parametrize(
    ("kind", "role", "scene"), [("sd", "toybox", "gaussians"), ("controlnet", "toybox-control", "mesh")]
)
def test_each_family_has_the_role_that_is_most_like_it(kind: str, role: str, scene: str) -> None:
    changed, _ = on_embedded(recipe(f"{{guidance: {kind}, system: sds}}", scene))
    assert changed.stages[0].terms[0].guidance.kind == role
    check(changed)


def test_what_is_here_stays(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    wanted = recipe(f"{SD}, {CONTROL}", "mesh", "", f"stages.0.terms.0.guidance.model={tmp_path}")
    changed, notes = on_embedded(wanted)
    assert [term.guidance.kind for term in changed.stages[0].terms] == ["sd", "toybox-control"]
    assert changed.stages[0].terms[0] == wanted.stages[0].terms[0] and len(notes) == 1


def test_all_that_a_guidance_is_made_of_is_named_once() -> None:
    two = f"{CONTROL}, {SD}, {{guidance: {{kind: sd, encoder: hybrid}}, system: sds}}"
    assert models_of(recipe(two, "mesh")) == ("sd15", "lcm-lora-sd15", "controlnet-depth-sd15", "taesd")


def test_model_is_of_every_guidance_that_is_made_of_one() -> None:
    both = f"{SD}, {{guidance: oracle, system: sds}}, {CONTROL}"
    made = recipe(both, "mesh", "", "model=sd21-base")
    kinds = [term.guidance.settings.model for term in made.stages[0].terms if term.guidance.kind != "oracle"]
    assert kinds == ["sd21-base", "sd21-base"]
    with pytest.raises(RecipeError, match="no guidance of this recipe takes a model"):
        recipe("{guidance: oracle, system: sds}", "gaussians", "", "model=sd15")


def test_a_negative_prompt_of_words_that_the_prior_does_not_know_is_left_out_and_said() -> None:
    wanted = load("negative: blurry\n" + TEXT.format(terms=SD, scene="gaussians", more="").lstrip(), TABLES)
    changed, notes = on_embedded(wanted)
    assert changed.negative == "" and "the negative prompt is left out" in notes[-1]
    check(changed)
    known = load("negative: a blue duck\n" + TEXT.format(terms=SD, scene="gaussians", more="").lstrip(), TABLES)
    changed, notes = on_embedded(known)
    assert changed.negative == "a blue duck" and len(notes) == 1


def test_models_that_look_at_the_picture_are_named_and_maps_of_a_user_are_not() -> None:
    image = ["image.cutout=sam-vit-base", "image.depth=depth-anything-v2-small", "image.normal=mine.png"]
    assert models_of(recipe(SD, "gaussians", "", *image)) == ("sd15", "sam-vit-base", "depth-anything-v2-small")
    assert models_of(recipe(SD, "gaussians", "", "image.depth=mine.PNG")) == ("sd15",)


def test_a_word_that_says_nothing_about_missing_models_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT.format(terms=SD, scene="gaussians", more=""))
    with pytest.raises(RecipeError, match="--on-missing 'embeded': fail or embedded"):
        pipeline.create(None, file, tmp_path / "runs", [], None, ["dreamlab"], on_missing="embeded")

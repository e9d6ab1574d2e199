# SPDX-License-Identifier: Apache-2.0
"""Reads a recipe once from YAML and overrides, and writes it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamlab.core.cards import Entry
from dreamlab.core.errors import RecipeError
from dreamlab.core.text import check_prompt, did_you_mean, short
from dreamlab.recipe.bind import Binder, Tables, plain
from dreamlab.recipe.grammar import FORMATS, Recipe
from dreamlab.recipe.source import Source, Tree, parse, read_file

OF_STAGES, OF_EXPORT = ("steps", "views", "size"), ("formats",)  # short forms of overrides
PARTS = ("scene", "guidance", "system")  # keys of what has a kind
OF_MODELS = ("model",)  # of every guidance that is made of a pretrained one


def load(
    text_or_path: str | Path,
    tables: Tables,
    *,
    prompt: str | None = None,
    negative: str | None = None,
    overrides: Sequence[str] = (),
    name: str = "recipe",
) -> Recipe:
    """A recipe from a file (`Path`) or text, with `key=value` overrides; prompts given here are literal and win."""
    source = Source()
    from_file = isinstance(text_or_path, Path)
    tree = read_file(Path(text_or_path), source) if from_file else parse(str(text_or_path), name, source)
    if not isinstance(tree, dict) or not tree:
        raise RecipeError(f"{text_or_path if from_file else name}: a recipe is a mapping")
    tree = _apply(tree, overrides, source, tables)
    for key, literal in (("prompt", prompt), ("negative", negative)):
        if literal is not None:
            tree[key] = source.add(literal, False, f"the {key} given", 0)
    recipe: Recipe = Binder(source, tables).dataclass(Recipe, tree, "", "a recipe")
    check_prompt(recipe.prompt)
    if recipe.negative:
        check_prompt(recipe.negative, "negative prompt")
    for i, text in enumerate(recipe.prompts):
        check_prompt(text, f"prompts.{i}")
        if text in (recipe.prompt, *recipe.prompts[:i]):
            raise RecipeError(f"prompts.{i}: {text!r} is there already; a prompt is learnt once")
    _check(recipe, tables)
    return recipe


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load(dump(r)) == r`."""
    return yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120)


def _written_out(text: str, stages: Tree, source: Source, tables: Tables) -> list[str]:
    """An override in its long forms: `steps=9` is of every stage, `model=...` of every guidance that is made of one."""
    key, equals, _ = text.partition("=")
    if equals and key in OF_MODELS:
        places = _with_models(stages, source, tables)
        if not places:
            raise RecipeError("model: no guidance of this recipe takes a model; name one, e.g. stages.0...guidance=sd")
        return [f"{place}.{text}" for place in places]
    if equals and key in OF_STAGES and isinstance(stages, list):
        return [f"stages.{i}.{text}" for i in range(len(stages))]
    return [f"export.{text}" if equals and key in OF_EXPORT else text]


def _apply(tree: dict[str, Tree], overrides: Sequence[str], source: Source, tables: Tables) -> dict[str, Tree]:
    """A tree with `a.b.c=value` merged into it; a stage may be named instead of numbered (`stages.shape.steps=9`)."""
    if not overrides:
        return dict(tree)  # what a file says is shared: the prompt goes into a copy
    container = OmegaConf.create(tree)
    for text in (long for given in overrides for long in _written_out(given, tree.get("stages"), source, tables)):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {short(text)!r}: write key=value, e.g. stages.0.steps=200")
        parts = key.split(".")
        if parts[0] == "prompt":
            raise RecipeError("the prompt is given as the command's argument, never as an override")
        if parts[0] == "prompts":
            raise RecipeError("prompts are listed in the recipe file, never given as an override")
        stages = tree.get("stages")
        if parts[0] == "stages" and len(parts) > 1 and isinstance(stages, list):
            by_name = {_stage_name(stage, source): i for i, stage in enumerate(stages)}
            if not (parts[1].isdecimal() and len(parts[1]) < 9):
                if parts[1] not in by_name:
                    likely = did_you_mean(parts[1], by_name)
                    raise RecipeError(f"override {short(key)!r}: no stage {short(parts[1])!r}{likely}")
                parts[1] = str(by_name[parts[1]])
            if int(parts[1]) >= len(stages):
                raise RecipeError(f"override {short(key)!r}: the recipe has {len(stages)} stages, counted from 0")
        try:
            parsed = parse(value, f"override {key}", source, numbered=False)
            _unfold(container, parts)
            # Another kind brings its own settings: the old one's must not linger.
            whole = isinstance(parsed, dict) and "kind" in parsed
            OmegaConf.update(container, ".".join(parts), parsed, merge=not whole, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, IndexError, AttributeError):
            raise RecipeError(f"override {short(key)!r}: there is no such place in the recipe") from None
    merged = OmegaConf.to_container(container, resolve=False)
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def takes_model(entry: Entry) -> bool:
    """Whether a guidance is made of a pretrained model, which its settings name."""
    return any(field.name in OF_MODELS for field in fields(entry.Settings()))  # type: ignore[arg-type]


def _with_models(stages: Tree, source: Source, tables: Tables) -> list[str]:
    """Where the guidances stand that are made of a pretrained model."""
    found = []
    for i, stage in enumerate(stages if isinstance(stages, list) else ()):
        terms = stage.get("terms") if isinstance(stage, dict) else None
        for j, term in enumerate(terms if isinstance(terms, list) else ()):
            said = term.get("guidance") if isinstance(term, dict) else None
            kind = said.get("kind") if isinstance(said, dict) else said
            name = source.scalars[kind].text if isinstance(kind, int) else ""
            if name in tables.guidance and takes_model(tables.guidance[name]):
                found.append(f"stages.{i}.terms.{j}.guidance")
    return found


def _unfold(container: DictConfig, parts: Sequence[str]) -> None:
    """A part written as its kind alone becomes a mapping, when one of its settings is given."""
    for end in range(1, len(parts)):
        found = OmegaConf.select(container, ".".join(parts[:end]))
        if isinstance(found, int) and parts[end - 1] in PARTS and parts[end] != "kind":
            OmegaConf.update(container, ".".join(parts[:end]), {"kind": found}, force_add=True)


def _stage_name(stage: Tree, source: Source) -> str:
    found = stage.get("name") if isinstance(stage, dict) else None
    return source.scalars[found].text if isinstance(found, int) else ""


def _check(recipe: Recipe, tables: Tables) -> None:
    """Rules that span fields."""
    if not recipe.stages:
        raise RecipeError("stages: a recipe needs at least one stage")
    if not recipe.export.formats:
        raise RecipeError(f"export.formats: name at least one of {', '.join(FORMATS)}")
    if (side := recipe.export.texture) & (side - 1):
        raise RecipeError(f"export.texture: {side} is no power of two, which engines want; {1 << side.bit_length()} is")
    seen: list[str] = []
    for i, stage in enumerate(recipe.stages):
        where = f"stages.{i} ({stage.name!r})"
        if not stage.name.replace("_", "").replace("-", "").isalnum():
            raise RecipeError(f"{where}: a stage's name is letters, digits, '-' and '_'")
        if stage.name in seen:
            raise RecipeError(f"{where}: two stages have this name")
        if stage.cameras.fixed and min(stage.given.widen.values) < 1:
            raise RecipeError(f"{where}: given.widen moves cameras, cameras.fixed never do; leave one out")
        if not stage.terms:
            raise RecipeError(f"{where}: needs at least one term")
        for source, _ in tables.takeovers(stage.scene):
            if source not in seen:
                raise RecipeError(f"{where}: scene.from {source!r} is not an earlier stage{did_you_mean(source, seen)}")
        known = (*tables.regularisers, *tables.scene(stage.scene).penalties)
        for name in stage.regularisers:
            if name not in known:
                raise RecipeError(f"{where}: regularisers.{name} is not known{did_you_mean(name, known)}")
        seen.append(stage.name)

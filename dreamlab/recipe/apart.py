# SPDX-License-Identifier: Apache-2.0
"""A prompt of several objects, and guidances that make one: each object is made by its own words, in its own frame and
in turn, and stands where the words say. The recipe that a run gets says all of it and can be changed by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from dreamlab.core.cards import WordsHeard
from dreamlab.core.errors import RecipeError
from dreamlab.core.files import Json
from dreamlab.recipe.bind import plain
from dreamlab.recipe.checks import cards_of, hearings, own_words
from dreamlab.recipe.grammar import Recipe, Stage
from dreamlab.recipe.reading import load
from dreamlab.recipe.tables import TABLES
from dreamlab.toybox.asked import miscounted
from dreamlab.toybox.caption import EAR
from dreamlab.toybox.layout import MOST, Thing, things
from dreamlab.toybox.places import places, remarks


def apart(recipe: Recipe) -> Recipe | None:
    """The recipe of a prompt's objects; None where it is of one, or where what is made is not one object from words
    alone."""
    if not (named := objects_of(recipe)):
        return None
    objects = _those_made(named)
    stands = [{"position": list(at.position), "scale": at.scale} for at in places(objects)]
    return _with_objects(recipe, objects, stands)


def heard_apart(recipe: Recipe) -> tuple[WordsHeard, ...]:
    """How a recipe's prompt is heard: object by object where it is of several."""
    if not (named := objects_of(recipe)):
        return tuple(hearings(recipe))
    objects, overheard = _those_made(named), EAR.hear(recipe.prompt)
    said = ", ".join(f"{one.text!r}" for one in objects)
    line = f"{len(objects)} objects, each made by its own words and placed by the others: {said}"
    beyond = dict.fromkeys(f"{one.text!r}: {MOST} objects are made, the first" for one in named[MOST:])
    carrying, refused = remarks(objects)
    lines = (*overheard.lacking, *miscounted(recipe.prompt, each=True), *refused, *beyond)
    whole = WordsHeard(read=(*overheard.read, line, *carrying), unmade=lines)
    return whole, *hearings(_with_objects(recipe, objects, [{} for _ in objects]))


def objects_of(recipe: Recipe) -> tuple[Thing, ...]:
    """Those that are to be made apart: none, or several."""
    if recipe.prompts or recipe.image.file or not all(map(_makes_one, recipe.stages)):
        return ()
    named = things(recipe.prompt)
    if len(named) < 2:
        return ()
    made = _with_objects(recipe, named[:MOST], [{} for _ in named[:MOST]])
    return () if any(TABLES.scene(stage.scene).complaint for stage in made.stages) else named


def _those_made(named: Sequence[Thing]) -> tuple[Thing, ...]:
    return tuple(replace(one, to=None) if (one.to or 0) >= MOST else one for one in named[:MOST])


def check_renamed(recipe: Recipe, prompt: str | None, own: Callable[[], str]) -> None:
    """Objects with words of their own would not hear another prompt than the one they came from."""
    told = [i for i, stage in enumerate(recipe.stages) if own_words(recipe, stage)]
    if told and prompt is not None and prompt != own():
        place = f"stages.{told[0]}.scene.objects"
        names = ", ".join(recipe.stages[told[0]].scene.settings.objects)
        raise RecipeError(f"the objects of this recipe ({names}) have words of their own: change {place}.NAME.prompt")


def _makes_one(stage: Stage) -> bool:
    alone = stage.particles == 1 and not stage.given.used and stage.scene.kind != "several"
    return alone and all(cards_of(term)[0].single and not cards_of(term)[1].texts for term in stage.terms)


def _with_objects(recipe: Recipe, objects: Sequence[Thing], stands: Sequence[Json]) -> Recipe:
    """As many steps for each object as every stage has for one; what is like another is made with it. They are named
    for their kind, and numbered where there are more of one."""
    kinds = [re.sub(r"\W+", "_", one.category) for one in objects]
    before = [kinds[:i].count(name) for i, name in enumerate(kinds)]
    names = [f"{name}_{n + 1}" if n else name for name, n in zip(kinds, before, strict=True)]
    said: dict[str, Json] = {}
    for i, (name, one, at) in enumerate(zip(names, objects, stands, strict=True)):
        share, first = (i + 1) / len(objects), _twin(objects, i)
        code = [round(share, 3), round(1 - share, 3), float(i % 2)]
        said[name] = {**at, "code": code, **({"prompt": one.text} if first == i else {"like": names[first]})}
    tree, apart = plain(recipe), len({one.text for one in objects})
    for stage in tree["stages"]:
        own = {name: {"scene": stage["scene"], **each} for name, each in said.items()}
        stage |= {"scene": {"kind": "several", "objects": own}, "steps": apart * stage["steps"]}
    return load(json.dumps(tree), TABLES)  # which is YAML, too


def _twin(objects: Sequence[Thing], i: int) -> int:
    """The first object with the same words."""
    return [one.text for one in objects].index(objects[i].text)

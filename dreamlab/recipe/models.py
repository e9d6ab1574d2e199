# SPDX-License-Identifier: Apache-2.0
"""The pretrained models that a recipe names: whether they are here, and what stands in for them if the user says so.

Nothing is fetched for a run, and nothing else is taken silently: a model that is not here ends the command in one line,
unless it was begun with `--on-missing embedded`, which says of every term what it runs on instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.settings import FILES, Spec
from dreamlab.core.types import Prompt
from dreamlab.hub import located
from dreamlab.recipe.checks import cards_of, every_card
from dreamlab.recipe.grammar import Recipe, Stage, Term
from dreamlab.recipe.picture import PLAIN_WAY
from dreamlab.recipe.tables import TABLES

ON_MISSING = ("fail", "embedded")  # what a run does about models that are not here


def named(recipe: Recipe) -> Iterator[tuple[str, Term, GuidanceCard]]:
    """Terms on pretrained models, and where they stand."""
    for i, stage in enumerate(recipe.stages):
        for j, term in enumerate(stage.terms):
            card = cards_of(term)[0]
            if card.models:
                yield f"stages.{i}.terms.{j}.guidance", term, card


def models_of(recipe: Recipe) -> tuple[str, ...]:
    """Names and paths, each once: of terms, and of what looks at the prompt's picture."""
    image = recipe.image
    maps = [name for name in (image.depth, image.normal) if name and not FILES["map"](name)]
    looking = maps if image.cutout == PLAIN_WAY else [image.cutout, *maps]
    return tuple(dict.fromkeys([*(name for _, _, card in named(recipe) for name, _ in card.models), *looking]))


def check_models(recipe: Recipe) -> None:
    """ModelError names the first that is not here, and what to do."""
    for where, _, card in named(recipe):
        if said := absent(card):
            raise ModelError(f"{where}: {said}")


def absent(card: GuidanceCard) -> str:
    """What is said of the first model of a guidance that is not on this machine; nothing where all are."""
    try:
        for name, family in card.models:
            located(name, family)
    except ModelError as error:
        return str(error)
    return ""


def on_embedded(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with the embedded prior in place of what is not here, and a line for each term that it changes."""
    notes: list[str] = []
    stages = tuple(_stage(stage, f"stages.{i}", notes) for i, stage in enumerate(recipe.stages))
    changed = replace(recipe, stages=stages)
    if notes and recipe.negative and not _knows_negative(changed):
        notes.append("the negative prompt is left out: the embedded prior does not know its words")
        changed = replace(changed, negative="")
    return changed, notes


def _knows_negative(recipe: Recipe) -> bool:
    """Whether every guidance knows the words of the negative prompt; those of the prompt are another matter."""
    try:
        for _, card in every_card(recipe):
            card.listen(Prompt(recipe.prompt, ""))
            card.listen(Prompt(recipe.prompt, recipe.negative))
    except InputError as error:
        return not str(error).startswith("negative")
    return True


def _stage(stage: Stage, where: str, notes: list[str]) -> Stage:
    terms = []
    for j, term in enumerate(stage.terms):
        card = cards_of(term)[0]
        if not card.embedded or not absent(card):
            terms.append(term)
            continue
        names = ", ".join(name for name, _ in card.models)
        made, stage, changes = _stand_in(term, card.embedded, stage)
        notes.append(f"{where}.terms.{j}: {names} is not here; it runs on {card.embedded}, the embedded prior{changes}")
        terms.append(made)
    return replace(stage, terms=tuple(terms))


def _stand_in(term: Term, kind: str, stage: Stage) -> tuple[Term, Stage, str]:
    """A term on a role of the embedded prior, with what that asks of its stage: it is told the camera, not words of
    direction, and its clips have a length of their own."""
    entry = TABLES.guidance[kind]
    settings = entry.Settings()
    card, changes = entry.card(settings), []
    prompting = term.prompting
    if prompting.needs() - card.conditions:
        prompting = replace(prompting, views="none", perp_neg=0.0)
        changes.append("told the camera instead of words of direction")
    system = term.system
    if card.clip and stage.cameras.clip not in (0, card.together):
        system = Spec(system.kind, _with(system.settings, "frames", card.together))
        stage = replace(stage, views=card.together, cameras=replace(stage.cameras, clip=card.together))
        changes.append(f"clips of {card.together} frames")
    elif not card.clip and stage.views % card.together:
        stage = replace(stage, views=card.together)
        changes.append(f"{card.together} views a step")
    term = replace(term, guidance=Spec(kind, settings), prompting=prompting, system=system)
    return term, stage, "".join(f"; {change}" for change in changes)


def _with(settings: object, name: str, value: object) -> object:
    known = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    return replace(settings, **{name: value}) if name in known else settings  # type: ignore[type-var]

# SPDX-License-Identifier: Apache-2.0
"""The packaged recipes as the web knows them: by name alone, never by a path; their YAML; and the settings of one as
the fields of a form, read off the dataclasses that the recipe is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache

from configs import find, names
from dreamlab import recipe
from dreamlab.core.files import Json
from dreamlab.core.settings import bounds_of
from dreamlab.core.text import did_you_mean, short
from dreamlab.jobs.allowed import PART, OpenSetting, open_settings, overrides
from dreamlab.jobs.asking import FieldError
from dreamlab.recipe import Recipe, Stage
from dreamlab.recipe.checks import every_card, looks
from dreamlab.recipe.tables import TABLES
from dreamlab.studio.answers import invalid

ELSEWHERE = ("seed",)  # a request has a field of its own for it
SHOWN = {"choice": "str", "part": "str"}


def packaged(name: str) -> str:
    """The name of a recipe of the package; Refusal 422 for anything else, above all for a path."""
    known = names()
    if name not in known:
        said = f"{short(name, 60)!r} is not in the package{did_you_mean(name[:60], known)}"
        raise invalid(FieldError("recipe", said, name[:80], ", ".join(known)))
    return name


@lru_cache(maxsize=64)
def loaded(name: str) -> Recipe:
    return recipe.load(find(packaged(name)), TABLES)


@lru_cache(maxsize=1)
def listing() -> tuple[Json, ...]:
    """Every recipe with its line, its YAML, and what it needs."""
    return tuple(_row(name, about) for name, about in names().items())


def _row(name: str, about: str) -> Json:
    wanted = loaded(name)
    cards = [card for _, card in every_card(wanted)]
    needs = "picture" if looks(wanted) else "mesh" if _wants_asset(wanted.stages[0]) else "prompt"
    terms = [term for stage in wanted.stages for term in stage.terms]
    return {
        "name": name,
        "line": about,
        "yaml": find(name).read_text("utf-8"),
        "prompt": wanted.prompt,
        "needs": needs,
        "stages": len(wanted.stages),
        "scenes": list(dict.fromkeys(stage.scene.kind for stage in wanted.stages)),
        "systems": list(dict.fromkeys(term.system.kind for term in terms)),
        "guidance": list(dict.fromkeys(term.guidance.kind for term in terms)),
        "models": sorted({model for card in cards for model, _ in card.models}),
        "world": any(card.world for card in cards),
        "steps": sum(stage.steps for stage in wanted.stages),
    }


def _wants_asset(stage: Stage) -> bool:
    """Whether it paints a mesh that somebody must give."""
    return any(bounds_of(field).file == "asset" for field in dataclasses.fields(stage.scene.settings))


@lru_cache(maxsize=64)
def form(name: str, parts: tuple[str, ...] = ()) -> tuple[Json, ...]:
    """The settings that may be changed, in the recipe's order, as the fields of a form. `parts`: rules, scenes and
    guidances instead of the recipe's own, `stages.0.scene=field`, whose settings then stand there."""
    own = open_settings(loaded(name))
    found = own if not parts else open_settings(_with_parts(name, parts))
    entries = (own[path] if each.type == PART and path in own else each for path, each in found.items())
    return tuple(_entry(each) for each in entries if each.path not in ELSEWHERE)


def _with_parts(name: str, parts: Sequence[str]) -> Recipe:
    given = {path: kind for path, _, kind in (each.partition("=") for each in parts)}
    own = open_settings(loaded(name))
    if odd := [path for path in given if path not in own or own[path].type != PART]:
        raise invalid(FieldError("parts", f"{short(odd[0], 80)!r} is no part of {name}", ",".join(parts)[:80]))
    source = find(packaged(name))
    lines = overrides(source, loaded(name).prompt, given)
    return recipe.load(source, TABLES, overrides=lines)


def _entry(each: OpenSetting) -> Json:
    """A part of a recipe is a choice too: of its kinds."""
    made = {key: value for key, value in each.plain().items() if value is not None or key == "default"}
    return made | {"type": SHOWN.get(each.type, each.type), "choices": list(each.bounds.choices or ())}

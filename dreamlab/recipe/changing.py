# SPDX-License-Identifier: Apache-2.0
"""Recipes as objects: read by name, changed by name, and as strictly checked as a command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path

from configs import DEFAULT, find
from dreamlab.core.errors import RecipeError
from dreamlab.core.schedules import Schedule
from dreamlab.core.settings import Spec
from dreamlab.recipe.bind import plain
from dreamlab.recipe.given import placed
from dreamlab.recipe.grammar import Recipe
from dreamlab.recipe.reading import dump, load
from dreamlab.recipe.tables import TABLES

# What YAML does not take, or takes for the end of a line; JSON leaves it as it is.
_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
LITERAL = ("prompt", "negative")  # words that are never read as anything else


def told(settings: Mapping[str, object]) -> list[str]:
    """Values of Python as overrides `key=value`. JSON is YAML, and text in quotes is never anything but text."""
    return [f"{key}={_yaml(key, value)}" for key, value in settings.items()]


def _yaml(key: str, value: object) -> str:
    if isinstance(value, Spec | Schedule) or (is_dataclass(value) and not isinstance(value, type)):
        value = plain(value)
    try:
        text = json.dumps(value, ensure_ascii=False, default=_simple)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{key}: {error}; give a number, a text, a list or a mapping") from None
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _simple(value: object) -> object:
    """Numbers of other libraries, and names of files."""
    if isinstance(value, Path):
        return str(value.absolute())
    if hasattr(value, "tolist"):  # numpy, torch
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no value of a recipe")


def changed(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """The recipe with other settings."""
    words = {key: changes[key] for key in LITERAL if changes.get(key) is not None}
    for key, word in words.items():
        if not isinstance(word, str):
            raise RecipeError(f"{key}: must be a text, not {word!r}")
    others = told({key: value for key, value in changes.items() if key not in LITERAL})
    return load(dump(recipe), TABLES, overrides=others, **{key: str(word) for key, word in words.items()})


def named(name_or_file: str | Path = DEFAULT, **changes: object) -> Recipe:
    """A packaged recipe by its name, or one of a file, whose own files are found from wherever it is used."""
    path = find(str(name_or_file))
    return changed(placed(load(path, TABLES), path.parent), changes)

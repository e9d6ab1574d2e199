# SPDX-License-Identifier: Apache-2.0
"""The recipes that come with the package, by name; knows them as files alone, so that a wrong name costs no import."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from dreamlab.core.errors import RecipeError
from dreamlab.core.text import did_you_mean, nearest, short

DEFAULT = "toybox"  # of `make dream`
PICTURED = "image"  # of `dream --image FILE`


def names() -> dict[str, str]:
    """Name -> the comment on the first line."""
    found = {}
    for folder, prefix in ((resources.files("configs"), ""), (resources.files("configs") / "paper", "paper/")):
        for entry in sorted(folder.iterdir(), key=lambda e: (e.name != f"{DEFAULT}.yaml", e.name)):
            if entry.name.endswith(".yaml"):
                first = entry.read_text("utf-8").splitlines()[0]
                found[prefix + entry.name.removesuffix(".yaml")] = first.lstrip("# ").strip()
    return found


def is_recipe(word: str) -> bool:
    """Whether a word is the name of a packaged recipe, or of a file that could be one."""
    return word.endswith((".yaml", ".yml")) or word in names()


def find(name_or_file: str) -> Path:
    """The path of a packaged recipe by name, or of a file by path."""
    known = names()
    if name_or_file in known:
        return Path(str(resources.files("configs") / f"{name_or_file}.yaml"))
    if is_recipe(name_or_file) or set(name_or_file) & {"/", "\\"}:
        if not Path(name_or_file).is_file():
            raise RecipeError(f"{name_or_file}: no such recipe file")
        return Path(name_or_file)
    likely = did_you_mean(name_or_file, known) if nearest(name_or_file, known) else "; see: dreamlab list recipes"
    raise RecipeError(f"recipe {short(name_or_file)!r} is not in the package{likely}")

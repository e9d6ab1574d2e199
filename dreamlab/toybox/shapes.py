# SPDX-License-Identifier: Apache-2.0
"""The table of categories, and programs of single instances."""

from __future__ import annotations

from collections.abc import Mapping

from dreamlab.toybox.category import Category, draft
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.program import Program
from dreamlab.toybox.shapes_animals import ANIMALS
from dreamlab.toybox.shapes_home import HOME
from dreamlab.toybox.shapes_nature import NATURE
from dreamlab.toybox.shapes_toys import TOYS
from dreamlab.toybox.shapes_vehicles import VEHICLES

CATEGORIES: dict[str, Category] = {c.name: c for c in (*NATURE, *ANIMALS, *HOME, *TOYS, *VEHICLES)}


def finishes(category: Category, chosen: Mapping[str, Finish | str]) -> dict[str, Finish]:
    """The finish of every part: as chosen, else the usual colour, else that of the part it follows."""
    unknown = set(chosen) - set(category.parts)
    if unknown:
        raise ValueError(
            f"a {category.name} has no part {sorted(unknown)[0]!r}; its parts are {', '.join(category.parts)}"
        )
    done: dict[str, Finish] = {}
    for part in sorted(category.parts, key=lambda name: category.parts[name] in category.parts):
        usual = category.parts[part]
        value = chosen.get(part, done[usual] if usual in category.parts else usual)
        done[part] = Finish(value) if isinstance(value, str) else value
    return {part: done[part] for part in category.parts}


def program(name: str, chosen: Mapping[str, Finish | str] | None = None, seed: int = 0) -> Program:
    """Instance `seed` of a category as a program of one object; `chosen` gives colours or finishes to parts by name."""
    category = CATEGORIES[name]
    return draft(category, seed).pack(finishes(category, chosen or {}))

# SPDX-License-Identifier: Apache-2.0
"""The recipe: what a run is made of, read once from YAML and overrides into frozen dataclasses."""

from configs import DEFAULT, find, names
from dreamlab.recipe.grammar import Export, Guard, Keeping, Recipe, Stage, Term, as_plain
from dreamlab.recipe.reading import dump, load

__all__ = ["DEFAULT", "Export", "Guard", "Keeping", "Recipe", "Stage", "Term"]
__all__ += ["as_plain", "dump", "find", "load", "names"]

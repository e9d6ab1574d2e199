# SPDX-License-Identifier: Apache-2.0
"""The recipe: what a run is made of, read once from YAML and overrides into frozen dataclasses. The package itself can
be called: `dreamlab.recipe("toybox")` reads one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from configs import DEFAULT, find, names
from dreamlab.recipe.grammar import Export, Guard, Keeping, Recipe, Stage, Term, as_plain
from dreamlab.recipe.reading import dump, load

__all__ = ["DEFAULT", "Export", "Guard", "Keeping", "Recipe", "Stage", "Term"]
__all__ += ["as_plain", "dump", "find", "load", "names"]


class _Readable(ModuleType):
    """The package, which users of Python meet as a function of the same name."""

    def __call__(self, name_or_file: str | Path = DEFAULT, **changes: object) -> Recipe:
        from dreamlab.recipe.changing import named

        return named(name_or_file, **changes)


sys.modules[__name__].__class__ = _Readable

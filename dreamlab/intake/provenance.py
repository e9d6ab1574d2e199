# SPDX-License-Identifier: Apache-2.0
"""Where an asset comes from, as it tells it itself."""

from __future__ import annotations

from dreamlab import __version__
from dreamlab.core.files import Json
from dreamlab.recipe import Recipe, as_plain


def origin_of(recipe: Recipe) -> Json:
    """What is kept in files that a run writes; nothing when they are not to tell."""
    if not recipe.export.provenance:
        return {}
    return {"prompt": recipe.prompt, "seed": recipe.seed, "recipe": as_plain(recipe), "version": __version__}

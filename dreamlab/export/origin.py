# SPDX-License-Identifier: Apache-2.0
"""Where an asset comes from, as its files tell it: enough to make it again."""

from __future__ import annotations

from dreamlab import __version__
from dreamlab.core.files import Json
from dreamlab.recipe import Recipe, as_plain

OWN = "Apache-2.0"  # of every model that lives in this package


def origin_of(recipe: Recipe, prompt: str, step: int) -> Json:
    """Prompt, seed, recipe, models with their licences, version and step; nothing if the recipe keeps it to itself."""
    if not recipe.export.provenance:
        return {}
    kinds = sorted({term.guidance.kind for stage in recipe.stages for term in stage.terms})
    return {
        "generator": "DreamLab",
        "version": __version__,
        "prompt": prompt,
        "seed": recipe.seed,
        "step": step,
        "models": [{"id": f"dreamlab/{kind}", "licence": OWN} for kind in kinds],
        "recipe": as_plain(recipe),
    }

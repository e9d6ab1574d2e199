# SPDX-License-Identifier: Apache-2.0
"""Files that a recipe names become the run's own: the picture to follow and the shapes to start from.

A run folder then needs nothing else, wherever it goes. Pictures are kept cut out and squared (`recipe.picture`), shapes
as PLY with the colours of their vertices.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.settings import value_at, with_value
from dreamlab.core.types import Framer, Prompt, Reference
from dreamlab.recipe import Recipe
from dreamlab.recipe.checks import every_card, looks
from dreamlab.recipe.picture import png_of, read_picture, reframed
from dreamlab.recipe.tables import TABLES
from renderers.surface.files import ply_bytes, read_mesh

PICTURE = "image.png"


def own_files(recipe: Recipe, beside: Path) -> tuple[Recipe, dict[str, bytes]]:
    """The recipe with names inside a run folder, and those files; relative names are looked for in `beside` first."""
    files: dict[str, bytes] = {}

    def found(name: str) -> Path:
        return beside / name if (beside / name).is_file() else Path(name)

    check_picture(recipe)
    if recipe.image.file:
        picture = read_picture(found(recipe.image.file), recipe.image)
        files[PICTURE] = png_of(fitted(recipe, picture) if recipe.image.fit and recipe.image.fill else picture)
        recipe = replace(recipe, image=replace(recipe.image, file=PICTURE, fill=0.0))
    stages = []
    for stage in recipe.stages:
        settings = stage.scene.settings
        for name, of in TABLES.scene(stage.scene).files.items():
            if of == "mesh":
                own = f"{stage.name}.ply"
                files[own] = ply_bytes(read_mesh(str(found(value_at(settings, name))), radius=None))
                settings = with_value(settings, name, own)
        stages.append(replace(stage, scene=replace(stage.scene, settings=settings)))
    return replace(recipe, stages=tuple(stages)), files


def fitted(recipe: Recipe, picture: Reference) -> Reference:
    """The picture framed as the first guidance that knows how its objects stand would have it. Twice, for what it sees
    in the better framing may be better."""
    for term, card in every_card(recipe):
        if card.frames_picture:
            guidance = TABLES.guidance[term.guidance.kind].build(term.guidance.settings, None)
            assert isinstance(guidance, Framer)
            for _ in range(2):
                framing = guidance.framing(Prompt(recipe.prompt, image=picture))
                picture = picture if framing is None else reframed(picture, framing)
            return picture
    return picture


def check_picture(recipe: Recipe) -> None:
    """A picture that nobody looks at, and a look at no picture, are both mistakes."""
    if looks(recipe) and not recipe.image.file:
        raise InputError("this recipe follows a picture: give one with --image FILE")
    if recipe.image.file and not looks(recipe):
        raise RecipeError("no term of this recipe looks at a picture: leave out --image, or use --recipe image")

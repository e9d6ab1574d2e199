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
from dreamlab.recipe.checks import cards_of, every_card, looks
from dreamlab.recipe.picture import png_of, read_picture, reframed
from dreamlab.recipe.surface_maps import depth_png, normal_png
from dreamlab.recipe.tables import TABLES
from renderers.surface.files import ply_bytes, read_mesh

PICTURE, DEPTH, NORMAL = "image.png", "image_depth.png", "image_normal.png"


def own_files(recipe: Recipe, beside: Path) -> tuple[Recipe, dict[str, bytes]]:
    """The recipe with names inside a run folder, and those files; relative names are looked for in `beside` first."""
    files: dict[str, bytes] = {}

    def found(name: str) -> Path:
        return beside / name if (beside / name).is_file() else Path(name)

    check_picture(recipe)
    if recipe.image.file:
        picture = read_picture(found(recipe.image.file), recipe.image, found)
        picture = fitted(recipe, picture) if recipe.image.fit and recipe.image.fill else picture
        files |= pictures_of(picture)
        depth, normal = (name if name in files else "" for name in (DEPTH, NORMAL))
        image = replace(recipe.image, file=PICTURE, fill=0.0, depth=depth, depth_light="far", normal=normal)
        recipe = replace(recipe, image=image)
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


def pictures_of(picture: Reference) -> dict[str, bytes]:
    """A run's copies of a picture and of the maps that came with it."""
    files = {PICTURE: png_of(picture)}
    files |= {} if picture.depth is None else {DEPTH: depth_png(picture)}
    return files | ({} if picture.normal is None else {NORMAL: normal_png(picture)})


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
    """A picture that nobody looks at, and a look at no picture or at a map that it comes without, are mistakes."""
    if looks(recipe) and not recipe.image.file:
        raise InputError("this recipe follows a picture: give one with --image FILE")
    if recipe.image.file and not looks(recipe):
        raise RecipeError("no term of this recipe looks at a picture: leave out --image, or use --recipe image")
    has = {name for name, file in (("depth", recipe.image.depth), ("normal", recipe.image.normal)) if file}
    for term in (term for stage in recipe.stages for term in stage.terms):
        guide, rule = cards_of(term)
        for name in sorted(rule.maps - has) if guide.picture and guide.views == "given" else ():
            raise InputError(
                f"{term.system.kind} compares the picture's {name}, which nobody has given: "
                f"give image.{name}=FILE, or set the term's {name} to 0"
            )

# SPDX-License-Identifier: Apache-2.0
"""Files that a recipe names become the run's own: the picture to follow, shapes and clouds to start from or to keep to,
light from all around.

A run folder then needs nothing else, wherever it goes (but for weights, whose place it remembers). Each is read as its
user will, so that what is wrong with it is said before a folder is made, by the name that the recipe has for it.
Pictures are kept cut out and squared (`recipe.picture`), shapes and clouds as PLY, assets as canvases
(`renderers.surface.canvas`), the others as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.foreign.asset import WORN, read_asset
from dreamlab.core.foreign.files import located, read_bytes
from dreamlab.core.foreign.points import MOST_FILE as MOST_POINTS
from dreamlab.core.foreign.points import read_points
from dreamlab.core.foreign.shape import CLOUDS, read_shape
from dreamlab.core.foreign.splat_parser import MOST_FILE as MOST_SPLATS
from dreamlab.core.foreign.splat_parser import holds_splats
from dreamlab.core.settings import with_files
from dreamlab.core.types import Framer, Mesh, Prompt, Reference
from dreamlab.recipe import Recipe, Term
from dreamlab.recipe.checks import cards_of, every_card, looks
from dreamlab.recipe.picture import PLAIN_WAY, png_of, read_picture, reframed
from dreamlab.recipe.surface_maps import depth_png, normal_png
from dreamlab.recipe.tables import TABLES
from renderers.gaussian.files import read_splats
from renderers.light.environment import MOST_FILE as MOST_LIGHT
from renderers.light.environment import environment
from renderers.surface.canvas import SUFFIX as CANVAS
from renderers.surface.coloured import coloured
from renderers.surface.files import cloud_bytes, ply_bytes, read_mesh
from renderers.surface.stretch import read_canvas

PICTURE, DEPTH, NORMAL = "image.png", "image_depth.png", "image_normal.png"


def placed(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every file that it names where a recipe in `folder` means it, wherever the command is called."""
    return with_files(recipe, lambda kind, name: str(located(name, folder.absolute())))


def own_files(recipe: Recipe, beside: Path) -> tuple[Recipe, dict[str, bytes]]:
    """The recipe of the folder `beside` with names inside a run folder, and those files."""
    files: dict[str, bytes] = {}
    check_picture(recipe)
    recipe = placed(recipe, beside)
    if recipe.image.file:
        picture = read_picture(Path(recipe.image.file), recipe.image)
        picture = fitted(recipe, picture) if recipe.image.fit and recipe.image.fill else picture
        files |= pictures_of(picture)
        depth, normal = (name if name in files else "" for name in (DEPTH, NORMAL))
        image = replace(recipe.image, file=PICTURE, fill=0.0, cutout=PLAIN_WAY, depth=depth, normal=normal)
        image = replace(image, depth_light="far")
        recipe = replace(recipe, image=image)
    stages = []
    for stage in recipe.stages:
        made: dict[str, str] = {}  # the same file twice is one

        def own(kind: str, name: str, stage: str = stage.name, made: dict[str, str] = made) -> str:
            if kind == "weights":
                return name
            if name not in made:
                suffix, data = kept(kind, Path(name))
                made[name] = f"{stage}{f'.{len(made) + 1}' if made else ''}{suffix}"
                files[made[name]] = data
            return made[name]

        stages.append(with_files(stage, own))
    return replace(recipe, stages=tuple(stages)), files


def pictures_of(picture: Reference) -> dict[str, bytes]:
    """A run's copies of a picture and of the maps that came with it."""
    files = {PICTURE: png_of(picture)}
    files |= {} if picture.depth is None else {DEPTH: depth_png(picture)}
    return files | ({} if picture.normal is None else {NORMAL: normal_png(picture)})


def kept(kind: str, path: Path) -> tuple[str, bytes]:
    """Suffix and bytes of a run's copy of a file."""
    if kind in ("mesh", "cloud") and (found := with_colours(path, kind)) is not None:
        return ".ply", ply_bytes(found)
    if kind == "mesh":
        return ".ply", ply_bytes(read_mesh(str(path), radius=None))
    if kind == "cloud" and holds_splats(path):
        read_splats(path)
        return path.suffix.lower(), read_bytes(path, "splats", MOST_SPLATS)
    if kind == "asset":
        return CANVAS, read_canvas(path).bytes()
    if kind == "cloud":
        shape = read_shape(path, "scene.file:", CLOUDS)
        if len(shape.faces):
            colours = torch.full(shape.vertices.shape, 0.5) if shape.colours is None else shape.colours
            bare = torch.zeros_like(colours)
            return ".ply", ply_bytes(Mesh(shape.vertices.float(), shape.faces, colours, bare))
        return ".ply", cloud_bytes(shape.vertices.float(), shape.colours)
    if kind == "points":
        read_points(path)
        return ".txt", read_bytes(path, "points", MOST_POINTS)
    environment(str(path))
    return path.suffix.lower(), read_bytes(path, "environment", MOST_LIGHT)


def with_colours(path: Path, what: str) -> Mesh | None:
    """A mesh whose format knows materials, with the colours that it shows; none for another file."""
    if path.suffix.lower() not in WORN or holds_splats(path):
        return None
    asset = read_asset(path, what if what == "mesh" else "scene.file:", bare=what == "cloud")
    return coloured(asset) if len(asset.faces) else None


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
    for where, term in terms_of(recipe):
        guide, rule = cards_of(term)
        for name in sorted(rule.maps - has) if guide.picture and guide.views == "given" else ():
            raise InputError(
                f"{where}: {term.system.kind} compares the picture's {name}, which nobody has given: give "
                f"image.{name}=FILE, or set to 0 what weighs it in {where}.system"
            )


def terms_of(recipe: Recipe) -> Iterator[tuple[str, Term]]:
    """Every term and its place in the recipe."""
    for i, stage in enumerate(recipe.stages):
        yield from ((f"stages.{i}.terms.{j}", term) for j, term in enumerate(stage.terms))

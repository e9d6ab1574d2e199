# SPDX-License-Identifier: Apache-2.0
"""How a run begins from a file of others: from the recipe in it, or with its shape as the first scene."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.foreign.asset import WORN, read_asset
from dreamlab.core.foreign.files import checked_size
from dreamlab.core.foreign.mesh_parser import MOST_FILE
from dreamlab.core.foreign.shape import CLOUDS, MESHES, read_shape
from dreamlab.core.foreign.splat_parser import holds_splats
from dreamlab.intake.provenance import lacking, recalled
from dreamlab.recipe import load
from dreamlab.recipe.tables import TABLES
from renderers.gaussian.files import SUFFIXES as SPLATS
from renderers.gaussian.files import read_splats
from renderers.gaussian.seeds import framed
from renderers.surface.stretch import RADIUS


@contextmanager
def remembered(source: Path | None, usual: Path, settings: Sequence[str], image: Path | None) -> Iterator[Path]:
    """The recipe to run: the usual one, or the one in an asset, for as long as it is read."""
    if source is None:
        yield usual
        return
    text = recalled(source)
    given = [*settings, *([] if image is None else [f"image.file={image}"])]
    if missing := lacking(text, given):
        raise InputError(
            f"{source}: its recipe names {', '.join(map(repr, missing))}, which it does not hold; give what you have "
            "in its place, as stages.0.scene.file=FILE or --image FILE"
        )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, f"{source.stem}.yaml")
        place.write_text(text, "utf-8")
        yield place


def beginnings(file: Path, recipe: Path, settings: Sequence[str]) -> list[str]:
    """Settings that let the first scene of a recipe begin as a file."""
    checked_size(file, "--init", MOST_FILE)
    stage = load(recipe, TABLES, overrides=settings).stages[0]
    kind, where = stage.scene.kind, "stages.0.scene"
    suffix, cloud = file.suffix.lower(), holds_splats(file)
    if cloud and kind != "gaussians":
        raise InputError(
            f"--init {file}: holds Gaussians, and the recipe begins with {kind}; take a recipe of gaussians"
        )
    known = sorted({*SPLATS, *CLOUDS} if kind == "gaussians" else MESHES)
    if suffix not in known:
        raise InputError(f"--init {file}: a scene of {kind} begins as one of {', '.join(known)}")
    ways: dict[str, dict[str, object]] = {
        "gaussians": {"start": "file", "file": file},
        "field": {"file": file},
        "dmtet": {"start": "mesh", "mesh": file},
        "mesh": {"asset" if _has_coordinates(file) else "file": file},
    }
    if kind not in ways:
        raise RecipeError(f"--init: a scene of {kind} cannot begin as a file; {', '.join(ways)} can")
    scale, (x, y, z) = frame_of(file)
    place = f"export.place=[{1 / scale!r}, {x!r}, {y!r}, {z!r}]"
    return [*(f"{where}.{key}={value}" for key, value in ways[kind].items()), place]


def frame_of(file: Path) -> tuple[float, list[float]]:
    """The scale and the centre by which scenes bring a file into their ball: (p - centre) scale."""
    if holds_splats(file):
        return framed(read_splats(file))
    points = read_shape(file, "--init", CLOUDS).vertices
    centre = (points.amin(0) + points.amax(0)) / 2
    return RADIUS / float((points - centre).norm(dim=-1).max()), centre.tolist()


def _has_coordinates(file: Path) -> bool:
    """Whether every triangle of a mesh has texture coordinates, so that its own material can begin there."""
    if file.suffix.lower() not in WORN:
        return False
    asset = read_asset(file, "--init")
    return bool(asset.uv[asset.faces].isfinite().all())

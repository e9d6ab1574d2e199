# SPDX-License-Identifier: Apache-2.0
"""From a scene to what writers are given, and from there to files and what is known about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dreamlab.core.bounded import Unbounded, bounded
from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.formats import missing
from dreamlab.core.text import slug
from dreamlab.core.types import Frames, Scene, Splatting
from dreamlab.export.formats import WRITERS
from dreamlab.export.levels import level_files
from dreamlab.export.motion import motion_within_bounds
from dreamlab.export.origin import origin_of
from dreamlab.export.placing import Placing, placed, placing
from dreamlab.export.presets import PRESETS, files_of
from dreamlab.export.product import Files, Product, packed
from dreamlab.export.splats.frames import FRAMES, frames_of
from dreamlab.recipe import Recipe
from dreamlab.recipe.grammar import ALL
from renderers.surface.finish import FinishSettings, finish
from renderers.surface.finish.coarser import levels

LEVELLED = ("unity", "unreal", "web")  # presets that want levels of detail
SECONDS = 300.0  # of a writer
BESIDE = "beside"  # files of no format: levels of detail, what a preset wants


@dataclass(frozen=True)
class Ready:
    """Everything there is to write of one scene."""

    product: Product  # in the file's units
    where: Placing
    steps: list[Json]  # of the surface, in turn
    health: Json
    motion: Json  # how it moves in the file, and how far that is from the scene's motion
    levels: list[Json]  # how far each level of detail is from the finest
    views: Frames  # of the scene, for the check


def make(scene: Scene, recipe: Recipe, prompt: str, step: int, formats: Sequence[str]) -> Ready:
    """The surface of a scene with its material and motion, as large and where the recipe wants it; its Gaussians at all
    moments only if one of the formats is of those."""
    s = recipe.export
    surface = finish(scene, FinishSettings(s.resolution, s.faces, s.texture, s.fit))
    mesh = surface.mesh
    motion, moves = motion_within_bounds(scene, mesh)
    where = placing(mesh, s.height, s.origin, s.place)
    coarser = levels(mesh) if s.levels or s.preset in LEVELLED else []
    made = Product(
        slug(prompt),
        mesh,
        motion,
        levels=tuple(each.mesh for each in coarser),
        splats=scene.splats() if isinstance(scene, Splatting) else None,
        frames=frames_of(scene) if {FRAMES, ALL} & set(formats) else (),
        splatting=s.splats,
        origin=origin_of(recipe, prompt, step),
    )
    return Ready(
        placed(made, where),
        where,
        surface.steps,
        surface.health,
        moves,
        [each.facts for each in coarser],
        surface.views,
    )


def asked(wanted: Sequence[str], made: Product) -> tuple[list[str], list[str]]:
    """The formats to write, and a line for each that cannot be. `all` are those that can."""
    every = ALL in wanted
    formats, lines = [], []
    for kind in WRITERS if every else dict.fromkeys(wanted):
        why = lacking(kind, made)
        if not why:
            formats.append(kind)
        elif not every:
            lines.append(f"{kind}: not written: {why}")
    return formats, lines


def lacking(kind: str, made: Product) -> str:
    """Why a format cannot be written, if it cannot."""
    if WRITERS[kind].of == "splats" and made.splats is None:
        return "the scene is not made of Gaussians (a run of the recipe toybox-gaussians ends in them)"
    if kind == FRAMES and not made.frames:
        return "the scene's Gaussians do not move"
    return missing(kind)


def written(kind: str, made: Product, preset: str) -> Files:
    """The files of a format, or what a preset leaves beside them, made in a bounded child; a zip where there are
    several."""

    def work() -> tuple[dict[str, torch.Tensor], Json]:
        files = PRESETS[preset].beside(made) if kind == BESIDE else files_of(kind, made, preset)
        arrays = {str(i): torch.frombuffer(bytearray(data), dtype=torch.uint8) for i, data in enumerate(files.values())}
        return arrays, {"names": list(files)}

    done = bounded(work, f"write {kind}", SECONDS)
    files = {name: done.tensors[str(i)].numpy().tobytes() for i, name in enumerate(done.facts["names"])}
    return files if len(files) < 2 or kind == BESIDE else files | {f"model_{kind}.zip": packed(files)}


def all_files(formats: Sequence[str], made: Product, preset: str, note: list[str]) -> dict[str, Files]:
    """By format. A writer that fails costs its own format alone; one must be there in the end. A preset's folder holds
    a zip of everything."""
    found: dict[str, Files] = {}
    nothing_beside = PRESETS[preset].beside is level_files and not made.levels and made.motion is None
    for kind in formats if nothing_beside else (*formats, BESIDE):
        try:
            found[kind] = written(kind, made, preset)
        except Unbounded as error:
            note.append(f"{kind}: not written: {error}")
    if nothing_beside:
        found[BESIDE] = {}  # what there was of an earlier step goes
    if preset != "none":
        every = {name: data for files in found.values() for name, data in files.items() if not name.endswith(".zip")}
        found[BESIDE] = {**found.get(BESIDE, {}), f"{made.name}_{preset}.zip": packed(every)}
    if not any(found.values()):
        raise InputError(f"nothing is exported: {'; '.join(note)}")
    return found

# SPDX-License-Identifier: Apache-2.0
"""From a finished scene to files: the mesh in each format, a turntable, a contact sheet, and a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from dreamlab.core.files import Json, disk_errors, write_atomic
from dreamlab.core.text import slug
from dreamlab.core.types import Maker, Mesh, Rigged, Scene
from dreamlab.export.glb import glb_bytes
from dreamlab.export.report import drop_leftovers, formats_to_write, record
from dreamlab.export.text_formats import obj_bytes, obj_companions
from dreamlab.recipe import Recipe, as_plain
from dreamlab.recipe.grammar import FORMATS
from dreamlab.run.folder import Run
from dreamlab.run.preview import orbit_views, render_views, save_between, save_preview, save_sheet, save_video
from renderers.surface.clean import open_edges, parts_of, signed_volumes
from renderers.surface.files import ply_bytes
from renderers.surface.finish import FinishSettings, finish
from renderers.surface.views import compare_mesh

SHEET_VIEWS = 12


def assets(run: Run, recipe: Recipe, scene: Scene) -> Iterable[tuple[Path, str, Scene]]:
    """Folder, prompt and scene of everything the run made, in turn: of several prompts, each has a folder."""
    texts = (recipe.prompt, *recipe.prompts)
    if not isinstance(scene, Maker) or len(texts) == 1:
        return [(run.export, recipe.prompt, scene)]
    folders = [run.export / f"{i}-{slug(text)}" for i, text in enumerate(texts)]
    return zip(folders, texts, scene.each(), strict=True)


def export_mesh(run: Run, recipe: Recipe, scene: Scene, step: int, formats: Sequence[str] | None = None) -> list[Path]:
    """Extract the surfaces as they are at a step of the run and write them; the report beside each says what it is made
    of. Files of other formats that show another step are made anew."""
    became, wanted = changes_of(run), formats or recipe.export.formats
    with disk_errors("exporting", run.export):
        made = [write_mesh(*asset, recipe, step, wanted, became) for asset in assets(run, recipe, scene)]
    return [path for paths in made for path in paths]


def write_mesh(
    folder: Path,
    prompt: str,
    scene: Scene,
    recipe: Recipe,
    step: int,
    wanted: Sequence[str],
    became: list[Json],
) -> list[Path]:
    """The surface of one scene, in a folder."""
    wanted_of = recipe.export
    made = finish(scene, FinishSettings(wanted_of.resolution, wanted_of.faces, wanted_of.texture))
    mesh = made.mesh
    name = slug(prompt)
    skin = scene.rig(mesh.vertices) if isinstance(scene, Rigged) else None
    skin = None if skin is None else skin.to("cpu")
    writers = {
        "glb": lambda: glb_bytes(mesh, name, {"dreamlab_recipe": as_plain(recipe)}, skin),
        "obj": lambda: obj_bytes(mesh, name),
        "ply": lambda: ply_bytes(mesh),
    }
    paths = []
    folder.mkdir(exist_ok=True, parents=True)
    for kind in formats_to_write(folder, wanted, step, FORMATS):
        path = folder / f"model.{kind}"
        write_atomic(path, writers[kind]())
        paths.append(path)
        for beside, data in (obj_companions(mesh, name) if kind == "obj" else {}).items():
            write_atomic(folder / beside, data)
            paths.append(folder / beside)
    changes = became + exported(scene, mesh)
    if (folder / "model.obj") in paths:
        drop_leftovers(folder, paths)
    record(folder, paths, step, mesh=mesh_report(mesh) | made.health, prompt=prompt, changes=changes, finish=made.steps)
    return paths


def export_pictures(run: Run, recipe: Recipe, scene: Scene, step: int, device: torch.device) -> list[Path]:
    """contact.png and turntable.mp4; for several prompts also a sheet of all, and what lies between them."""
    size, paths = recipe.export.size, []
    with disk_errors("writing pictures", run.export):
        for folder, _, one in assets(run, recipe, scene):
            folder.mkdir(exist_ok=True, parents=True)
            sheet, video = folder / "contact.png", folder / "turntable.mp4"
            save_sheet(list(render_views(one, orbit_views(SHEET_VIEWS), size, device)), sheet, columns=4)
            save_video(render_views(one, orbit_views(recipe.export.turntable), size, device), video, size)
            record(folder, [sheet, video], step)
            paths += [sheet, video]
        if isinstance(scene, Maker) and recipe.prompts:
            every, between = run.export / "contact.png", run.export / "between.png"
            save_preview(scene, every, device, size)
            save_between(scene, between, device, size)
            record(run.export, [every, between], step)
            paths += [every, between]
    return paths


def changes_of(run: Run) -> list[Json]:
    """What every change of representation in the run kept of the pictures before it."""
    # A stage that is rolled back says it again.
    became = {(e["stage"], e.get("object")): e for e in run.events() if e["kind"] == "became" and "stage" in e}
    keys = ("source", "was", "stage", "object", "now", "psnr", "silhouette_iou", "views")
    return [{key: event[key] for key in keys if key in event} for event in became.values()]


def exported(scene: Scene, mesh: Mesh) -> list[Json]:
    """The same of the surface that is written; textures hold a material, which the scene shows under its light."""
    if mesh.textures is not None:
        return []
    kept = compare_mesh(scene, mesh)
    return [{"now": "export", "psnr": kept.psnr, "silhouette_iou": kept.iou, "views": kept.views}]


def mesh_report(mesh: Mesh) -> Json:
    """Counts and checks that users ask for first."""
    named = mesh.vertices[mesh.faces.flatten()]
    return {
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "watertight": not bool(open_edges(mesh.faces).any()),
        "parts": 1 + int(parts_of(mesh.faces, len(mesh.vertices)).max()),
        "volume": float(signed_volumes(mesh.vertices, mesh.faces).sum()),
        "bounds": [named.amin(0).tolist(), named.amax(0).tolist()],
    }

# SPDX-License-Identifier: Apache-2.0
"""From a finished scene to files: the mesh in each format, a turntable, a contact sheet, and a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dreamlab.core.text import slug
from dreamlab.core.types import Mesh, Scene
from dreamlab.export.glb import glb_bytes
from dreamlab.export.simplify import simplify
from dreamlab.export.text_formats import obj_bytes, obj_companions, ply_bytes
from dreamlab.files import disk_errors, sha256, write_atomic, write_json
from dreamlab.preview import orbit_views, render_views, save_sheet, save_video
from dreamlab.recipe import Recipe, as_plain
from dreamlab.runs import Run
from renderers.become import compare_mesh, surface_of

SHEET_VIEWS = 12


def export_mesh(run: Run, recipe: Recipe, scene: Scene, formats: Sequence[str] | None = None) -> list[Path]:
    """Extract the surface and write it; the report says what it is made of."""
    mesh = simplify(surface_of(scene, recipe.export.resolution), recipe.export.faces)
    name = slug(recipe.prompt)
    writers = {
        "glb": lambda: glb_bytes(mesh, name, {"dreamlab_recipe": as_plain(recipe)}),
        "obj": lambda: obj_bytes(mesh, name),
        "ply": lambda: ply_bytes(mesh),
    }
    paths = []
    with disk_errors("exporting", run.export):
        run.export.mkdir(exist_ok=True)
        for kind in formats or recipe.export.formats:
            path = run.export / f"model.{kind}"
            write_atomic(path, writers[kind]())
            paths.append(path)
            for beside, data in (obj_companions(mesh, name) if kind == "obj" else {}).items():
                write_atomic(run.export / beside, data)
                paths.append(run.export / beside)
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
        report = {"mesh": mesh_report(mesh), "files": files, "prompt": recipe.prompt}
        write_json(run.export / "report.json", report | kept_report(run, scene, mesh))
    return paths


def export_pictures(run: Run, recipe: Recipe, scene: Scene, device: torch.device) -> list[Path]:
    """contact.png and turntable.mp4."""
    with disk_errors("writing pictures", run.export):
        run.export.mkdir(exist_ok=True)
        sheet, video = run.export / "contact.png", run.export / "turntable.mp4"
        size = recipe.export.size
        save_sheet(list(render_views(scene, orbit_views(SHEET_VIEWS), size, device)), sheet, columns=4)
        save_video(render_views(scene, orbit_views(recipe.export.turntable), size, device), video, size)
    return [sheet, video]


def kept_report(run: Run, scene: Scene, mesh: Mesh) -> dict[str, Any]:
    """What every change of representation in the run kept of the pictures before it, the exported surface last."""
    # A stage that is rolled back says it again.
    became = {(e["stage"], e.get("object")): e for e in run.events() if e["kind"] == "became"}
    keys = ("source", "was", "stage", "object", "now", "psnr", "silhouette_iou", "views")
    changes: list[dict[str, Any]] = [{key: event[key] for key in keys if key in event} for event in became.values()]
    if mesh.textures is None:  # textures hold a material, which the scene shows under its light
        kept = compare_mesh(scene, mesh)
        changes.append({"now": "export", "psnr": kept.psnr, "silhouette_iou": kept.iou, "views": kept.views})
    return {"changes": changes}


def mesh_report(mesh: Mesh) -> dict[str, Any]:
    """Counts and checks that users ask for first."""
    import trimesh

    shape = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    return {
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "watertight": bool(shape.is_watertight),
        "parts": int(shape.body_count),
        "volume": float(shape.volume),
        "bounds": shape.bounds.tolist(),
    }

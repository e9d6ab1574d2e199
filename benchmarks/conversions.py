# SPDX-License-Identifier: Apache-2.0
"""What every change of representation keeps: PSNR and overlap of silhouettes between before and after, over 24 views.

    python -m benchmarks.conversions [--json FILE] [--only CHANGE ...] [--images FOLDER]

Each source is a short fit of the same object of the procedural world, good enough to have a surface; what is measured
is the change, not the fit. The notes say how far before and after are from the true pictures, so that a change which
mends what the fit left open is seen, too. A user's file holds the tetrahedral surface, in each format. And the motion
of `longer-motion`, which grows in segments and closes.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import every_stage
from dreamlab import recipe
from dreamlab.core.cameras import fixed_orbit
from dreamlab.core.types import Prompt, Scene
from dreamlab.export.glb import glb_bytes
from dreamlab.export.product import Files, Product
from dreamlab.export.writers.obj import obj
from dreamlab.metrics.figures import Check, report
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.preview import save_sheet, to_bytes
from dreamlab.run.worlds import true_pictures
from renderers import SCENES
from renderers.become import become
from renderers.surface.extraction import extract
from renderers.surface.files import ply_bytes, read_mesh
from renderers.surface.views import SIZE, VIEWS, Kept, all_around, background, compare_mesh, psnr

PROMPT = "a red mushroom with a white stem"
SOURCES = {  # kind: settings, steps, views per step
    "gaussians": ("count: 2000", 200, 2),
    "field": ("bias_deviation: 0.8, step: 0.03", 200, 1),
    "dmtet": ("resolution: 40", 150, 2),
}
REGULARISERS = {"dmtet": "{sdf_sign: {from: 0.1, to: 0.02}, normal_consistency: 0.03, laplacian: 0.2}"}
MADE: dict[str, dict[str, Any]] = {
    "mesh": {"texture": 512, "faces": 8000, "unwrap": "own"},
    "dmtet": {"resolution": 48},
    "gaussians": {"count": 6000},
}
# name: source, target, what the source's surface is found by
CHANGES = {
    "field_to_dmtet": ("field", "dmtet", "density"),
    "field_to_gaussians": ("field", "gaussians", "density"),
    "field_to_mesh": ("field", "mesh", "density"),
    "field_to_mesh_by_fusion": ("field", "mesh", "fusion"),
    "gaussians_to_dmtet": ("gaussians", "dmtet", "density"),
    "gaussians_to_mesh": ("gaussians", "mesh", "density"),
    "gaussians_to_mesh_by_fusion": ("gaussians", "mesh", "fusion"),
    "dmtet_to_mesh": ("dmtet", "mesh", ""),
    "dmtet_to_gaussians": ("dmtet", "gaussians", ""),
}
FILES = ("obj", "glb", "ply")
NAMES = [*CHANGES, *(f"{suffix}_to_mesh" for suffix in FILES), "longer_motion"]


@functools.cache
def source(kind: str) -> Scene:
    """A short fit to the true pictures."""
    settings, steps, views = SOURCES[kind]
    text = f"""
prompt: {PROMPT}
stages:
  - name: fit
    scene: {{kind: {kind}, {settings}}}
    terms: [{{guidance: truth, system: {{kind: photometric, mask: 0.3}}}}]
    regularisers: {REGULARISERS.get(kind, "{}")}
    steps: {steps}
    views: {views}
    size: 64
    cameras: {{fixed: 40, elevation_deg: [-45, 75]}}
"""
    ((_, scene),) = every_stage(Assembler(recipe.load(text, TABLES), "cpu"))[0].items()
    return scene


def against_truth(scene: Scene) -> float:
    """dB."""
    cameras = all_around(VIEWS)
    shown = true_pictures(Prompt(PROMPT), 0)(cameras, SIZE)
    with torch.no_grad():
        return psnr(scene.render(cameras, SIZE, background(cameras)).rgb.clamp(0, 1), shown.over(1.0)[0])


def changed(name: str, images: Path | None) -> list[Check]:
    was, now, way = CHANGES[name]
    before = source(was)
    if way:
        before = with_way(before, way)
    target = SCENES[now](SCENES[now].Settings(**MADE[now]), torch.Generator().manual_seed(0))
    began = time.process_time()
    after, kept = become(before, target, torch.Generator().manual_seed(0))
    spent = time.process_time() - began
    assert kept is not None
    if images is not None:
        sheet(before, after, images / f"conversions-{name.replace('_', '-')}.png")
    return checks(name, kept, spent, f"truth {against_truth(before):.1f} dB before, {against_truth(after):.1f} after")


def with_way(scene: Scene, way: str) -> Scene:
    """The same scene, its surface found in another way."""
    kind = SCENES[scene.kind]
    settings = {**vars(scene.settings), "surface": way}  # type: ignore[attr-defined]
    other: Scene = kind(kind.Settings(**settings), torch.Generator().manual_seed(0))
    other.load_state_dict(scene.state_dict())
    return other


def read_back(suffix: str) -> list[Check]:
    """A file through `mesh`: what its texture shows against the file's own triangles and colours."""
    mesh = extract(source("dmtet"), 0, MADE["mesh"]["faces"])
    writers: dict[str, Callable[[], Files]] = {
        "glb": lambda: {"model.glb": glb_bytes(mesh, "model", {})},
        "obj": lambda: obj(Product("model", mesh)),
        "ply": lambda: {"model.ply": ply_bytes(mesh)},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{suffix}"
        for name, data in writers[suffix]().items():
            (path.parent / name).write_bytes(data)
        began = time.process_time()
        made = SCENES["mesh"](
            SCENES["mesh"].Settings(**MADE["mesh"], file=str(path)),
            torch.Generator().manual_seed(0),
        )
        spent = time.process_time() - began
        return checks(f"{suffix}_to_mesh", compare_mesh(made, read_mesh(str(path))), spent, f"{len(mesh.faces)} faces")


def in_segments(images: Path | None) -> list[Check]:
    """The recipe `longer-motion` to its end: what it shows at moments and from sides that nobody trained on, and how
    far the loop is from closing."""
    wanted = recipe.load(recipe.find("longer-motion"), TABLES)
    done, spent = every_stage(Assembler(wanted, "cpu"))
    cameras = fixed_orbit(wanted.stages[-1].cameras, 20, offset=0.5)
    shown = true_pictures(Prompt(wanted.prompt), wanted.seed)(cameras, 64)
    truth, white = shown.over(1.0)[0], torch.ones(20, 3)
    scene: Any = done["closed"]
    with torch.no_grad():
        rgb = scene.render(cameras, 64, white).rgb.clamp(0, 1)
        still = done["still"].render(cameras, 64, white).rgb.clamp(0, 1)
        first, last = (scene.posed(torch.tensor(t))[0] for t in (0.0, 1 - 1e-5))
        way = torch.stack([scene.posed(t)[0] for t in torch.linspace(0, 0.95, 20)])
    if images is not None:
        pairs = [each[i] for i in range(0, 20, 4) for each in (rgb, truth)]
        save_sheet([to_bytes(p[None])[0] for p in pairs], images / "conversions-longer-motion.png", columns=10)
    jump = float((last - first).norm(dim=-1).max() / (way - way[0]).norm(dim=-1).max())
    details = {"views": 20, "size": 64, "prompt": wanted.prompt, "cpu_s": round(spent, 1)}
    note = f"{psnr(still, truth):.1f} dB without motion; {spent:.0f} s CPU"
    return [
        Check("longer_motion_psnr", round(psnr(rgb, truth), 1), "dB", None, note=note, details=details),
        Check("longer_motion_jump_of_the_loop", round(100 * jump, 2), "%", None, "lower", "of the largest movement"),
    ]


def checks(name: str, kept: Kept, spent: float, note: str) -> list[Check]:
    details = {"views": kept.views, "size": SIZE, "prompt": PROMPT, "cpu_s": round(spent, 1)}
    return [
        Check(f"{name}_psnr", round(kept.psnr, 1), "dB", None, note=note, details=details),
        Check(f"{name}_silhouette_iou", round(kept.iou, 3), "", None, note=f"{spent:.1f} s CPU", details=details),
    ]


def sheet(before: Scene, after: Scene, path: Path) -> None:
    """Four views, before beside after."""
    cameras = all_around(4)
    with torch.no_grad():
        shown = [scene.render(cameras, 128, background(cameras)).rgb.clamp(0, 1) for scene in (before, after)]
    save_sheet([to_bytes(each[i : i + 1])[0] for i in range(4) for each in shown], path, columns=8)


def measure(only: list[str] | None = None, images: Path | None = None) -> list[Check]:
    found: list[Check] = []
    for name in only or NAMES:
        if name in CHANGES:
            found += changed(name, images)
        else:
            found += in_segments(images) if name == "longer_motion" else read_back(name.removesuffix("_to_mesh"))
        print(name, *(f"{check.value:g} {check.unit}" for check in found[-2:]), file=sys.stderr, flush=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversions", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=None, help="changes to measure")
    parser.add_argument("--images", type=Path, default=None, help="folder for sheets (before, after, before, ...)")
    options = parser.parse_args(arguments)
    return 0 if report(measure(options.only, options.images), options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

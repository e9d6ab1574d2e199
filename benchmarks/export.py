# SPDX-License-Identifier: Apache-2.0
"""What an export costs: in parts, and as a cloud of Gaussians and the turntable's views grow.

    python -m benchmarks.export [--json FILE] [--count N ...] [--parts [--run FOLDER]]

`parts` (`dreamlab bench export`): all that the default recipe's export does, part by part, of a cloud of 4,096
Gaussians or of what a run has made; imports are done before, as they are while a run trains. One thread; the aim is a
second.
`shell`: as large as their distance, like Gaussians that have multiplied. `wide`: with a deviation of 0.03 m however
many they are, which is what a long training leaves where nothing pulls on sizes. `splats`: a million Gaussians in every
format of Gaussians. `finish`: an isosurface of 200,000 triangles to a textured GLB of 20,000. Seconds are CPU time, of
children too.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import fitted_exponent
from dreamlab import recipe
from dreamlab.core.cameras import Cameras
from dreamlab.core.schedules import constant
from dreamlab.core.threads import one_thread
from dreamlab.core.types import Frames, Mesh, ParamGroup, Scene, Training, Triangles
from dreamlab.export import opened, warm
from dreamlab.export.check import check
from dreamlab.export.drawing import Viewed
from dreamlab.export.glb import gltf_of
from dreamlab.export.making import all_files, make
from dreamlab.export.pictures import Kept, of_file, of_scene, save_pictures, turning
from dreamlab.export.product import Product
from dreamlab.export.splats.writers import SPLAT_WRITERS
from dreamlab.metrics.figures import Check, report
from dreamlab.pipeline import finished_scene
from dreamlab.recipe import Recipe
from dreamlab.recipe.tables import TABLES
from dreamlab.run.folder import Run
from renderers.gaussians import Gaussians
from renderers.surface.draw import Surface, compose, look, vertex_normals
from renderers.surface.finish import FinishSettings, finish
from renderers.surface.isosurface import isosurface, level_set

COUNTS = (2_000, 20_000, 200_000)
FLOOR = (200_000, 10.0)  # Gaussians, and the most seconds that they may take
WIDE = 0.03  # metres
SPLATS = (1_000_000, 10.0)  # Gaussians, and the most seconds that a format of them may take
SURFACE = (200_000, 196)  # triangles of the isosurface that is finished, and cells a side that give so many
FINISHED = ((1024, 6.0), (2048, None), (4096, None))  # texels a side, and the most seconds that they may take
AIM = 1.0  # second for all parts together
PARTS = 6.0  # seconds that they may take
TURNS = (12, 24, 48, 96)  # views of a turntable
EXPONENT = 1.05
RECIPE = """
prompt: a red mushroom with a white stem
stages:
  - {name: cloud, scene: {kind: gaussians}, terms: [{guidance: truth, system: photometric}], steps: 1}
"""


def cloud(count: int, wide: bool) -> Gaussians:
    """On a ball with waves."""
    g = torch.Generator().manual_seed(1)
    out = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    radius = 0.7 * (1 + 0.15 * (12 * out[:, :1]).sin() * (5 * out[:, 1:2]).cos())
    size = WIDE if wide else 0.7 * math.sqrt(4 * math.pi / count)
    made = Gaussians(Gaussians.Settings(count=1), g)
    made.load_state_dict(
        {
            "means": radius * out,
            "log_scales": math.log(size) + 0.4 * torch.randn(count, 3, generator=g),
            "quats": torch.randn(count, 4, generator=g),
            "logit_opacity": 1.5 * torch.randn(count, generator=g),
            "logit_color": torch.randn(count, 3, generator=g),
        }
    )
    return made


def measured(count: int, wide: bool) -> Check:
    scene, wanted = cloud(count, wide), recipe.load(RECIPE, TABLES)
    began = _spent()
    size = len(gltf_of(make(scene, wanted, wanted.prompt, 0, ("glb",)).product).glb())
    spent = _spent() - began
    floor = FLOOR[1] if count == FLOOR[0] else None
    name = f"export_{'wide' if wide else 'shell'}_{count}"
    return Check(name, spent, "s", floor, "lower", f"GLB of {size / 1e6:.1f} MB")


def growth(counts: Sequence[int]) -> list[Check]:
    """Rows of `measured`, and how fast they rise: the export's cost beside the cloud's is none of it."""
    rows = []
    for wide in (False, True):
        found = [measured(count, wide) for count in counts]
        rows += found
        if len(counts) > 2:
            slope = fitted_exponent([float(n) for n in counts], [each.value for each in found])
            rows.append(Check(f"export_exponent_{'wide' if wide else 'shell'}", round(slope, 3), "", EXPONENT, "lower"))
    return rows


def parts(run: Path | None = None) -> list[Check]:
    """CPU seconds of each part, of children too; the surface's own steps as the report has them."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        scene, wanted = _made(run, Path(folder))
        warm()
        out, rows = Path(folder) / "out", []
        out.mkdir()

        def row(name: str, work: Callable[[], Any]) -> Any:
            began = _spent()
            found = work()
            rows.append(Check(f"export_{name}", round(_spent() - began, 3), "s", None, "lower"))
            return found

        ready = row("surface", lambda: make(scene, wanted, wanted.prompt, 0, ("glb",)))
        files = row("files", lambda: all_files(["glb"], ready.product, "none", []))
        for name, data in files["glb"].items():
            (out / name).write_bytes(data)
        _, view = row("read_back", lambda: opened(out, files["glb"], ready.where, scene))
        checked, _ = row("check", lambda: check(scene, view, ready.steps, ready.views))
        settings = replace(wanted.export, pictures=("sheet", "mp4", "poster"))
        row("pictures", lambda: save_pictures(out, settings, scene, view, torch.device("cpu"), {}))
        total = sum(each.value for each in rows)
        steps = [Check(f"export_surface_{step['name']}", round(step["seconds"], 3), "s", None, "lower")
                 for step in ready.steps]  # fmt: skip
        note = f"the aim is {AIM:g} s; {checked['psnr']} dB, silhouettes {checked['silhouette_iou']}"
        rows = [rows[0], *steps, *rows[1:], Check("export_all", round(total, 3), "s", PARTS, "lower", note)]
        if run is None:
            rows += _views(scene, view)
    return rows


def _made(run: Path | None, folder: Path) -> tuple[Scene, Recipe]:
    if run is None:
        return cloud(4_096, False), recipe.load(RECIPE, TABLES)
    shutil.copytree(run, folder / "run")
    wanted, scene, _ = finished_scene(Run.open(folder / "run"))
    return scene, wanted


def _views(scene: Scene, view: Viewed) -> list[Check]:
    """A turntable's pictures, without the film."""
    both = [(of_scene(scene, torch.device("cpu")), Kept()), (of_file(view), Kept())]
    taken = []
    for turns in TURNS:
        began = _spent()
        for _ in turning(both, 256, turns):
            pass
        taken.append(_spent() - began)
    slope, said = fitted_exponent([float(n) for n in TURNS], taken), ", ".join(f"{each:.2f}" for each in taken)
    return [Check("export_exponent_views", round(slope, 3), "", EXPONENT, "lower", f"s for {TURNS} views: {said}")]


def splat_file(kind: str, scene: Gaussians) -> Check:
    """From the scene to the bytes of a file."""
    began, walked = time.perf_counter(), time.process_time()
    splats = scene.splats()
    nothing = torch.zeros(0, 3)
    none = Mesh(nothing, nothing, nothing, nothing)
    ((_, data),) = SPLAT_WRITERS[kind].write(Product("cloud", none, splats=splats)).items()
    taken, spent = time.perf_counter() - began, time.process_time() - walked
    name = f"export_{kind}_{len(splats.means)}"
    return Check(name, taken, "s", SPLATS[1], "lower", f"{len(data) / 1e6:.0f} MB, {spent:.1f} s of CPU")


class Solid:
    """A wavy ball of about SURFACE[0] triangles by marching cubes, coloured by place; its pictures are of itself."""

    kind = "solid"

    def __init__(self) -> None:
        found = level_set(
            lambda p: 0.7 * (1 + 0.15 * (12 * p[:, 0]).sin() * (5 * p[:, 1]).cos()) - p.norm(dim=-1), bright,
            ((-1.0,) * 3, (1.0,) * 3), SURFACE[1], torch.device("cpu"), 0.0,
        )  # fmt: skip
        vertices, faces = isosurface(found, 0.0)
        self.mesh = Mesh(vertices, faces, bright(vertices), vertex_normals(vertices, faces))
        self.surface = Surface.of(vertices, faces)

    def groups(self) -> dict[str, ParamGroup]:
        return {"place": ParamGroup(self.mesh.vertices, constant(0.0))}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        view = look(self.surface, cameras, size)
        return compose(view, bright(view.points), view.read(self.mesh.normals), background)

    def offer(self, resolution: int) -> Triangles:
        return Triangles(self.mesh)


def bright(points: Tensor) -> Tensor:
    return 0.5 + 0.35 * torch.sin(3 * points + torch.tensor([0.0, 2.0, 4.0]))


def finished(texels: int, most: float | None) -> Check:
    """From an isosurface to the bytes of a textured GLB of 20,000 triangles. Its own pictures are the scene's cost, and
    are counted with it."""
    scene = Solid()
    began = _spent()
    made = finish(scene, FinishSettings(96, 20_000, texels))  # type: ignore[arg-type]  # all of a scene that is asked
    data = gltf_of(Product("solid", made.mesh)).glb()
    spent, last = _spent() - began, made.steps[-1]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    note = f"{len(scene.mesh.faces)} triangles, {len(data) / 1e6:.1f} MB, {last['psnr']:.1f} dB, peak {peak:.0f} MB"
    return Check(f"finish_{texels}", spent, "s", most, "lower", note)


def _spent() -> float:
    """Seconds of CPU, of children too."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="write the checks here")
    parser.add_argument("--count", type=int, nargs="+", default=list(COUNTS), help="Gaussians")
    parser.add_argument("--parts", action="store_true", help="all parts of the default recipe's export, and no more")
    parser.add_argument("--run", type=Path, default=None, help="a run whose scene is exported, with --parts")
    options = parser.parse_args(arguments)
    if options.parts:
        return 0 if report(parts(options.run), options.json) else 1
    measured(options.count[0], False)  # imports and first calls belong to no row
    checks = growth(options.count)
    million = cloud(SPLATS[0], False)
    checks += [splat_file(kind, million) for kind in SPLAT_WRITERS]
    checks += [finished(texels, most) for texels, most in FINISHED]
    return 0 if report(checks, options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""What an export costs as a cloud of Gaussians grows: from the scene to the complete mesh file.

    python -m benchmarks.export [--json FILE] [--count N ...]

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
import time
from pathlib import Path

import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.cameras import Cameras
from dreamlab.core.schedules import constant
from dreamlab.core.types import Frames, Mesh, ParamGroup, Training, Triangles
from dreamlab.export.glb import gltf_of
from dreamlab.export.making import make
from dreamlab.export.product import Product
from dreamlab.export.splats.writers import SPLAT_WRITERS
from dreamlab.metrics.figures import Check, report
from dreamlab.recipe.tables import TABLES
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


def splat_file(kind: str, scene: Gaussians) -> Check:
    """From the scene to the bytes of a file."""
    began, walked = time.perf_counter(), time.process_time()
    splats = scene.splats()
    none = Mesh(*(torch.zeros(0, 3) for _ in range(4)))
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
    options = parser.parse_args(arguments)
    measured(options.count[0], False)  # imports and first calls belong to no row
    checks = [measured(count, wide) for wide in (False, True) for count in options.count]
    million = cloud(SPLATS[0], False)
    checks += [splat_file(kind, million) for kind in SPLAT_WRITERS]
    checks += [finished(texels, most) for texels, most in FINISHED]
    return 0 if report(checks, options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

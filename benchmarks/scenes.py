# SPDX-License-Identifier: Apache-2.0
"""Every scene kind against known truth: fitted by its recipe to 40 posed pictures of an object of the procedural world
at 128 px, measured on 20 views in between; and what a step costs in time and memory by resolution and count.

    python -m benchmarks.scenes [--json FILE] [--only NAME ...] [--costs] [--images FOLDER] [--variants]

Names are kinds, and variants of kinds: a kind's recipe with some of its settings changed.

Times are process CPU seconds of this process on `threads` threads: 90 s of two idle cores are 180 of them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.training import every_stage
from dreamlab import recipe
from dreamlab.core.cameras import Cameras, fixed_orbit
from dreamlab.core.streams import derive
from dreamlab.core.types import Scene
from dreamlab.metrics.figures import Check, report
from dreamlab.metrics.geometry import chamfer, iou, shape_of_mesh, shape_of_program
from dreamlab.recipe import Recipe
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.preview import save_sheet, to_bytes
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.run.worlds import true_pictures
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.draw import Pictures
from renderers.surface.extraction import extract

HELD, SIZE, MESH = 20, 128, 64
STILL, MOVES = "a red mushroom with a white stem", "a rocking red mushroom with a white stem"
BUDGET = 180.0  # CPU seconds: 90 s on two cores


@dataclass(frozen=True)
class Fit:
    """A kind's reconstruct recipe, what it is shown, and what it must reach."""

    prompt: str
    psnr: float
    iou: float | None = None  # of the volume
    recipe: str = ""  # the kind whose recipe it is; missing: the name
    changes: tuple[str, ...] = ()  # to that recipe


FITS = {
    "gaussians": Fit(STILL, 28.0),
    "field": Fit(STILL, 28.0),
    "gaussians4d": Fit(MOVES, 25.0),
    "field4d": Fit(MOVES, 25.0),
    "dmtet": Fit(STILL, 26.0, 0.9),
    "mesh": Fit(STILL, 26.0, 0.9),
    "several": Fit("a red mushroom on a blue table", 28.0),
}

# The thresholds of growing are made for the loss of its paper.
ADAPTIVE = (
    "stages.0.scene.count=1024",
    "stages.0.scene.densify={kind: adaptive, every: 40}",
    "stages.0.terms.0.system={kind: photometric, norm: l1, rgb: 0.8, ssim: 0.2, mask: 0.1}",
)
MCMC = ("stages.0.scene.count=2048", "stages.0.scene.densify={kind: mcmc, every: 20, cap: 4096}")
EIKONAL = tuple(f"stages.{i}.regularisers.eikonal=0.1" for i in (0, 1))
VARIANTS = {
    "gaussians-adaptive": Fit(STILL, 28.0, recipe="gaussians", changes=ADAPTIVE),
    "gaussians-mcmc": Fit(STILL, 28.0, recipe="gaussians", changes=MCMC),
    "gaussians4d-mlp": Fit(MOVES, 25.0, recipe="gaussians4d", changes=("stages.0.scene.deform.kind=mlp",)),
    "gaussians4d-hexplane": Fit(MOVES, 25.0, recipe="gaussians4d", changes=("stages.0.scene.deform.kind=hexplane",)),
} | {
    f"field-{kind}": Fit(
        STILL, 28.0, recipe="field", changes=(*EIKONAL, *(f"stages.{i}.scene.density={kind}" for i in (0, 1)))
    )
    for kind in ("volsdf", "neus")
}
ALL = FITS | VARIANTS


@dataclass(frozen=True)
class Held:
    """The views nobody trained on."""

    cameras: Cameras
    truth: Pictures

    @staticmethod
    def of(wanted: Recipe, assembler: Assembler) -> Held:
        cameras = fixed_orbit(wanted.stages[-1].cameras, HELD, offset=0.5)
        return Held(cameras, true_pictures(assembler.prompts[0], wanted.seed)(cameras, SIZE))

    def pictures(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """rgb [V, H, W, 3] over white and alpha [V, H, W, 1]."""
        white = torch.ones(4, 3)
        with torch.no_grad():
            parts = [scene.render(self.cameras[i : i + 4], SIZE, white) for i in range(0, HELD, 4)]
        return torch.cat([p.rgb for p in parts]).clamp(0, 1), torch.cat([p.alpha for p in parts])


def fit(name: str, overrides: list[str]) -> tuple[Scene, Held, float, int]:
    """The scene after its recipe, the held-out views, CPU seconds and steps."""
    chosen = ALL[name]
    file = recipe.find(f"fit-{chosen.recipe or name}")
    wanted = recipe.load(file, TABLES, prompt=chosen.prompt, overrides=[*chosen.changes, *overrides])
    assembler = Assembler(wanted, "cpu")
    held = Held.of(wanted, assembler)
    finished, seconds = every_stage(assembler)
    return finished[wanted.stages[-1].name], held, seconds, sum(spec.steps for spec in wanted.stages)


def measured(name: str, images: Path | None = None, overrides: list[str] | None = None) -> list[Check]:
    """PSNR, silhouette IoU, volume IoU and Chamfer of one fit, and what the fit cost."""
    scene, held, seconds, steps = fit(name, overrides or [])
    rgb, alpha = held.pictures(scene)
    truth = held.truth.over(1.0)[0]
    psnr = float((-10 * (rgb - truth).square().mean((1, 2, 3)).log10()).mean())
    solid, true_solid = alpha > 0.5, held.truth.alpha[0] > 0.5
    silhouette = float(((solid & true_solid).sum((1, 2, 3)) / (solid | true_solid).sum((1, 2, 3))).mean())
    if images is not None:
        pairs = [picture for i in range(0, HELD, 4) for picture in (rgb[i], truth[i])]
        save_sheet([to_bytes(p[None])[0] for p in pairs], images / f"scenes-{name}.png", columns=10)
    floor = ALL[name]
    details = {"steps": steps, "prompt": floor.prompt, "views": 40, "size": SIZE, "threads": torch.get_num_threads()}
    checks = [
        Check(f"fit_{name}_psnr", round(psnr, 2), "dB", floor.psnr, details=details),
        Check(f"fit_{name}_silhouette_iou", round(silhouette, 4), "", None),
        Check(f"fit_{name}_cpu", round(seconds, 1), "s", BUDGET, "lower", f"{steps} steps"),
    ]
    if held.cameras.time is None:
        program = programs_for(parse(floor.prompt), derive(0, "instance") % 10_000)
        found, true = shape_of_mesh(extract(scene, MESH)), shape_of_program(program)
        near = chamfer(found.points, true.points)
        checks += [
            Check(f"fit_{name}_volume_iou", round(iou(found.filled, true.filled), 3), "", floor.iou),
            Check(f"fit_{name}_chamfer", round(1e3 * near, 2), "mm", None, "lower", "object radius 900 mm"),
        ]
    return checks


# ---- what a step costs ----------------------------------------------------------------------------------------------
COSTS = {
    "gaussians": [{"count": count, "size": size} for count in (1000, 4000, 16000) for size in (64, 128, 256)],
    "field": [{"size": size} for size in (64, 128, 256)],
    "dmtet": [{"resolution": cells, "size": size} for cells in (32, 64) for size in (64, 128, 256)],
    "mesh": [{"size": size} for size in (64, 128, 256)],
}


def cost(kind: str, size: int = SIZE, steps: int = 4, **settings: int) -> Check:
    """CPU milliseconds of a step of one view, and the megabytes its graph keeps for the backward pass."""
    scene = f"{{kind: {kind}{''.join(f', {key}: {value}' for key, value in settings.items())}}}"
    stage_text = (
        f"{{name: a, scene: {scene}, terms: [{{guidance: truth, system: photometric}}], views: 1, size: {size}}}"
    )
    wanted = recipe.load(f"prompt: {STILL}\nstages: [{stage_text}]\n", TABLES)
    stage, ring = Assembler(wanted, "cpu").stage(0), Ring(METRICS, 100, "cpu")
    step(stage, 0, ring)
    began = time.process_time()
    for i in range(1, steps + 1):
        step(stage, i, ring)
    spent = 1e3 * (time.process_time() - began) / steps
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(stage, steps + 1, ring)
    megabytes = sum(kept.values()) / 1e6
    name = f"step_{kind}_{''.join(f'{value}_' for value in settings.values())}{size}"
    return Check(
        name, round(spent, 1), "ms", None, "lower", f"{megabytes:.1f} MB kept", {"megabytes": round(megabytes, 2)}
    )


def measure(
    only: list[str] | None = None,
    costs: bool = True,
    images: Path | None = None,
    fits: bool = True,
    variants: bool = False,
) -> list[Check]:
    kinds = only or list(ALL if variants else FITS)
    checks = [check for kind in kinds for check in measured(kind, images)] if fits else []
    if costs:
        checks += [cost(kind, **each) for kind in kinds if kind in COSTS for each in COSTS[kind]]
    threads = torch.get_num_threads()
    return [replace(check, details={**check.details, "clock": "cpu", "threads": threads}) for check in checks]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--only", nargs="+", choices=list(ALL), default=None, help="what to measure")
    parser.add_argument("--costs", action="store_true", help="time and memory per step only")
    parser.add_argument("--no-costs", action="store_true", help="fits only")
    parser.add_argument("--variants", action="store_true", help="also the variants of the kinds")
    parser.add_argument("--images", type=Path, default=None, help="folder for contact sheets (fit, truth, fit, ...)")
    options = parser.parse_args(arguments)
    checks = measure(options.only, not options.no_costs, options.images, not options.costs, options.variants)
    return 0 if report(checks, options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

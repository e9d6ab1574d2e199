# SPDX-License-Identifier: Apache-2.0
"""One generator of several prompts beside a run of its own for each, with the same number of network calls in total.

The recipe's prompts are learnt twice: together, `steps` steps in turn, and one by one by a plain field of the same
sizes, steps / P each (--full: all of the steps each). Both are held against the very objects the oracle knows: the IoU
of the filled volumes, of the silhouettes of twelve views, and the colour's mean error where both are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from dreamlab import recipe
from dreamlab.core.errors import Diverged
from dreamlab.core.streams import derive
from dreamlab.core.types import Maker, Prompt, Scene
from dreamlab.metrics.figures import Check, report
from dreamlab.metrics.geometry import iou, shape_of_mesh, shape_of_program
from dreamlab.recipe import Recipe
from dreamlab.recipe.bind import Spec
from dreamlab.recipe.tables import TABLES
from dreamlab.run.preview import orbit_views, render_views, save_between, save_sheet, to_bytes
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.run.worlds import true_pictures
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.scoring.cells import CountingAssembler
from renderers.hash_field import FieldSettings
from renderers.surface.extraction import extract

VIEWS, SIZE, MESH = 12, 64, 64


@dataclass(frozen=True)
class Likeness:
    """An asset against a true object."""

    volume: float
    silhouette: float
    colour: float  # mean absolute error in sRGB


@dataclass(frozen=True)
class Trained:
    """Scenes, one per prompt, and what they took together."""

    scenes: tuple[Scene, ...]
    whole: Scene
    calls: int
    rows: int
    cpu_s: float

    @property
    def weights(self) -> int:
        return sum(group.tensor.numel() for group in self.whole.groups().values())


def trained(wanted: Recipe) -> Trained:
    """The recipe's first stage, as a run does it."""
    assembler = CountingAssembler(wanted, "cpu")
    began, stage = time.process_time(), assembler.stage(0)
    ring = Ring(METRICS, wanted.stages[0].steps, stage.device)
    for i in range(wanted.stages[0].steps):
        step(stage, i, ring)
    seconds = time.process_time() - began
    scenes = tuple(stage.scene.each()) if isinstance(stage.scene, Maker) else (stage.scene,)
    counted = assembler.counted.values()
    return Trained(scenes, stage.scene, sum(c.calls for c in counted), sum(c.rows for c in counted), seconds)


def alone(wanted: Recipe, text: str, full: bool) -> Recipe:
    """One of the prompts, learnt by a plain field of the same sizes with its share of the steps, or with all."""
    first = wanted.stages[0]
    sizes = {field.name: getattr(first.scene.settings, field.name) for field in fields(FieldSettings)}
    scene = Spec("field", FieldSettings(**sizes))
    share = first.steps if full else first.steps // (1 + len(wanted.prompts))
    return replace(wanted, prompt=text, prompts=(), stages=(replace(first, scene=scene, steps=share),))


def likeness(scene: Scene, text: str, seed: int) -> Likeness:
    """Against the instance that the oracle of this seed knows."""
    cameras = orbit_views(VIEWS)
    truth = true_pictures(Prompt(text), seed)(cameras, SIZE)
    with torch.no_grad():
        frames = scene.render(cameras, SIZE, torch.zeros(VIEWS, 3))
    mine, true = frames.alpha[..., 0] > 0.5, truth.alpha[0, ..., 0] > 0.5
    both = mine & true
    error = (frames.rgb - truth.rgb[0])[both].abs().mean() if both.any() else torch.tensor(1.0)
    try:
        found = shape_of_mesh(extract(scene, MESH, by_pictures=False)).filled
        volume = iou(found, shape_of_program(programs_for(parse(text), derive(seed, "instance") % 10_000)).filled)
    except Diverged:  # no surface
        volume = 0.0
    return Likeness(volume, float(both.sum() / (mine | true).sum().clamp(min=1)), float(error))


def measure(
    overrides: Sequence[str] = (), images: Path | None = None, name: str = "asd-many", full: bool = False
) -> list[Check]:
    """Train both ways, print the table, write the sheets."""
    wanted = recipe.load(recipe.find(name), TABLES, overrides=list(overrides))
    texts, seed = (wanted.prompt, *wanted.prompts), wanted.seed
    together = trained(wanted)
    apart = [trained(alone(wanted, text, full)) for text in texts]
    checks, kind = [], wanted.stages[0].terms[0].system.kind
    print(f"{kind}: together / alone: volume IoU, silhouette IoU, colour error; silhouette IoU with another prompt")
    for i, text in enumerate(texts):
        one, other = (likeness(scene, text, seed) for scene in (together.scenes[i], apart[i].scenes[0]))
        swapped = max(likeness(scene, text, seed).silhouette for j, scene in enumerate(together.scenes) if j != i)
        print(
            f"{text}: {one.volume:.2f} / {other.volume:.2f}, {one.silhouette:.2f} / {other.silhouette:.2f}, "
            f"{one.colour:.3f} / {other.colour:.3f}; {swapped:.2f}"
        )
        checks.append(Check(f"{kind}_volume_iou.{i}", round(one.volume, 3), "", None, details={"prompt": text}))
        checks.append(Check(f"{kind}_volume_iou_alone.{i}", round(other.volume, 3), "", None))
        checks.append(Check(f"{kind}_margin.{i}", round(one.silhouette - swapped, 3), "", 0.0))
    costs = {"together": [together], "alone": apart}
    for how, runs in costs.items():
        calls, rows, weights = (sum(getattr(run, what) for run in runs) for what in ("calls", "rows", "weights"))
        seconds = sum(run.cpu_s for run in runs)
        print(f"{how}: {calls} network calls, {rows} pictures, {weights} weights, {seconds:.0f} CPU s")
        checks.append(Check(f"{kind}_cpu_{how}", round(seconds, 1), "s", None, "lower", f"{calls} calls, {rows} rows"))
    if images is not None:
        sheets(together, apart, texts, seed, images, f"amortised-{kind}")
    return checks


def sheets(
    together: Trained, apart: Sequence[Trained], texts: Sequence[str], seed: int, images: Path, name: str
) -> None:
    """A row per prompt: four views together, alone, true; and the way from prompt to prompt."""
    cameras, device, tiles = orbit_views(4), torch.device("cpu"), []
    for i, text in enumerate(texts):
        for scene in (together.scenes[i], apart[i].scenes[0]):
            tiles += list(render_views(scene, cameras, SIZE, device))
        tiles += list(to_bytes(true_pictures(Prompt(text), seed)(cameras, SIZE).over(1.0)[0]))
    save_sheet(tiles, images / f"{name}.png", columns=12)
    assert isinstance(together.whole, Maker)
    save_between(together.whole, images / f"{name}-between.png", device, 96)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.amortised", description=__doc__)
    parser.add_argument("--recipe", default="asd-many")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="recipe settings")
    parser.add_argument("--full", action="store_true", help="the runs alone are as long as the one together")
    parser.add_argument("--images", type=Path, default=None, help="folder for the sheets")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    return 0 if report(measure(given.set, given.images, given.recipe, given.full), given.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

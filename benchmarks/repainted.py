# SPDX-License-Identifier: Apache-2.0
"""The colours of sides that a picture does not show, where they are known: the world's own objects in colours that have
no name, seen by the recipe `image` from one side.

    python -m benchmarks.repainted --runs FOLDER [--set SETTING]... [--json F] [--sheet F]

Of each object all colours go through one random affine map (`dreamlab.toybox.training.style`), so that its back has
the colours of its front and no others. The run is told kind and side: only colours are in question. Printed of each:
*wrong*, the OKLab distance (lightness counts half) of the result to the true object, pixel for pixel where both are,
from azimuths 105 to 255 off the picture's; and *off* and *lacking* as of strangers' pictures (`benchmarks.strangers`).
Runs that FOLDER holds already are measured, the others made first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.strangers import SHOWN, UNSEEN, Colours, colours_of, finished, labs, turned
from configs import find
from dreamlab import pipeline
from dreamlab.core.cameras import orbit
from dreamlab.core.threads import one_thread
from dreamlab.metrics.asset import Made
from dreamlab.metrics.crispness import pictured
from dreamlab.metrics.figures import Check, report
from dreamlab.recipe.picture import read_picture
from dreamlab.run.folder import Run
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import Program
from dreamlab.toybox.training.style import repainted

OBJECTS = (  # words, the azimuth that the picture is taken from, and the colours' seed
    ("a gray house with a red roof", 30.0, 0),  # lilac, magenta
    ("a white duck with an orange beak", 40.0, 4),  # sage
    ("a red car with black wheels", -35.0, 7),  # magenta, teal windows
    ("a green cactus with a brown pot", -20.0, 6),  # slate blue
)
ELEVATION, DISTANCE, FOVY_DEG = 20.0, 3.2, 42.0  # of the picture's camera, as the recipe has it
SIZE, COMPARED = 256, 128  # pixels a side of the pictures that are given, and of those that are compared


def object_of(index: int) -> Program:
    words, _, seed = OBJECTS[index]
    return repainted(programs_for(parse(words), 900), torch.Generator().manual_seed(seed))


def made(index: int, runs: Path, settings: Sequence[str]) -> Run:
    """The newest finished run of an object."""
    words, side, _ = OBJECTS[index]
    kind = parse(words).category
    place = runs / kind.replace(" ", "-")
    if (run := finished(place)) is not None:
        return run
    from PIL import Image

    shown = draw(object_of(index), orbit([side], ELEVATION, DISTANCE, FOVY_DEG), SIZE)
    rgba = torch.cat([shown.rgb[0, 0] / shown.alpha[0, 0].clamp(min=1e-3), shown.alpha[0, 0]], -1)
    with tempfile.TemporaryDirectory() as own:
        file = Path(own) / "picture.png"
        Image.fromarray((rgba.clamp(0, 1) * 255).round().byte().numpy(), "RGBA").save(file)
        said = [f"image.kind={kind}", f"image.side_deg={side}", "image.fill=0", *settings]
        run = pipeline.create(None, find("image"), place, said, None, ["bench"], file)
    pipeline.execute(run)
    return run


def views(index: int, run: Run, angles: Sequence[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colour over white and alpha of the result and of the true object, from as far around the picture's camera."""
    wanted, scene, _ = pipeline.finished_scene(run)
    camera = read_picture(run.path / wanted.image.file, replace(wanted.image, file="", fill=0.0)).camera
    mine = pictured(Made(scene), turned(camera, angles), COMPARED)
    side = OBJECTS[index][1]
    true = draw(object_of(index), orbit([side + angle for angle in angles], ELEVATION, DISTANCE, FOVY_DEG), COMPARED)
    return *mine, true.over(1.0)[0], true.alpha[0]


def wrong(index: int, run: Run) -> float:
    rgb, alpha, true_rgb, true_alpha = views(index, run, UNSEEN)
    both = (alpha[..., 0] > 0.9) & (true_alpha[..., 0] > 0.9)
    return float((labs(rgb[both]) - labs(true_rgb[both])).norm(dim=-1).mean())


def sheet(path: Path, runs: Sequence[Run]) -> None:
    """Two rows an object: true from six sides, the given one first, and the result."""
    from PIL import Image

    rows = []
    for index, run in enumerate(runs):
        rgb, _, true, _ = views(index, run, SHOWN)
        rows += [torch.cat([*true], 1), torch.cat([*rgb], 1)]
    half = len(rows) // 2
    board = torch.cat([torch.cat(rows[:half]), torch.cat(rows[half:])], 1).clamp(0, 1)
    picture = Image.fromarray((board * 255).round().byte().numpy())
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repainted", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe, as on the command line")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    with one_thread():
        runs = [made(index, given.runs, given.set) for index in range(len(OBJECTS))]
        names = [parse(words).category for words, _, _ in OBJECTS]
        far = {name: wrong(index, run) for index, (name, run) in enumerate(zip(names, runs, strict=True))}
        found: dict[str, Colours] = {name: colours_of(run) for name, run in zip(names, runs, strict=True)}
        columns = {
            "wrong": far,
            "off": {name: one.off for name, one in found.items()},
            "lacking": {name: one.lacking for name, one in found.items()},
        }
        checks = [
            Check(what, round(sum(each.values()) / len(each), 4), "", None, "lower", details=each)
            for what, each in columns.items()
        ]
        for name in names:
            print(f"{name:<10}", *(f"{what} {each[name]:.4f}" for what, each in columns.items()), flush=True)
        if given.sheet:
            sheet(given.sheet, runs)
        report(checks, given.json)


if __name__ == "__main__":
    main()

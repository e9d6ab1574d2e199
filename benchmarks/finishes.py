# SPDX-License-Identifier: Apache-2.0
"""What surfaces are made of: shown by pictures, recovered from them. `python -m benchmarks.finishes --out FOLDER`.

judge   a picture's material is that of the three true ones it is nearest to; on true pictures of other instances, and
        on what the prior draws of the same words
light   whole runs of `fit-materials` (posed true pictures), held against the truth texel by texel
before  the same without the search for materials: what the highlights leave in the base colour
words   whole runs of the default recipe, held against the exact world's object at the nearest surface
Beside every error stands that of a constant 0.8 and 0.0, what a surface has of which nothing is known. Runs that are in
the folder already are measured again, not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.several import made
from cuda_ext import sdf_layout as layout
from dreamlab.core.cameras import turntable
from dreamlab.core.files import Json, write_json
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.streams import derive
from dreamlab.core.types import Prompt, Textures
from dreamlab.pipeline import finished_scene
from dreamlab.run.folder import Run
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.colours import MATERIALS
from dreamlab.toybox.mesh import paint
from dreamlab.toybox.program import Program
from dreamlab.toybox.training.sample import ancestral, scene_of
from guidance.toybox.roles import ToyboxViews
from renderers.mesh import TexturedMesh
from renderers.surface.bake import texels

SHOWN = ("red teapot", "yellow duck", "blue ball", "purple mug", "gray key", "orange cube", "white bell", "green car")
SHOWN += ("cyan bottle", "brown guitar", "pink pig", "black hat")
FITTED = (
    *("a red teapot with a glossy blue lid", "a metal yellow duck", "a blue ball", "a metal red teapot"),
    *("a glossy green car", "a white mug with a metal handle"),
)
WORDED = (
    *("a shiny metal teapot", "a matte rubber duck", "a purple mug with a glossy white handle", "a metal white bell"),
    *("a green car with metal red wheels", "a glossy orange cube", "a blue metal robot with yellow arms"),
    *("a shiny cyan bottle with a black cap", "a yellow mushroom with a red stem", "a gray castle with orange roofs"),
    *("a black guitar with a pink neck", "a brown boat with a cyan sail"),
)
USUAL = (0.8, 0.0)
SIZE = 64


def said(thing: str, material: str) -> str:
    return f"a {'' if material == 'matte' else material + ' '}{thing}"


def nearest(picture: Tensor, truths: dict[str, Tensor], alpha: Tensor) -> str:
    """Which of the true materials a picture [B, H, W, 3] is nearest to where the object is, in linear light."""
    light = srgb_to_linear(picture.clamp(0, 1))
    errors = {name: ((light - srgb_to_linear(truth)).square() * alpha).sum() for name, truth in truths.items()}
    return min(errors, key=lambda name: float(errors[name]))


def judge() -> Json:
    """Share of pictures that are judged to be of the material that was asked for: true ones, and the prior's."""
    cameras, prior = turntable(4, 20.0, 3.2, 42.0), ToyboxViews(ToyboxViews.Settings())
    right: dict[str, dict[str, list[str]]] = {who: {name: [] for name in MATERIALS} for who in ("truth", "prior")}
    for i, thing in enumerate(SHOWN):
        scenes = {name: scene_of(said(thing, name), cameras, SIZE)[0] for name in MATERIALS}
        truths = {name: frames.rgb for name, frames in scenes.items()}
        for name, frames in scenes.items():
            other = scene_of(said(thing, name), cameras, SIZE, instance=1 + i)[0]
            both = frames.alpha * other.alpha
            right["truth"][name].append(nearest(other.rgb, truths, both))
            told = prior.condition(Prompt(said(thing, name)), cameras, frames)
            drawn = ancestral(prior, told["text"], told["null"], len(cameras), 4.0, 15, i)
            right["prior"][name].append(nearest(drawn, truths, frames.alpha))
    return {
        who: {name: {m: calls.count(m) for m in MATERIALS} for name, calls in rows.items()}
        for who, rows in right.items()
    }


def against(run: Run) -> Json:
    """Errors of a run's material, over its surface."""
    recipe, scene, _ = finished_scene(run)
    assert isinstance(scene, TexturedMesh)
    at, found = texels(scene.atlas, scene.settings.texture), scene.textures()
    points = at.read(scene.surface.vertices, scene.surface.faces)
    instance = derive(recipe.seed, "instance") % 10_000  # that of `true_pictures`; to the prior all are alike
    base, finish = truth_at(programs_for(parse(recipe.prompt), instance), points)
    mine = {name: picture_at(found, name, at.hit) for name in ("base", "roughness", "metallic")}
    rows: Json = {"prompt": recipe.prompt, "base": error(mine["base"], base)}
    for i, name in enumerate(("roughness", "metallic")):
        rows[name] = error(mine[name], finish[:, i : i + 1])
        rows[f"{name}_constant"] = error(torch.full_like(mine[name], USUAL[i]), finish[:, i : i + 1])
        rows[f"{name}_mean"] = [float(mine[name].mean()), float(finish[:, i].mean())]
    return rows


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def picture_at(found: Textures, name: str, hit: Tensor) -> Tensor:
    picture: Tensor = getattr(found, name)
    return picture.flatten(0, 1)[hit]


def truth_at(program: Program, points: Tensor) -> tuple[Tensor, Tensor]:
    """Base colour [M, 3] sRGB, roughness and metallic [M, 2] of the part that is nearest to each point."""
    colour, part = paint(program, points)
    return colour, program.parts[0, part][:, [layout.ROUGHNESS, layout.METALLIC]]


def runs(prompts: tuple[str, ...], out: Path, recipe: str, **settings: str) -> list[Json]:
    rows = []
    for prompt in prompts:
        rows.append(against(made(prompt, out, {"recipe": recipe, **settings})[0]))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", choices=("judge", "light", "before", "words"))
    given = parser.parse_args()
    parts = {
        "judge": judge,
        "light": lambda: runs(FITTED, given.out / "light", "fit-materials"),
        "before": lambda: runs(FITTED, given.out / "before", "fit-materials", **{"stages.1.materials.by": "none"}),
        "words": lambda: runs(WORDED, given.out / "words", "toybox"),
    }
    found = {name: part() for name, part in parts.items() if given.only in (None, name)}
    print(json.dumps(found.get("judge"), indent=1))
    if given.json is not None:
        write_json(given.json, found)


if __name__ == "__main__":
    main()

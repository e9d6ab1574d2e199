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
from cuda_ext.texture import texture
from dreamlab.core.cameras import orbit, turntable
from dreamlab.core.files import Json, write_json
from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.core.streams import derive
from dreamlab.core.types import PLAIN, Prompt, Textures
from dreamlab.export.readback import read_back
from dreamlab.pipeline import finished_scene
from dreamlab.run.folder import Run
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.colours import MATERIALS
from dreamlab.toybox.mesh import paint
from dreamlab.toybox.program import Program
from dreamlab.toybox.training.sample import ancestral, scene_of
from guidance.toybox.roles import ToyboxViews
from renderers.light.environment import environment
from renderers.light.pbr import Material
from renderers.light.split_sum import Lighting, shade
from renderers.mesh import TexturedMesh
from renderers.surface.bake import texels
from renderers.surface.draw import Surface, compose, look

SHOWN = ("red teapot", "yellow duck", "blue ball", "purple mug", "gray key", "orange cube", "white bell", "green car")
SHOWN += ("cyan bottle", "brown guitar", "pink pig", "black hat")
FITTED = (
    *("a red teapot with a glossy blue lid", "a metal yellow duck", "a blue ball", "a metal red teapot"),
    *("a glossy green car", "a white mug with a metal handle"),
)
WORDED = (
    *("a shiny metal teapot", "a matte rubber duck", "a purple mug with a glossy white handle", "a metal white bell"),
    *("a green car with metal red wheels", "a glossy orange cube", "a blue metal robot with yellow arms"),
    *("a shiny cyan bottle with a black cap", "a yellow mushroom with a red stem"),
)
SIZE = 64
TILE, LABEL, COLUMNS, RADIUS = 180, 16, 3, 0.9  # of the sheet


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
        rows[f"{name}_constant"] = error(torch.full_like(mine[name], PLAIN[i]), finish[:, i : i + 1])
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


def sheet(folder: Path, path: Path) -> None:
    """The files of all runs in a folder, read again by trimesh, under the environment `studio`, from two sides."""
    from PIL import Image, ImageDraw

    light, tiles, names = Lighting.of([environment("studio")]), [], []
    for state in sorted(folder.glob("*/state.json")):
        run = Run.open(state.parent)
        made, cameras = read_back(run.export / "model.glb"), orbit([25.0, -130.0], [20.0, 30.0], 3.2, 42.0)
        maps, uv = made.textures, made.uv
        assert maps is not None and uv is not None
        centre = (made.vertices.amax(0) + made.vertices.amin(0)) / 2
        place = made.vertices - centre
        view = look(Surface.of(RADIUS * place / place.norm(dim=-1).max(), made.faces), cameras, TILE)
        at, slope = view.texture_coordinates(uv, made.faces)
        packed = torch.cat([maps.base, maps.roughness, maps.metallic], -1)
        read = texture(packed, at[None, None], uv_dxy=slope[None, None], boundary="clamp", max_level=4)[0, 0]
        normal = torch.nn.functional.normalize(view.read(made.normals), dim=-1)
        material = Material(srgb_to_linear(read[:, :3]), read[:, 3:4], read[:, 4:])
        first = torch.zeros(len(normal), dtype=torch.long)
        shown = linear_to_srgb(shade(light, material, normal, view.to_eye(view.points), first).clamp(0, 1))
        tiles.append(torch.cat(list(compose(view, shown, normal, torch.ones(2, 3)).rgb.clamp(0, 1)), 1))
        names.append(run.spec()["prompt"])
    rows = -(-len(tiles) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * 2 * TILE, rows * (TILE + LABEL)), "white")
    pen = ImageDraw.Draw(page)
    for i, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        left, top = i % COLUMNS * 2 * TILE, i // COLUMNS * (TILE + LABEL)
        pen.text((left + 4, top + 2), name, fill="black")
        page.paste(Image.fromarray((tile * 255).round().byte().numpy()), (left, top + LABEL))
    page.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", choices=("judge", "light", "before", "words"))
    parser.add_argument("--sheet", type=Path, help="a PNG of the files made by words")
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
    if given.sheet is not None:
        sheet(given.out / "words", given.sheet)


if __name__ == "__main__":
    main()

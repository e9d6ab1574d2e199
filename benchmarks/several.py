# SPDX-License-Identifier: Apache-2.0
"""Whether prompts of several objects come as they are asked: `python -m benchmarks.several --prompts 6 --out FOLDER`.

Pairs of objects in a relation that training never saw, in colours that it never saw on them; the relations take turns.
`--counted`: the prompts of `COUNTED` instead, with numbers and with the other relations. Every prompt is made as a user
makes it. Then each object is judged in its own frame by the scoreboard's yardstick (kind, colours, IoU), and relations
and numbers by cameras at the whole scene: where the pixels of each object are, seen from the front, from the right and
from above. The exact world's scene of the same words is beside it. What is made already is judged again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from dreamlab import dream, pipeline
from dreamlab.core.cameras import orbit
from dreamlab.core.types import Mesh
from dreamlab.metrics.asset import Made, Solid, judging_cameras
from dreamlab.metrics.geometry import RESOLUTION
from dreamlab.metrics.judge import views_of
from dreamlab.metrics.measure import Figures, Yardstick
from dreamlab.run.folder import Run
from dreamlab.toybox.caption import parse
from dreamlab.toybox.grammar import article
from dreamlab.toybox.layout import Thing, things
from dreamlab.toybox.places import UPRIGHT, placed, places
from dreamlab.toybox.program import Program
from dreamlab.toybox.scene import join
from dreamlab.toybox.shapes import CATEGORIES, program
from dreamlab.toybox.split import RELATION, fraction
from dreamlab.toybox.training.sample import held_out_prompts
from renderers.compose import Several
from renderers.surface.views import silhouette_iou

FLAT = ("table", "bed", "cube", "gift", "book", "drum")  # things stand on these
RELATIONS = ("on", "next to", "left of", "right of", "in front of", "behind")  # of the pairs
COUNTED = {  # and how many objects there must be
    "two yellow ducks": 2,
    "three red mushrooms beside a green house": 4,
    "a yellow duck under a blue table": 2,
    "a duck between two red houses": 3,
    "a red flower in a blue mug": 2,
    "two mugs on a brown table": 3,
    "a blue bird above a brown chair": 2,
    "two white rabbits and an orange carrot": 3,
}
SEEN = 40  # pixels of an object that counts
SUNK = 0.05  # metres of what is in something, below the brim, at least
SIZE = 128
NEAR = 0.12  # metres between what stands on something and that, at most


@dataclass(frozen=True)
class Obeyed:
    """One prompt, and what came of it."""

    prompt: str
    count: bool  # as many objects are seen as were asked for
    kinds: tuple[bool, ...]  # of each object that was made: the judge accepts it as what it is
    colours: tuple[bool, ...]  # of those that the words name
    iou: tuple[float, ...]
    relation: bool
    silhouettes: float  # IoU with the exact world's scene
    sunk: float  # metres in which the surfaces that were made are in each other, at most
    seconds: float  # of CPU; 0: it was there

    @property
    def right(self) -> bool:
        return self.count and all(self.kinds) and all(self.colours) and self.relation


def asked(count: int) -> Iterator[str]:
    """So many prompts; no kind of object twice while there are others."""
    used: set[str] = set()
    for i in range(count):
        relation = RELATIONS[i % len(RELATIONS)]
        grounds = FLAT if relation == "on" else tuple(CATEGORIES)
        pairs = [(a, b) for a in CATEGORIES for b in grounds if a != b and not {a, b} & used]
        held = [(fraction("relation", a, relation, b), a, b) for a, b in pairs]
        _, first, second = min(each for each in held if each[0] < RELATION)
        used = (used | {first, second}) if len(used) < len(CATEGORIES) - 8 else set()
        one, other = held_out_prompts([first, second])
        yield f"{article(one)} {relation} {article(other)}"


def made(prompt: str, out: Path, settings: dict[str, object]) -> tuple[Run, float]:
    """The run of a prompt, and what it cost now."""
    for folder in sorted(out.glob("*/state.json")):
        run = Run.open(folder.parent)
        if run.spec().get("prompt") == prompt and run.state().get("state") == "succeeded":
            return run, 0.0
    began = time.process_time()
    path = dream(prompt, out=out, progress=False, **settings).path
    return Run.open(path), time.process_time() - began


def obeyed(prompt: str, count: int, run: Run, seconds: float) -> Obeyed:
    scene, objects = pipeline.finished_scene(run)[1], things(prompt)
    assert isinstance(scene, Several) and len(scene.names) == len(objects), "the recipe makes one object"
    figures = [Yardstick(text).measure(Made(one))[0] for _, one, text in scene.told]
    cameras, shown = judging_cameras(), Shown.of(scene)
    return Obeyed(
        prompt,
        shown.count == count,
        tuple(one.accepted for one in figures),
        tuple(named_right(one, text) for one, (_, _, text) in zip(figures, scene.told, strict=True)),
        tuple(round(one.iou, 3) for one in figures),
        all(related(shown, i, objects) for i in range(len(objects))),
        round(silhouette_iou(views_of(Made(scene), cameras)[1], views_of(Solid(truth(objects)), cameras)[1]), 3),
        round(max(depth(a, b) for a, b in itertools.permutations(shown.surfaces, 2)), 3),
        round(seconds, 1),
    )


def named_right(found: Figures, text: str) -> bool:
    """Whether the first two parts of an object have the colours that its words give them, where they give them any."""
    caption = parse(text)
    parts = CATEGORIES[caption.category].nameable[:2]
    pairs = zip(parts, (found.main_right, found.second_right), strict=False)
    return all(right is not False for part, right in pairs if part in caption.finishes)


def truth(objects: tuple[Thing, ...]) -> Program:
    """The exact world's scene of the same words."""
    bodies = [program(one.category, parse(one.text).finishes) for one in objects]
    return functools.reduce(join, [placed(one, at) for one, at in zip(bodies, places(objects), strict=True)])


@dataclass(frozen=True)
class Shown:
    """Where the pixels of each object are [S, S, objects], from the front (x to the right), from the right (-z to the
    right), and from above (x to the right, z down); and the surface of each."""

    front: Tensor
    right: Tensor
    above: Tensor
    surfaces: tuple[Mesh, ...]

    @staticmethod
    def of(scene: Several) -> Shown:
        cameras = orbit([0.0, 90.0, 0.0], [0.0, 0.0, 89.0], 3.2, 42.0)
        with torch.no_grad():
            masks = scene.render(cameras, SIZE, torch.zeros(3, 3)).extra["masks"] > 0.5
        surfaces = []
        for name, at in scene.settings.objects.items():
            own = Made(scene.members[name]).mesh(RESOLUTION)
            surfaces.append(replace(own, vertices=at.scale * own.vertices + torch.tensor(at.position)))
        return Shown(masks[0], masks[1], masks[2], tuple(surfaces))

    @property
    def count(self) -> int:
        most = torch.stack([mask.sum((0, 1)) for mask in (self.front, self.right, self.above)]).amax(0)
        return int((most > SEEN).sum())


def related(shown: Shown, i: int, objects: tuple[Thing, ...]) -> bool:
    """Whether an object stands as it is told; one that is like another, as that one does, and beside its neighbour."""
    one = objects[i]
    if one.like is None:
        return one.to is None or stands(shown, i, one.relation, one.to)
    first = objects[one.like]
    carried = first.to is None or first.relation not in UPRIGHT or stands(shown, i, first.relation, first.to)
    return carried and stands(shown, i, "right of", i - 1)


def stands(shown: Shown, i: int, relation: str, to: int) -> bool:
    mask = shown.right if relation in ("in front of", "behind") else shown.front
    (low, high), (ground_low, ground_high) = (extent(mask[..., k]) for k in (i, to))
    metre = SIZE / (2 * 3.2 * 0.3839)  # pixels, at the orbit's centre
    over = bool(ground_low[1] < (low[1] + high[1]) / 2 < ground_high[1])
    floor = bool(abs(float(high[0] - ground_high[0])) < NEAR * metre)
    if relation == "on":  # rows grow downwards
        return over and abs(float(high[0] - ground_low[0])) < NEAR * metre
    if relation == "above":
        return over and float(high[0]) < float(ground_low[0])
    if relation == "under":
        return over and floor and float(low[0]) > float(ground_low[0])
    if relation == "in":  # a part of it is below the brim, all of it above the foot
        top, bottom = extent(shown.above[..., i])
        (ground_top, ground_bottom), middle = extent(shown.above[..., to]), (top + bottom) / 2
        held = bool((middle > ground_top).all() and (middle < ground_bottom).all())
        mine, ground = (shown.surfaces[k].vertices[:, 1] for k in (i, to))
        return held and bool(ground.min() < mine.min() < ground.max() - SUNK)
    before = (low[1] + high[1]) < (ground_low[1] + ground_high[1])
    apart = bool(high[1] <= ground_low[1] + 3 or ground_high[1] <= low[1] + 3)
    return apart and floor and (relation == "next to" or bool(before) == (relation in ("left of", "in front of")))


def depth(one: Mesh, other: Mesh) -> float:
    """How far the corners of one surface are in another, at most: behind the nearest corner of that, by its normal."""
    low, high = other.vertices.amin(0), other.vertices.amax(0)
    within = one.vertices[((one.vertices > low) & (one.vertices < high)).all(1)]
    deepest = 0.0
    for some in within.split(1000) if len(within) else ():
        way, nearest = torch.cdist(some, other.vertices).min(1)
        behind = ((some - other.vertices[nearest]) * other.normals[nearest]).sum(1) < 0
        deepest = max(deepest, float((way * behind).amax()))
    return deepest


def extent(mask: Tensor) -> tuple[Tensor, Tensor]:
    """First and last (row, column) of a mask."""
    places = mask.nonzero()
    return (places.amin(0), places.amax(0)) if len(places) else (torch.zeros(2), torch.zeros(2))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--prompts", type=int, default=6)
    options.add_argument("--counted", action="store_true", help="those with numbers and other relations")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--recipe", default="toybox")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    rows = []
    for prompt, count in COUNTED.items() if given.counted else ((prompt, 2) for prompt in asked(given.prompts)):
        run, seconds = made(prompt, given.out, {"recipe": given.recipe})
        rows.append(obeyed(prompt, count, run, seconds))
        print(rows[-1], flush=True)
    share = {
        "prompts": len(rows),
        "all of it": sum(row.right for row in rows) / len(rows),
        "count": sum(row.count for row in rows) / len(rows),
        "kinds": mean([each for row in rows for each in row.kinds]),
        "colours": mean([each for row in rows for each in row.colours]),
        "relation": sum(row.relation for row in rows) / len(rows),
        "silhouettes": sum(row.silhouettes for row in rows) / len(rows),
    }
    print(json.dumps(share, indent=1))
    if given.json:
        given.json.write_text(json.dumps({"recipe": given.recipe, **share, "rows": [*map(asdict, rows)]}, indent=1))


if __name__ == "__main__":
    main()

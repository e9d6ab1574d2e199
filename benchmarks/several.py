# SPDX-License-Identifier: Apache-2.0
"""Whether prompts of two objects come as they are asked: `python -m benchmarks.several --prompts 6 --out FOLDER`.

Pairs of objects in a relation that training never saw, in colours that it never saw on them; the relations take turns.
Every prompt is made as a user makes it. Then each object is judged in its own frame by the scoreboard's yardstick
(kind, colours, IoU), and the relation by cameras at the whole scene: where the pixels of each object are, seen from the
front and from the right. The exact world's scene of the same words is beside it. What is made already is judged again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlab import dream, pipeline
from dreamlab.core.cameras import orbit
from dreamlab.metrics.asset import Made, Solid, judging_cameras
from dreamlab.metrics.judge import views_of
from dreamlab.metrics.measure import Yardstick
from dreamlab.run.folder import Run
from dreamlab.toybox.caption import RELATIONS, parse, programs_for
from dreamlab.toybox.grammar import article
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.split import RELATION, fraction
from dreamlab.toybox.training.sample import held_out_prompts
from renderers.compose import Several
from renderers.surface.views import silhouette_iou

FLAT = ("table", "bed", "cube", "gift", "book", "drum")  # things stand on these
SIZE = 128
NEAR = 0.12  # metres between what stands on something and that, at most


@dataclass(frozen=True)
class Obeyed:
    """One prompt, and what came of it."""

    prompt: str
    kinds: tuple[bool, ...]  # of each object: the judge accepts it as what it is
    colours: tuple[bool, ...]
    iou: tuple[float, ...]
    relation: bool
    silhouettes: float  # IoU with the exact world's scene
    seconds: float  # of CPU; 0: it was there

    @property
    def right(self) -> bool:
        return all(self.kinds) and all(self.colours) and self.relation


def asked(count: int) -> Iterator[str]:
    """So many prompts; no kind of object twice while there are others."""
    used: set[str] = set()
    for i in range(count):
        relation = tuple(RELATIONS)[i % len(RELATIONS)]
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


def obeyed(prompt: str, run: Run, seconds: float) -> Obeyed:
    scene = pipeline.finished_scene(run)[1]
    assert isinstance(scene, Several) and len(scene.told) == 2, "the recipe makes one object"
    figures = [Yardstick(text).measure(Made(one))[0] for _, one, text in scene.told]
    caption = parse(prompt)
    assert caption.relation is not None
    cameras = judging_cameras()
    truth = views_of(Solid(programs_for(caption)), cameras)[1]
    return Obeyed(
        prompt,
        tuple(one.accepted for one in figures),
        tuple(one.colours_right for one in figures),
        tuple(round(one.iou, 3) for one in figures),
        related(scene, caption.relation),
        round(silhouette_iou(views_of(Made(scene), cameras)[1], truth), 3),
        round(seconds, 1),
    )


def related(scene: Several, relation: str) -> bool:
    """By the pixels of each object from the front (x to the right), or from the right (-z to the right)."""
    sideways = relation in ("in front of", "behind")
    camera = orbit([90.0 if sideways else 0.0], [0.0], 3.2, 42.0)
    with torch.no_grad():
        shown = scene.render(camera, SIZE, torch.zeros(1, 3)).extra["masks"][0]  # [S, S, objects]
    (low, high), (ground_low, ground_high) = (extent(shown[..., i] > 0.5) for i in range(2))
    metre = SIZE / (2 * 3.2 * 0.3839)  # pixels, at the orbit's centre
    if relation == "on":  # rows grow downwards
        over = ground_low[1] < (low[1] + high[1]) / 2 < ground_high[1]
        return bool(over and abs(float(high[0] - ground_low[0])) < NEAR * metre)
    before = (low[1] + high[1]) < (ground_low[1] + ground_high[1])
    apart = bool(high[1] <= ground_low[1] + 3 or ground_high[1] <= low[1] + 3)
    floor = abs(float(high[0] - ground_high[0])) < NEAR * metre
    return apart and floor and (relation == "next to" or bool(before) == (relation in ("left of", "in front of")))


def extent(mask: Tensor) -> tuple[Tensor, Tensor]:
    """First and last (row, column) of a mask."""
    places = mask.nonzero()
    return (places.amin(0), places.amax(0)) if len(places) else (torch.zeros(2), torch.zeros(2))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--prompts", type=int, default=6)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--recipe", default="toybox")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    rows = []
    for prompt in asked(given.prompts):
        run, seconds = made(prompt, given.out, {"recipe": given.recipe})
        rows.append(obeyed(prompt, run, seconds))
        print(rows[-1], flush=True)
    share = {
        "prompts": len(rows),
        "all of it": sum(row.right for row in rows) / len(rows),
        "kinds": sum(sum(row.kinds) for row in rows) / (2 * len(rows)),
        "colours": sum(sum(row.colours) for row in rows) / (2 * len(rows)),
        "relation": sum(row.relation for row in rows) / len(rows),
        "silhouettes": sum(row.silhouettes for row in rows) / len(rows),
    }
    print(json.dumps(share, indent=1))
    if given.json:
        given.json.write_text(json.dumps({"recipe": given.recipe, **share, "rows": [*map(asdict, rows)]}, indent=1))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The scoreboard as a function: `score_run(...)` runs or reads the cells and sums them up, beside the trivial answers.

    board = score_run(prompts(8), seeds=(0, 1), systems=("sds", "ism"), scenes=("gaussians",), out=Path("scores"))
    board.rows["ism", "gaussians"].accepted      # share of the cells that the judge accepts
    board.rows["ism", "gaussians"].network_calls  # per cell; cpu_s, network_share and wall_s beside it

Every figure is a mean over prompts and seeds; cells that left nothing to measure count as refused, with IoU 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dreamlab.metrics.appearance import diversity
from dreamlab.metrics.asset import judging_cameras, true_answer
from dreamlab.metrics.janus import GROUND
from dreamlab.metrics.judge import Judge, views_of
from dreamlab.metrics.measure import Figures, Yardstick
from dreamlab.recipe import DEFAULT
from dreamlab.toybox.scoring.cells import Cell, Cost, Outcome, check_cells, named, run_cell
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.split import fraction
from dreamlab.toybox.training.sample import held_out_prompts

FREE = Cost(0, 0, 0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Means:
    """Means over some cells. Shares are in [0, 1]; None: no cell to which the question applies."""

    cells: int
    accepted: float
    main_right: float
    second_right: float | None
    colours_right: float  # both, or the only one there is
    janus: float | None  # on categories whose front and back differ
    iou: float
    iou_aligned: float
    chamfer: float | None  # of cells with a surface
    saturation: float  # over the true pictures' mean
    contrast: float
    saturation_off: float  # mean absolute deviation, in standard deviations of the true pictures
    contrast_off: float
    retrieved: float  # R-precision among 21 prompts
    diversity: float | None  # across seeds, over that of true instances
    network_calls: float  # per cell
    network_rows: float
    wall_s: float
    cpu_s: float
    network_share: float  # of the CPU time, inside the prior

    @property
    def empty(self) -> bool:
        return self.cells == 0


@dataclass(frozen=True)
class Board:
    """What `score_run` returns."""

    rows: dict[tuple[str, str], Means]  # by (system, scene)
    trivial: dict[str, Means]  # "true" (another instance) first, then the answers that are no answer
    outcomes: tuple[Outcome, ...]


def prompts(count: int | None = None) -> list[str]:
    """Held-out prompts, one for each category, in an order fixed by a hash; the first `count` of them."""
    names = sorted(CATEGORIES, key=lambda name: fraction("score", name))
    return held_out_prompts(names[:count])


def score_run(
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    systems: Sequence[str | None] = (None,),
    scenes: Sequence[str | None] = (None,),
    *,
    out: Path,
    guidance: str | None = None,
    steps: int | None = None,
    recipe: str = DEFAULT,
    settings: Sequence[str] = (),
    device: str = "cpu",
    judge: Judge | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Board:
    """Every prompt x seed x system x scene; finished cells under `out` are read, not run again."""
    cells = [
        Cell(prompt, seed, system, scene, guidance, steps, recipe, tuple(settings))
        for prompt in prompts
        for system in systems
        for scene in scenes
        for seed in seeds
    ]
    check_cells(cells)
    cells = [named(cell) for cell in cells]
    outcomes: list[Outcome] = []
    trivial: dict[str, list[tuple[Figures, Cost]]] = {}
    true_diversity: dict[str, float] = {}
    for prompt in prompts:
        yardstick = Yardstick(prompt, judge)
        for cell in (cell for cell in cells if cell.prompt == prompt):
            done = run_cell(cell, out, yardstick, device)
            outcomes.append(done)
            tell(f"{len(outcomes)}/{len(cells)} {prompt}, {' '.join(cell.row)}, seed {cell.seed}: {verdict_of(done)}")
        for name, figures in _trivial(yardstick).items():
            trivial.setdefault(name, []).append((figures, FREE))
        true_diversity[prompt] = _true_diversity(yardstick) if len(seeds) > 1 else 0.0
    rows = {}
    for key in dict.fromkeys(cell.row for cell in cells):
        mine = [done for done in outcomes if done.cell.row == key]
        rows[key] = summed([(done.figures, done.cost) for done in mine], _diversity(mine, true_diversity))
    return Board(rows, {name: summed(found) for name, found in trivial.items()}, tuple(outcomes))


def verdict_of(done: Outcome) -> str:
    """One phrase: what it was taken for, its colours, its overlap."""
    figures = done.figures
    if figures is None:
        return f"nothing to measure ({done.error})"
    taken = "accepted" if figures.accepted else f"refused (taken for {figures.category}, {figures.score:.2f})"
    second = "" if figures.second_right is None else f"/{figures.second or 'missing'}"
    janus = ", two fronts" if figures.janus else ""
    return f"{taken}, {figures.main or 'missing'}{second}, IoU {figures.iou:.2f}{janus}"


def summed(found: Sequence[tuple[Figures | None, Cost]], spread: float | None = None) -> Means:
    """Means; a cell without figures is a refused one."""
    count = max(len(found), 1)
    figures = [one for one, _ in found if one is not None]
    costs = [cost for _, cost in found]

    def share(name: str) -> float:
        return sum(float(getattr(one, name)) for one in figures) / count

    def asked(name: str) -> float | None:
        values = [float(value) for one in figures if (value := getattr(one, name)) is not None]
        return sum(values) / len(values) if values else None

    def off(name: str) -> float:
        return sum(abs(getattr(one, name)) for one in figures) / max(len(figures), 1)

    surfaces = [one.chamfer for one in figures if math.isfinite(one.chamfer)]
    cpu, inside = sum(cost.cpu_s for cost in costs), sum(cost.network_cpu_s for cost in costs)
    return Means(
        cells=len(found),
        accepted=share("accepted"),
        main_right=share("main_right"),
        second_right=asked("second_right"),
        colours_right=share("colours_right"),
        janus=asked("janus"),
        iou=share("iou"),
        iou_aligned=share("iou_aligned"),
        chamfer=sum(surfaces) / len(surfaces) if surfaces else None,
        saturation=share("saturation"),
        contrast=share("contrast"),
        saturation_off=off("saturation_off"),
        contrast_off=off("contrast_off"),
        retrieved=share("retrieved"),
        diversity=spread,
        network_calls=sum(cost.calls for cost in costs) / count,
        network_rows=sum(cost.rows for cost in costs) / count,
        wall_s=sum(cost.wall_s for cost in costs) / count,
        cpu_s=cpu / count,
        network_share=inside / cpu if cpu > 0 else 0.0,
    )


def _trivial(yardstick: Yardstick) -> dict[str, Figures]:
    """The truth against the other instances (what a perfect answer gets), and the answers that are none."""
    first, others = yardstick.seeds[0], yardstick.seeds[1:]
    ceiling = Yardstick(yardstick.caption, yardstick.judge)
    ceiling.seeds = others
    answers = {name: yardstick.measure(asset)[0] for name, asset in yardstick.trivial().items()}
    return {"true": ceiling.measure(true_answer(yardstick.caption, first))[0]} | answers


def _true_diversity(yardstick: Yardstick) -> float:
    """Of the category's instances, in the judge's features."""
    found = []
    for seed in yardstick.seeds:
        rgb, alpha = views_of(true_answer(yardstick.caption, seed), judging_cameras())
        found.append(yardstick.judge.features(rgb + (1 - alpha) * GROUND).mean(0))
    return diversity(found) or 0.0


def _diversity(outcomes: Sequence[Outcome], true: dict[str, float]) -> float | None:
    """The seeds' spread, summed over prompts, over that of true instances; 1 is as varied as the world.

    Not a mean of ratios: a dice is like the other, so that one odd dice would count for more than all other prompts.
    """
    mine, theirs = 0.0, 0.0
    for prompt in dict.fromkeys(done.cell.prompt for done in outcomes):
        found = [torch.tensor(done.features) for done in outcomes if done.cell.prompt == prompt and done.features]
        spread = diversity(found)
        if spread is not None:
            mine, theirs = mine + spread, theirs + true[prompt]
    return mine / theirs if theirs > 1e-6 else None

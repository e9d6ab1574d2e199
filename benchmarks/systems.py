# SPDX-License-Identifier: Apache-2.0
"""Every rule on the same prompts, seeds, scene and number of pictures that the prior evaluates, judged by the truth.

A rule runs its packaged recipe (`configs/<rule>.yaml`); only the number of steps is set, so that all spend the same
`rows`: what a step costs is counted at the start, the middle and the end of a short run of it. Networks of a rule's own
are not rows; their time is in the CPU seconds. Finished cells under --out are read, not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import gettempdir

from benchmarks.harness import Check, report
from dreamlab import recipe
from dreamlab.assemble import tables
from dreamlab.metrics.judge import Judge
from dreamlab.metrics.measure import Yardstick
from dreamlab.telemetry import Ring
from dreamlab.toybox.scoring.board import Board, _diversity, _true_diversity, prompts, summed, verdict_of
from dreamlab.toybox.scoring.cells import Cell, CountingAssembler, Outcome, named, run_cell
from dreamlab.toybox.scoring.report import lines
from dreamlab.toybox.scoring.sheet import score_sheet
from dreamlab.train import METRICS, step
from systems import SYSTEMS

ROWS, PROMPTS, SEEDS = 3200, 3, 2
EQUAL = ("stages.0.particles=1",)  # one scene for all
WITHOUT_ORACLE = ("video", "photometric")  # their recipes, where there are any, need another guidance
OF_ONE_PROMPT = ("semantic",)  # names its parts in the recipe
FIGURES = {  # name in the table -> unit, what is better
    "retrieved": ("share", "higher"),
    "colours_right": ("share", "higher"),
    "iou": ("", "higher"),
    "iou_aligned": ("", "higher"),
    "chamfer": ("m", "lower"),
    "janus": ("share", "lower"),
    "saturation": ("x true", "lower"),
    "diversity": ("x true", "higher"),
    "network_rows": ("pictures", "lower"),
    "cpu_s": ("s", "lower"),
}


def rules() -> list[str]:
    """Rules with a packaged recipe of their name that the oracle can serve."""
    packaged = recipe.names()
    return [name for name in SYSTEMS if name in packaged and name not in WITHOUT_ORACLE + OF_ONE_PROMPT]


def rows_per_step(rule: str, settings: Sequence[str] = ()) -> float:
    """Pictures the prior evaluates in a step, over the first, middle and last three of a run of ninety."""
    small = ["stages.0.steps=90", "stages.0.size=16", "stages.0.scene={kind: gaussians, count: 16}"]
    wanted = recipe.load(recipe.find(rule), tables(), overrides=[*settings, *small])
    assembler = CountingAssembler(wanted, "cpu")
    stage = assembler.stage(0)
    at = [*range(3), *range(44, 47), *range(87, 90)]
    for i in at:
        step(stage, i, Ring(METRICS, len(at), stage.device))
    return sum(counted.rows for counted in assembler.counted.values()) / len(at)


def score(
    wanted: Sequence[str],
    texts: Sequence[str],
    seeds: Sequence[int],
    rows: int,
    out: Path,
    settings: Sequence[str] = (),
    judge: Judge | None = None,
    tell: Callable[[str], None] = print,
) -> Board:
    """The table; one row per rule."""
    settings = (*EQUAL, *settings)
    steps = {rule: max(round(rows / rows_per_step(rule, settings)), 1) for rule in wanted}
    found: dict[str, list[Outcome]] = {rule: [] for rule in wanted}
    spread = {}
    for text in texts:
        yardstick = Yardstick(text, judge)
        spread[text] = _true_diversity(yardstick) if len(seeds) > 1 else 0.0
        for rule in wanted:
            for seed in seeds:
                cell = named(Cell(text, seed, steps=steps[rule], recipe=rule, settings=tuple(settings)))
                done = run_cell(cell, out, yardstick)
                found[rule].append(done)
                tell(f"{rule}, {steps[rule]} steps, {text}, seed {seed}: {verdict_of(done)}")
    table = {
        (rule, mine[0].cell.scene or ""): summed([(done.figures, done.cost) for done in mine], _diversity(mine, spread))
        for rule, mine in found.items()
    }
    return Board(table, {}, tuple(done for mine in found.values() for done in mine))


def checks(board: Board) -> list[Check]:
    """Measured, without floors: which rule is best is what the table is to tell."""
    made = []
    for (rule, _), row in board.rows.items():
        for name, (unit, better) in FIGURES.items():
            value = getattr(row, name)
            if value is not None:
                made.append(Check(f"{rule}.{name}", round(float(value), 4), unit, None, better))
    return made


def measure(
    wanted: Sequence[str] | None = None,
    texts: int = PROMPTS,
    seeds: int = SEEDS,
    rows: int = ROWS,
    out: Path | None = None,
    settings: Sequence[str] = (),
) -> list[Check]:
    """Run what is missing, print the table, write the sheet."""
    out = out or Path(gettempdir()) / "dreamlab-systems"
    out.mkdir(parents=True, exist_ok=True)
    board = score(wanted or rules(), prompts(texts), range(seeds), rows, out, settings)
    print("\n".join(lines(board)))
    print(score_sheet(out / "systems.png", board))
    return checks(board)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.systems", description=__doc__)
    parser.add_argument("--rules", default=None, help="comma-separated; default: all")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS, help="pictures the prior evaluates per cell")
    parser.add_argument("--out", type=Path, default=None, help="folder of cells and sheet")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="recipe settings for all")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    wanted = given.rules.split(",") if given.rules else None
    return 0 if report(measure(wanted, given.prompts, given.seeds, given.rows, given.out, given.set), given.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())

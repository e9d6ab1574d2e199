# SPDX-License-Identifier: Apache-2.0
"""Every rule on the same prompts, seeds, scene and number of pictures that the prior evaluates, judged by the truth.

A rule runs its packaged recipe (`configs/<rule>.yaml`), its guidance exchanged where --guidance says so; only the
number of steps is set, so that all spend the same `rows`: what a step costs is counted at the start, the middle and the
end of a short run of it on the oracle. Networks of a rule's own are not rows; their time is in the CPU seconds. Cells
are folders: finished ones are read, not run again, and an interrupted one goes on from its checkpoint. The JSON is
written anew after every cell, so that a stopped bench leaves the table so far.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir

from dreamlab import recipe
from dreamlab.core.errors import RecipeError
from dreamlab.core.files import write_json
from dreamlab.core.schedules import constant
from dreamlab.core.text import did_you_mean
from dreamlab.metrics.figures import Check, machine, report
from dreamlab.metrics.judge import Judge
from dreamlab.metrics.measure import Yardstick
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.toybox.scoring.board import Board, _diversity, _true_diversity, prompts, summed, verdict_of
from dreamlab.toybox.scoring.cells import Cell, CountingAssembler, Outcome, named, run_cell, to_plain
from dreamlab.toybox.scoring.report import lines
from dreamlab.toybox.scoring.sheet import score_sheet
from systems import SYSTEMS

ROWS, PROMPTS, SEEDS = 3200, 3, 2
EQUAL = ("stages.0.particles=1",)  # one scene for all
# They compare with known pictures or shapes and stand beside a rule that paints; or paint other colours than asked for.
BESIDE = ("photometric", "palette", "sgc", "box", "cloud", "video", "style")
OF_PARTS = ("semantic",)  # its recipe names the parts of its own prompt; here each half of space is the whole prompt
# As in `configs/toybox-single.yaml`; the scale where a rule's recipe has the one that is ours for the oracle.
FOR_GUIDANCE = {"toybox": ("stages.0.regularisers={opacity: 0.02}",)}
OURS, SCALES = constant(3.0), {"toybox": 5.0}
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


def rules(guidance: str = "oracle") -> list[str]:
    """Rules that paint, with a packaged recipe of their name that the guidance can serve."""
    packaged = recipe.names()
    return [name for name in SYSTEMS if name in packaged and name not in BESIDE and refusal(name, guidance) is None]


def refusal(rule: str, guidance: str) -> str | None:
    """Why a rule's recipe cannot run on a guidance, or None."""
    try:
        check(recipe.load(recipe.find(rule), TABLES, overrides=served_by(rule, guidance)))
    except RecipeError as error:
        return str(error)
    return None


def served_by(rule: str, guidance: str) -> list[str]:
    """The overrides that put a guidance in place of the recipe's own."""
    terms = recipe.load(recipe.find(rule), TABLES).stages[0].terms
    others = [i for i, term in enumerate(terms) if term.guidance.kind != guidance]
    exchanged = [f"stages.0.terms.{i}.guidance={{kind: {guidance}}}" for i in others]
    if guidance in SCALES:
        scaled = [i for i, term in enumerate(terms) if getattr(term.system.settings, "cfg", None) == OURS]
        exchanged += [f"stages.0.terms.{i}.system.cfg={SCALES[guidance]}" for i in scaled]
    return [*exchanged, *FOR_GUIDANCE.get(guidance, ())]


def of_prompt(rule: str, text: str) -> list[str]:
    """What a recipe must be told of another prompt than its own."""
    if rule not in OF_PARTS:
        return []
    halves = [f"{{prompt: {json.dumps(text)}, y: {span}}}" for span in ("[0.0, 5.0]", "[-5.0, 0.0]")]
    return [f"stages.0.terms.0.system.regions=[{', '.join(halves)}]"]


def rows_per_step(rule: str, settings: Sequence[str] = ()) -> float:
    """Pictures the prior evaluates in a step, over the first, middle and last three of a run of ninety."""
    small = ["stages.0.steps=90", "stages.0.size=16", "stages.0.scene={kind: gaussians, count: 16}"]
    wanted = recipe.load(recipe.find(rule), TABLES, overrides=[*settings, *small])
    assembler = CountingAssembler(wanted, "cpu")
    stage = assembler.stage(0)
    at = [*range(3), *range(44, 47), *range(87, 90)]
    for i in at:
        step(stage, i, Ring(METRICS, len(at), stage.device))
    return sum(counted.rows for counted in assembler.counted.values()) / len(at)


@dataclass
class Bench:
    """What is compared, and what is finished of it."""

    wanted: Sequence[str]
    texts: Sequence[str]
    seeds: Sequence[int]
    rows: int
    out: Path
    guidance: str = "oracle"
    settings: Sequence[str] = ()
    judge: Judge | None = None
    tell: Callable[[str], None] = print
    found: dict[str, list[Outcome]] = field(default_factory=dict, init=False)

    @cached_property
    def steps(self) -> dict[str, int]:
        return {
            rule: max(round(self.rows / rows_per_step(rule, (*EQUAL, *self.settings))), 1) for rule in self.wanted
        }  # fmt: skip

    @cached_property
    def yardsticks(self) -> dict[str, Yardstick]:
        return {text: Yardstick(text, self.judge) for text in self.texts}

    @cached_property
    def spread(self) -> dict[str, float]:
        """Of each prompt's true instances."""
        return {text: _true_diversity(yardstick) for text, yardstick in self.yardsticks.items()}

    def run(self) -> Iterable[Board]:
        """The board after each cell. Every rule has its first seed before any has its second."""
        for seed in self.seeds:
            for text in self.texts:
                for rule in self.wanted:
                    overrides = (*EQUAL, *served_by(rule, self.guidance), *of_prompt(rule, text), *self.settings)
                    cell = named(Cell(text, seed, steps=self.steps[rule], recipe=rule, settings=overrides))
                    done = run_cell(cell, self.out, self.yardsticks[text])
                    # A recipe of several terms is named after its rule, not after its first term.
                    done = replace(done, cell=replace(done.cell, system=rule))
                    self.found.setdefault(rule, []).append(done)
                    self.tell(f"{rule}, {self.steps[rule]} steps, {text}, seed {seed}: {verdict_of(done)}")
                    yield self.board()

    def board(self) -> Board:
        """One row per rule that has a finished cell."""
        table = {}
        for rule in self.wanted:
            if mine := self.found.get(rule):
                several = len({done.cell.seed for done in mine}) > 1
                spread = _diversity(mine, self.spread) if several else None
                cells = [(done.figures, done.cost) for done in mine]
                table[rule, mine[0].cell.scene or ""] = summed(cells, spread)
        outcomes = (done for rule in self.wanted for done in self.found.get(rule, []))
        return Board(table, {}, tuple(outcomes))


def content(bench: Bench, board: Board) -> dict[str, object]:
    """All that is known, as JSON values."""
    return {
        "checks": [asdict(check) for check in checks(board)],
        "machine": machine(),
        "guidance": bench.guidance,
        "rows": {rule: asdict(row) | {"steps": bench.steps[rule]} for (rule, _), row in board.rows.items()},
        "cells": [{k: v for k, v in to_plain(done).items() if k != "features"} for done in board.outcomes],
        "missing": len(bench.wanted) * len(bench.texts) * len(bench.seeds) - len(board.outcomes),
    }


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
    guidance: str = "oracle",
    file: Path | None = None,
) -> list[Check]:
    """Run what is missing, print the table, write the sheet; `file` grows with every cell."""
    if out is None:
        out = Path(gettempdir()) / "dreamlab-systems" if file is None else file.with_name(f"{file.stem}-cells")
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(wanted or rules(guidance), prompts(texts), range(seeds), rows, out, guidance, settings)
    for rule in bench.wanted:
        if rule not in SYSTEMS or rule not in recipe.names():
            raise RecipeError(f"--rules: no recipe {rule!r}{did_you_mean(rule, rules(guidance))}")
        if (why := refusal(rule, guidance)) is not None:
            raise RecipeError(f"--rules {rule}: {why}")
    board = bench.board()
    for board in bench.run():
        if file is not None:
            write_json(file, content(bench, board))
    print("\n".join(lines(board)))
    print(score_sheet(out / f"systems-{guidance}.png", board))
    return checks(board)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.systems", description=__doc__)
    parser.add_argument("--rules", default=None, help="comma-separated; default: all that the guidance can serve")
    parser.add_argument("--guidance", default="oracle", choices=sorted(TABLES.guidance))
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS, help="pictures the prior evaluates per cell")
    parser.add_argument("--out", type=Path, default=None, help="folder of cells and sheet; default: beside --json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="recipe settings for all")
    parser.add_argument("--json", type=Path, default=None, help="written after every cell")
    given = parser.parse_args()
    wanted = given.rules.split(",") if given.rules else None
    counts = {"texts": given.prompts, "seeds": given.seeds, "rows": given.rows}
    where = {"out": given.out, "guidance": given.guidance, "file": given.json}
    try:
        report(measure(wanted, settings=given.set, **counts, **where), None)
    except KeyboardInterrupt:
        print("stopped; finished cells are kept, and the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

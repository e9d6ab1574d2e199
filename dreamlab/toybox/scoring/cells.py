# SPDX-License-Identifier: Apache-2.0
"""One cell of the scoreboard: a prompt, a seed, a system, a scene; trained as `dreamlab dream` would, then measured.

A cell is a folder. What is finished stays: `cell.json` says what was measured of exactly which recipe by which judge,
and is read instead of running again; a run that was killed goes on from its checkpoint, and another judge measures
again what is trained already.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.errors import Diverged, InputError
from dreamlab.core.files import disk_errors, write_json
from dreamlab.core.text import slug
from dreamlab.core.types import Condition, Guidance, Scene
from dreamlab.metrics.asset import DISTANCE, FOVY_DEG, Made
from dreamlab.metrics.measure import Figures, Yardstick
from dreamlab.recipe import DEFAULT, Recipe
from dreamlab.recipe.bind import Spec
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.determinism import deterministic
from dreamlab.run.folder import Run
from dreamlab.run.preview import render_views, save_sheet
from dreamlab.run.signals import catching
from dreamlab.run.train import train

FORMAT = 1
PICTURE = 96  # pixels per view on the sheet
SIDES = ((25.0, 20.0), (115.0, 12.0), (205.0, 20.0), (295.0, 12.0))  # azimuth, elevation


@dataclass(frozen=True)
class Cell:
    """What is run. `settings` are recipe overrides (`stages.0.steps=200`) that all cells of a board share."""

    prompt: str
    seed: int = 0
    system: str | None = None  # None: as the recipe has it
    scene: str | None = None
    guidance: str | None = None
    steps: int | None = None
    recipe: str = DEFAULT
    settings: tuple[str, ...] = ()

    @property
    def row(self) -> tuple[str, str]:
        """What the table has a line for: (system, scene)."""
        return self.system or "", self.scene or ""

    def read(self) -> Recipe:
        """The recipe of the cell: the named one with this cell's choices in its first stage."""
        base = recipe.load(recipe.find(self.recipe), TABLES, prompt=self.prompt)
        first = base.stages[0]
        changes = [f"seed={self.seed}"]
        if self.scene and self.scene != first.scene.kind:
            changes.append(f"stages.0.scene={{kind: {self.scene}}}")
        if self.guidance and self.guidance != first.terms[0].guidance.kind:
            changes.append(f"stages.0.terms.0.guidance={{kind: {self.guidance}}}")
        if self.system and self.system != first.terms[0].system.kind:
            changes.append(f"stages.0.terms.0.system={{kind: {self.system}}}")
        if self.steps:
            changes.append(f"stages.0.steps={self.steps}")
        return recipe.load(recipe.find(self.recipe), TABLES, prompt=self.prompt, overrides=[*changes, *self.settings])


@dataclass(frozen=True)
class Cost:
    """What a cell took. CPU times are of the whole process, all threads."""

    steps: int
    calls: int  # of the network, over all steps
    rows: int  # pictures it evaluated
    wall_s: float
    cpu_s: float
    network_cpu_s: float  # of those, inside the guidance's predict

    @property
    def network_share(self) -> float:
        return self.network_cpu_s / self.cpu_s if self.cpu_s > 0 else 0.0


@dataclass(frozen=True)
class Outcome:
    """A finished cell. `figures` is None when the run left nothing to measure; `error` says why."""

    cell: Cell
    figures: Figures | None
    cost: Cost
    features: tuple[float, ...] = ()  # the judge's mean feature, for diversity
    error: str | None = None
    folder: Path = field(default=Path(), compare=False)

    @property
    def pictures(self) -> Path:
        return self.folder / "views.png"


@dataclass
class Counter:
    """What a guidance was asked: calls, pictures, and the CPU time inside them."""

    calls: int = 0
    rows: int = 0
    cpu_s: float = 0.0


def counting(guidance: Guidance) -> Counter:
    """Counts every prediction of a guidance from now on; it stays what it is and can do what it could."""
    counter, plain = Counter(), guidance.predict

    def predict(z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        began = time.process_time()
        eps = plain(z_t, t_index, condition)
        counter.cpu_s += time.process_time() - began
        counter.calls, counter.rows = counter.calls + 1, counter.rows + len(z_t)
        return eps

    guidance.predict = predict  # type: ignore[method-assign]
    return counter


class CountingAssembler(Assembler):
    """Hands out counted guidances, one for each that it builds."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.counted: dict[int, Counter] = {}
        super().__init__(recipe, device)

    def guidance(self, spec: Spec) -> Guidance:
        built = super().guidance(spec)
        if id(built) not in self.counted:
            self.counted[id(built)] = counting(built)
        return built


def named(cell: Cell) -> Cell:
    """The cell with the recipe's own choices in place of None."""
    first = cell.read().stages[0]
    term = first.terms[0]
    return replace(cell, system=term.system.kind, scene=first.scene.kind, guidance=term.guidance.kind)


def run_cell(cell: Cell, root: Path, yardstick: Yardstick, device: str = "cpu") -> Outcome:
    """Train and measure, or read what is already there."""
    wanted = cell.read()
    text = recipe.dump(wanted)
    folder = root / f"{slug(cell.prompt)}-{hashlib.sha256(f'{text}{device}'.encode()).hexdigest()[:12]}"
    done, by = read_outcome(folder, cell)
    if done is not None and by == yardstick.judge.stored.digest:
        return done
    with disk_errors("making the cell's folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    run = _run_of(folder, wanted, text)
    scene: Scene | None
    try:
        scene, cost = _trained(run, wanted, device)
        cost = cost if done is None else done.cost
        figures, features = yardstick.measure(Made(scene))
        outcome = Outcome(cell, figures, cost, tuple(features.tolist()), folder=folder)
    except Diverged as error:
        scene = None
        outcome = Outcome(cell, None, Cost(0, 0, 0, 0.0, 0.0, 0.0), error=str(error), folder=folder)
    with disk_errors("writing the cell", folder):
        if scene is not None:
            save_sheet(list(render_views(scene, sides(), PICTURE, torch.device(device))), outcome.pictures, len(SIDES))
        written = {"format": FORMAT, "judge": yardstick.judge.stored.digest}
        write_json(folder / "cell.json", written | to_plain(outcome))
    return outcome


def _run_of(folder: Path, wanted: Recipe, text: str) -> Run:
    """The cell's run folder: the one a killed run left, or a new one."""
    left = sorted((folder / "run").glob("*/spec.json"))
    if left:
        return Run.open(left[-1].parent)
    return Run.create(folder / "run", text, wanted.prompt, ["dreamlab", "toybox", "score"])


def _trained(run: Run, wanted: Recipe, device: str) -> tuple[Scene, Cost]:
    """The same loop as a dream's, without its export; counts refer to the steps done now, times too."""
    steps = sum(stage.steps for stage in wanted.stages)
    before = int(run.state().get("step", 0))
    with run.lock(), catching() as stop, deterministic(run):
        assembler = CountingAssembler(wanted, device)
        wall, cpu = time.perf_counter(), time.process_time()
        scene = train(run, wanted, assembler, stop=stop)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        run.set_state(state="succeeded", error=None)
    counted = assembler.counted.values()
    done = max(steps - before, 0)
    factor = steps / done if done else 0.0  # of a resumed run, what the whole would have taken
    calls, rows = (round(factor * sum(getattr(c, name) for c in counted)) for name in ("calls", "rows"))
    inside = factor * sum(c.cpu_s for c in counted)
    return scene, Cost(steps, calls, rows, factor * wall, factor * cpu, inside)


def sides() -> Cameras:
    """The four views of the sheet."""
    return orbit([a for a, _ in SIDES], [e for _, e in SIDES], DISTANCE, FOVY_DEG)


def to_plain(outcome: Outcome) -> dict[str, object]:
    """JSON values; infinities become null."""
    plain = asdict(outcome)
    plain.pop("folder")
    if outcome.figures is not None and outcome.figures.chamfer == float("inf"):
        plain["figures"]["chamfer"] = None
    return plain


def read_outcome(folder: Path, cell: Cell) -> tuple[Outcome | None, str]:
    """What a finished cell's folder says and which judge said it; None when there is nothing, or of another version."""
    path = folder / "cell.json"
    if not path.is_file():
        return None, ""
    try:
        plain: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if plain["format"] != FORMAT:
            return None, ""
        figures = plain["figures"]
        if figures is not None:
            chamfer = float("inf") if figures["chamfer"] is None else figures["chamfer"]
            figures = Figures(**(figures | {"chamfer": chamfer}))
        cost, features = Cost(**plain["cost"]), tuple(plain["features"])
        return Outcome(cell, figures, cost, features, plain["error"], folder), plain["judge"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); delete the folder to compute the cell again") from None


def check_cells(cells: Sequence[Cell]) -> None:
    """Names and settings that cannot be meant are said before anything runs."""
    from dreamlab.recipe.checks import check

    for cell in {(c.system, c.scene, c.guidance): c for c in cells}.values():
        check(cell.read())

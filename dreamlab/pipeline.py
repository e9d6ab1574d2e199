# SPDX-License-Identifier: Apache-2.0
"""Run this folder: the unit of work of the command line, and later of the studio and of clusters. Idempotent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cuda_ext.backend import name_licence
from cuda_ext.packages import licence
from dreamlab import recipe
from dreamlab.core import ahead
from dreamlab.core.device import known_device
from dreamlab.core.errors import InputError, Interrupted, RecipeError
from dreamlab.core.files import write_atomic
from dreamlab.core.text import shell
from dreamlab.core.types import Scene
from dreamlab.export import Views, export_mesh, export_pictures, warm
from dreamlab.export.report import check_not_older
from dreamlab.recipe import Recipe, as_plain
from dreamlab.recipe.checks import check, packages
from dreamlab.recipe.given import own_files, placed
from dreamlab.recipe.models import check_models, models_of, on_embedded
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.checkpoint import committed, read_newest, sweep, write
from dreamlab.run.determinism import deterministic
from dreamlab.run.folder import Origin, Run
from dreamlab.run.lineage import check_branch, check_fits, check_shape
from dreamlab.run.outcome import recorded, said
from dreamlab.run.signals import catching
from dreamlab.run.train import Tick, restore, train


def estimate(run: Run, wanted: Recipe, device: str) -> None:
    """What a run on pretrained models will need, kept by the run; said aloud where it will hardly do."""
    if not models_of(wanted):
        return
    from dreamlab import preflight

    for line in preflight.lines(wanted, torch.device(device)):
        run.log(line)
        if "too little" in line:
            warnings.warn(line, stacklevel=2)


def load_recipe(run: Run) -> Recipe:
    return recipe.load(run.recipe_path(), TABLES)


def execute(run: Run, device: str = "cpu", on_tick: Callable[[Tick], None] = lambda tick: None) -> list[Path]:
    """Train from wherever the run stands to its end, then export; returns the files made."""
    with run.lock(), catching() as stop, recorded(run), deterministic(run):
        known_device(device)
        wanted = load_recipe(run)
        assembler = Assembler(wanted, device, run.path)
        run.set_state(state="running", error=None)
        run.event("start", device=device, threads=torch.get_num_threads())
        name_packages(run, wanted)
        estimate(run, wanted, device)
        run.log(f"started on {device} with {torch.get_num_threads()} threads, torch {torch.__version__}")
        scene = train(run, wanted, assembler, then(on_tick, lambda: ahead.begin(warm)), stop)
        steps = sum(stage.steps for stage in wanted.stages)
        views: Views = {}
        files = export_mesh(run, wanted, scene, steps, views=views)
        if stop.requested:
            run.set_state(state="interrupted")
            raise Interrupted("stopped after training, before the pictures", stop.exit_code)
        files += export_pictures(run, wanted, scene, steps, assembler.device, views)
        run.set_state(state="succeeded", error=None)
        run.event("finished", files=[path.name for path in files])
        run.log(f"finished: {', '.join(path.name for path in files)}")
    return files


def then(on_tick: Callable[[Tick], None], once: Callable[[], None]) -> Callable[[Tick], None]:
    """`on_tick`, and `once` after the first: by then training has begun, and waits for nothing of it."""
    begun = False

    def both(tick: Tick) -> None:
        nonlocal begun
        on_tick(tick)
        if not begun:
            begun = True
            once()

    return both


def name_packages(run: Run, wanted: Recipe) -> None:
    """Whose code runs it, under which licences: heard once, and kept by the run."""
    for name in packages(wanted):
        name_licence(name)
        run.log(licence(name))


def finished_scene(run: Run, device: str = "cpu") -> tuple[Recipe, Scene, int]:
    """The scene of a run as its newest checkpoint has it, for rendering and exporting again, and its step."""
    wanted = load_recipe(run)
    known_device(device)
    sweep(run.ckpt)
    if not committed(run.ckpt):  # restore reads and checks them; once is enough
        raise InputError(f"{run.path}: has no checkpoint yet; continue it with: {shell('resume', run.path)}")
    position, stage = restore(run, wanted, Assembler(wanted, device, run.path))
    return wanted, stage.scene, position.done(wanted)


def export_again(run: Run, device: str, changes: Sequence[str] = ()) -> list[Path]:
    """Write the files of a run once more, with other settings of `export` if asked (`export.faces=9000`), which the run
    does not keep; never over files of a later step."""
    with run.lock(), said(run), deterministic(run):
        changed = recipe.load(run.recipe_path(), TABLES, overrides=changes)
        wanted, scene, step = finished_scene(run, device)
        check_not_older(run, step)
        export = replace(changed.export, formats=wanted.export.formats)  # which are written says nothing of the asset
        return export_mesh(run, replace(wanted, export=export), scene, step, changed.export.formats)


def render_again(run: Run, device: str) -> list[Path]:
    """Contact sheet and turntable of a run as it stands; never over those of a later step."""
    with run.lock(), said(run), deterministic(run):
        wanted, scene, step = finished_scene(run, device)
        check_not_older(run, step)
        return export_pictures(run, wanted, scene, step, torch.device(device))


def create(
    prompt: str | None,
    source: Path,
    out: Path,
    overrides: Sequence[str],
    negative: str | None,
    command: list[str],
    image: Path | None = None,
    on_missing: str = "fail",
) -> Run:
    """A run folder with its resolved recipe and the files it names, checked before anything is written; see `plan`."""
    chosen, files = plan(prompt, source, overrides, negative, image, on_missing)
    check_models(chosen)
    return Run.create(out, recipe.dump(chosen), chosen.prompt, command, files)


def plan(
    prompt: str | None,
    source: Path,
    overrides: Sequence[str],
    negative: str | None,
    image: Path | None,
    on_missing: str = "fail",
) -> tuple[Recipe, dict[str, bytes]]:
    """What a run of a recipe would hold, its own recipe and files; no prompt: the recipe's; `image`: a picture to
    follow instead of the recipe's; `on_missing: embedded` takes the embedded prior for models that are not here."""
    chosen = recipe.load(source, TABLES, prompt=prompt, negative=negative, overrides=overrides)
    if on_missing == "embedded":
        chosen, notes = on_embedded(chosen)
        for note in notes:
            warnings.warn(note, stacklevel=2)
    if image is not None:
        chosen = replace(chosen, image=replace(chosen.image, file=str(image.absolute())))
    chosen = placed(chosen, source.parent)
    check(chosen)
    return own_files(chosen, source.parent)


def extend(run: Run, steps: int) -> None:
    """Let the last stage of a run have so many steps in all, and write it into its recipe; to be executed then. What is
    made stays, schedules follow the new total."""
    with run.lock(), said(run):
        wanted = load_recipe(run)
        last = len(wanted.stages) - 1
        longer = recipe.load(run.recipe_path(), TABLES, overrides=[f"stages.{last}.steps={steps}"])
        made = max(int(run.state().get("step", 0)) - sum(stage.steps for stage in wanted.stages[:-1]), 0)
        if steps < made:
            raise RecipeError(f"--steps {steps}: stage {wanted.stages[-1].name!r} has made {made} steps already")
        if longer != wanted:
            write_atomic(run.recipe_path(), recipe.dump(longer).encode())
            run.event("extended", stage=wanted.stages[-1].name, was=wanted.stages[-1].steps, steps=steps)
            run.log(f"{wanted.stages[-1].name}: {steps} steps instead of {wanted.stages[-1].steps}")


def branch(run: Run, out: Path | None, overrides: Sequence[str], command: list[str], device: str = "cpu") -> Run:
    """A run of its own that starts where another stands, with other settings for the steps to come; the other one is
    left as it is. Beside it unless `out` says where. To be executed then."""
    known_device(device)
    with run.lock(), said(run):
        old, new = load_recipe(run), recipe.load(run.recipe_path(), TABLES, overrides=overrides)
        found = read_newest(run.ckpt, warn=run.warn)
        if found is None:
            raise InputError(f"{run.path}: has no checkpoint yet; continue it with: {shell('resume', run.path)}")
        check_fits(run, old, found, device)
        check(new)
        check_branch(old, new, found.meta)
        stage = found.meta["stage"]
        was, now = (Assembler(each, device, run.path).scenes(each.stages[stage]) for each in (old, new))
        check_shape(was, now, stage)
        new, files = own_files(new, run.path)
        step, meta = found.meta["global_step"], found.meta | {"recipe": as_plain(new)}
        origin = Origin(
            {"run": str(run.path.absolute()), "id": run.spec().get("id"), "step": step},
            lambda made: write(made.ckpt, step, found.parts, meta, new.keeping.keep),
        )
        made = Run.create(out or run.path.parent, recipe.dump(new), new.prompt, command, files, origin)
    made.set_state(state="interrupted", step=step)
    made.event("branched", **origin.parent)
    return made

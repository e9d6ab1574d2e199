# SPDX-License-Identifier: Apache-2.0
"""Run this folder: the unit of work of the command line, and later of the studio and of clusters. Idempotent."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from cuda_ext.backend import name_licence
from cuda_ext.packages import licence
from dreamlab import recipe
from dreamlab.core import ahead
from dreamlab.core.device import known_device
from dreamlab.core.errors import InputError, Interrupted, RecipeError
from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.core.streams import Streams
from dreamlab.core.text import shell, short
from dreamlab.core.types import Scene
from dreamlab.export import Views, export_mesh, export_pictures, warm
from dreamlab.export.live import live
from dreamlab.export.report import check_not_older
from dreamlab.recipe import Recipe, as_plain
from dreamlab.recipe.apart import apart, check_renamed, heard_apart
from dreamlab.recipe.checks import check, check_ranks, packages
from dreamlab.recipe.given import own_files, placed
from dreamlab.recipe.models import ON_MISSING, check_models, models_of, on_embedded
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, Lender
from dreamlab.run.checkpoint import Checkpoint, committed, read_at, read_newest, sweep, write
from dreamlab.run.determinism import deterministic
from dreamlab.run.folder import Origin, Run
from dreamlab.run.lineage import check_branch, check_fits, check_shape
from dreamlab.run.outcome import recorded, said
from dreamlab.run.ranks import ALONE, Alone
from dreamlab.run.signals import StopSignal, catching
from dreamlab.run.train import Tick, restore, train
from dreamlab.run.truth import true_views
from dreamlab.run.watching import UNWATCHED, Showing, Watcher


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


def execute(
    run: Run,
    device: str = "cpu",
    on_tick: Callable[[Tick], None] = lambda tick: None,
    asked: StopSignal | None = None,
    shelf: Lender | None = None,
    watch: Showing = UNWATCHED,
    ranks: Alone | None = None,
) -> list[Path]:
    """Train from wherever the run stands to its end, then export; returns the files made. Signals stop it, and
    whoever holds `asked`; the shelf may hold its guidances already. What `watch` asks for changes nothing of them.
    Several `ranks` train together, and one of them writes."""
    ranks = ranks or ALONE
    run = ranks.own(run)
    with run.lock(), catching(asked) as stop, recorded(run), deterministic(run, shared=ranks.count > 1):
        known_device(device)
        wanted = load_recipe(run)
        check_ranks(wanted, ranks.count)
        assembler = Assembler(wanted, device, run.path, shelf, ranks)
        run.set_state(state="running", error=None)
        run.event("start", device=device, threads=torch.get_num_threads(), ranks=ranks.count)
        name_packages(run, wanted)
        estimate(run, wanted, device)
        run.log(f"started on {device} with {torch.get_num_threads()} threads, torch {torch.__version__}")
        watch = watch if run.writes() else UNWATCHED
        watcher = Watcher(run, watch, live, true_views(wanted, assembler.prompts) if watch.truth else None)
        scene = train(run, wanted, assembler, then(on_tick, lambda: ahead.begin(warm)), stop, watcher)
        if not run.writes():
            return []
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


def finished_scene(run: Run, device: str = "cpu", shelf: Lender | None = None) -> tuple[Recipe, Scene, int]:
    """The scene of a run as its newest checkpoint has it, for rendering and exporting again, and its step."""
    wanted = load_recipe(run)
    known_device(device)
    sweep(run.ckpt)
    if not committed(run.ckpt):  # restore reads and checks them; once is enough
        raise InputError(f"{run.path}: has no checkpoint yet; continue it with: {shell('resume', run.path)}")
    position, stage = restore(run, wanted, Assembler(wanted, device, run.path, shelf))
    return wanted, stage.scene, position.done(wanted)


def conclude(run: Run, device: str, shelf: Lender | None = None) -> int:
    """Stopped, and kept: export and pictures of a run as its newest checkpoint has it, as if that were its end; returns
    the step. It can still be continued."""
    with run.lock(), catching() as stop, recorded(run), deterministic(run):
        wanted, scene, step = finished_scene(run, device, shelf)
        views: Views = {}
        files = export_mesh(run, wanted, scene, step, views=views)
        if stop.requested:
            raise Interrupted(f"stopped at step {step}, before the pictures", stop.exit_code)
        files += export_pictures(run, wanted, scene, step, torch.device(device), views)
        run.set_state(state="succeeded", error=None)
        run.event("finished", files=[path.name for path in files], stopped_at=step)
        run.log(f"stopped at step {step}, and kept: {', '.join(path.name for path in files)}")
    return step


def painted(
    run: Run, device: str, maps: Sequence[str], output: Path | None = None, shelf: Lender | None = None
) -> Path:
    """The given asset of a finished run of `texture` with its new maps, in the run and, if asked, elsewhere, too."""
    from dreamlab.export.origin import origin_of
    from dreamlab.intake.painting import copy_out, give_back

    chosen, scene, step = finished_scene(run, device, shelf)
    with disk_errors("writing the painted asset", output or run.export):
        origin = origin_of(chosen, chosen.prompt, step)
        return copy_out(give_back(run, scene, step, origin, tuple(maps), output.stem if output else ""), output)


def export_again(run: Run, device: str, changes: Sequence[str] = (), shelf: Lender | None = None) -> list[Path]:
    """Write the files of a run once more, with other settings of `export` if asked (`export.faces=9000`), which the run
    does not keep; never over files of a later step."""
    with run.lock(), said(run), deterministic(run):
        changed = recipe.load(run.recipe_path(), TABLES, overrides=changes)
        wanted, scene, step = finished_scene(run, device, shelf)
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
    strict: bool = False,
    ranks: int = 1,
) -> Run:
    """A run folder with its resolved recipe and the files it names, checked before anything is written; see `plan`.
    So many processes will share it."""
    chosen, files = plan(prompt, source, overrides, negative, image, on_missing, strict)
    check_ranks(chosen, ranks)
    check_models(chosen)
    return Run.create(out, recipe.dump(chosen), chosen.prompt, command, files)


def plan(
    prompt: str | None,
    source: Path,
    overrides: Sequence[str],
    negative: str | None,
    image: Path | None,
    on_missing: str = "fail",
    strict: bool = False,
) -> tuple[Recipe, dict[str, bytes]]:
    """What a run of a recipe would hold, its own recipe and files; no prompt: the recipe's; `image`: a picture to
    follow instead of the recipe's; `on_missing: embedded` takes the embedded prior for models that are not here; what
    the prompt asks for and will not get is said or, if `strict`, refused."""
    if on_missing not in ON_MISSING:
        raise RecipeError(f"--on-missing {on_missing!r}: {' or '.join(ON_MISSING)}")
    chosen = recipe.load(source, TABLES, prompt=prompt, negative=negative, overrides=overrides)
    check_renamed(chosen, prompt, lambda: recipe.load(source, TABLES).prompt)
    if on_missing == "embedded":
        chosen, notes = on_embedded(chosen)
        for note in notes:
            warnings.warn(note, stacklevel=2)
    if image is not None:
        chosen = replace(chosen, image=replace(chosen.image, file=str(image.absolute())))
    asked = placed(chosen, source.parent)
    chosen = apart(asked) or asked
    check(chosen)
    for line, lacks in said_of(asked).items():
        if strict and lacks:
            raise RecipeError(f"prompt: {line} (--strict)")
        warnings.warn(f"prompt: {line}", stacklevel=2)
    return own_files(chosen, source.parent)


def said_of(wanted: Recipe) -> dict[str, bool]:
    """Lines on how the prompt was heard, each once -> whether something will be lacking."""
    heard = heard_apart(wanted)
    read = {line: False for one in heard for line in one.read}
    cut = [
        f"{one.limit} of {one.tokens} tokens are heard; not heard: {short(one.unheard, 120)!r}"
        for one in heard
        if one.unheard
    ]
    return read | dict.fromkeys(cut, True) | {line: True for one in heard for line in one.unmade}


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


def create_painting(
    prompt: str,
    file: Path,
    source: Path,
    out: Path,
    overrides: Sequence[str],
    negative: str | None,
    command: list[str],
    fresh_uv: bool = False,
    up: str = "y",
) -> Run:
    """A run folder that paints a user's mesh, which it keeps as it came; see `painted`."""
    from dreamlab.core.foreign.asset import read_asset
    from dreamlab.intake.painting import keep, taken
    from renderers.surface.canvas import SUFFIX
    from renderers.surface.stretch import canvas_of

    canvas = canvas_of(read_asset(file, "mesh"), str(file), fresh_uv, up)
    given = taken(file)
    for line in canvas.facts["lines"]:
        warnings.warn(line, stacklevel=2)
    settings = list(overrides)
    if any(slot.get("shared", 0) > 0.02 for slot in canvas.facts["slots"]):
        # What several places share must learn from all of them; a field in space would be read at one.
        settings.append("stages.0.scene.material=texture")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, f"asset{SUFFIX}")
        place.write_bytes(canvas.bytes())
        run = create(prompt, source, out, [*settings, f"stages.0.scene.asset={place}"], negative, command)
    keep(run, given)
    return run


def branch(
    run: Run,
    out: Path | None,
    overrides: Sequence[str],
    command: list[str],
    device: str | None = "cpu",
    step: int | None = None,
    prompt: str | None = None,
    negative: str | None = None,
) -> Run:
    """A run of its own that starts where another stands, or where its checkpoint of `step` stood, with other words or
    settings for the steps to come; the other one is left as it is, and may be running. Beside it unless `out` says
    where. To be executed then; no device: on that of the checkpoint."""
    if device is not None:
        known_device(device)
    busy = run.busy()
    with said(run), nullcontext() if busy else run.lock():
        old = load_recipe(run)
        new = recipe.load(run.recipe_path(), TABLES, prompt=prompt, negative=negative, overrides=overrides)
        check_renamed(new, prompt, lambda: old.prompt)
        found = standing(run, step, busy)
        device = str(found.meta.get("device")) if device is None else device
        check_fits(run, old, found, device)
        check(new)
        check_branch(old, new, found.meta)
        stage = found.meta["stage"]
        was, now = (Assembler(each, device, run.path).scenes(each.stages[stage]) for each in (old, new))
        check_shape(was, now, stage)
        new, files = own_files(new, run.path)
        made_at, meta = found.meta["global_step"], found.meta | {"recipe": as_plain(new)}
        # Streams of a checkpoint go on with what its seed began.
        parts = found.parts if new.seed == old.seed else found.parts | {"streams": drawn_anew(new.seed, device)}
        origin = Origin(
            {"run": str(run.path.absolute()), "id": run.spec().get("id"), "step": made_at},
            lambda made: write(made.ckpt, made_at, parts, meta, new.keeping.keep),
        )
        made = Run.create(out or run.path.parent, recipe.dump(new), new.prompt, command, files, origin)
    made.set_state(state="interrupted", step=made_at)
    made.event("branched", **origin.parent)
    return made


def drawn_anew(seed: int, device: str) -> dict[str, torch.Tensor]:
    return Streams(seed, device).state_dict()


def standing(run: Run, step: int | None, busy: bool) -> Checkpoint:
    """A run's checkpoint of some step, or its newest; only read, where another process is at work."""
    newest = step is None and not busy
    found = read_newest(run.ckpt, warn=run.warn) if newest else read_at(run.ckpt, step)
    if found is None:
        raise InputError(f"{run.path}: has no checkpoint yet; continue it with: {shell('resume', run.path)}")
    return found

# SPDX-License-Identifier: Apache-2.0
"""What may change between a checkpoint and the recipe that goes on from it: more steps of the last stage in the same
run, and in a branch, a run of its own, whatever the steps to come alone depend on."""

from __future__ import annotations

import json

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.files import Json
from dreamlab.core.types import Scene
from dreamlab.recipe import Recipe, as_plain, load
from dreamlab.recipe.tables import TABLES
from dreamlab.run.checkpoint import Checkpoint
from dreamlab.run.folder import Run

CHECKPOINT_FORMAT = 1
PARTS = ("scene", "optimiser", "streams")  # what every checkpoint holds, besides what rules remember
META = {"stage": int, "step": int, "global_step": int, "bad_streak": int, "recipe": dict, "device": str}
AFTERWARDS = ("export", "keeping", "guard", "negative")  # they bear on what is to come alone
BRANCHED = ("prompt", "seed", "negative")  # words and draws: so do these in a branch, if there are steps to come


def differences(a: object, b: object, path: str = "") -> list[str]:
    """Dotted names of the values in which two recipes differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        return [name for key in keys for name in differences(a.get(key), b.get(key), f"{path}.{key}".strip("."))]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [name for i in range(len(a)) for name in differences(a[i], b[i], f"{path}.{i}")]
    return [] if a == b else [path]


def check_fits(run: Run, recipe: Recipe, found: Checkpoint, device: str) -> None:
    """A checkpoint of another recipe or format is refused, never half used."""
    meta = found.meta
    if meta.get("format") != CHECKPOINT_FORMAT:
        raise InputError(
            f"{found.path}: checkpoint format {meta.get('format')}, this version reads {CHECKPOINT_FORMAT}"
        )
    sound = all(isinstance(meta.get(name), kind) for name, kind in META.items()) and set(PARTS) <= found.parts.keys()
    if not sound or not (0 <= meta["stage"] < len(recipe.stages) and meta["step"] >= 0):
        raise InputError(f"{found.path}: whole, but nothing that a run can go on from; start a new run")
    if meta["device"] != device:
        raise InputError(f"{found.path}: was made on {meta['device']}; go on with --device {meta['device']}")
    if changed := unlike(meta, recipe):
        shown = ", ".join(changed[:5]) + (" and more" if len(changed) > 5 else "")
        raise InputError(
            f"{found.path}: was made by another recipe than {run.recipe_path().name} beside it ({shown} differ); "
            "put the recipe back as it was, or start a new run"
        )


def unlike(meta: Json, recipe: Recipe) -> list[str]:
    """In what a run's recipe differs from the one its checkpoint was made by; the last stage may have got other steps,
    as long as they are not fewer than were made. What becomes of the result afterwards is free."""
    last = len(recipe.stages) - 1
    open_ended = meta["stage"] < last or recipe.stages[last].steps >= meta["step"]
    changed = differences(as_read_now(meta["recipe"]), as_plain(recipe))
    changed = [name for name in changed if name.split(".")[0] not in AFTERWARDS]
    return [name for name in changed if not (open_ended and name == f"stages.{last}.steps")]


def as_read_now(kept: Json) -> Json:
    """A recipe that an older version wrote down, with the settings that have come since at what they mean when nobody
    gives them; as it is where this version cannot read it."""
    try:
        return as_plain(load(json.dumps(kept), TABLES))
    except RecipeError:
        return kept


def check_branch(old: Recipe, new: Recipe, meta: Json) -> None:
    """Every change must bear on steps to come: one that would do nothing, or belie the past, is refused."""
    stage, step = meta["stage"], meta["step"]
    changed = differences(as_plain(old), as_plain(new))
    for name in changed:
        head, *rest = name.split(".")
        if head in (*AFTERWARDS, *BRANCHED):
            continue
        if head != "stages" or not rest:
            raise RecipeError(f"{name}: a branch cannot change it: what was made so far depends on it; start a new run")
        here = int(rest[0])
        if here < stage:
            raise RecipeError(f"{name}: a change would do nothing, this stage is done; start a new run")
        if here == stage and (rest[1:] in (["scene", "kind"], ["scene", "from"], ["particles"], ["name"])):
            raise RecipeError(f"{name}: a branch goes on with the scene that is there; start a new run")
    steps = new.stages[stage].steps
    if steps < step:
        raise RecipeError(f"stages.{stage}.steps: {step} are made already, {steps} are fewer")
    later = stage + 1 < len(new.stages)
    idle = [name for name in changed if name.startswith(f"stages.{stage}.") or (name in BRANCHED and not later)]
    if steps == step and idle:
        raise RecipeError(
            f"stages.{stage} ({new.stages[stage].name!r}): its {step} steps are made, so a change would do nothing; "
            f"give it more too, e.g. stages.{stage}.steps={2 * step}"
        )


def check_shape(old: Scene, new: Scene, stage: int) -> None:
    """Scenes as two recipes start them hold the same tensors, or the state of one is none of the other."""
    was, now = ({name: tuple(value.shape) for name, value in scene.state_dict().items()} for scene in (old, new))
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            there, here = (list(shapes.get(name, ())) for shapes in (was, now))
            raise RecipeError(
                f"stages.{stage}.scene: starts with another shape, {name} {here} instead of {there}, and a branch "
                "goes on with the scene that is there; start a new run"
            )
